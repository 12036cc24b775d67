"""Write the responses of POST /embed and POST /classify: JSON, MessagePack, raw rows, or NumPy's file formats.

orjson writes JSON of float32 directly from the vector's memory; no list of numbers is built.
"""

import io
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache, partial
from http import HTTPStatus
from math import prod
from typing import Any, NamedTuple, cast
from urllib.parse import quote
from zipfile import ZipFile

import numpy as np
import orjson
import ormsgpack
from numpy.typing import NDArray

from microtome.errors import BadRequest
from microtome.manifest import ModelCard, OutputSpec
from microtome.regions import WHOLE, Region
from service.core.classes import ClassOptions, predictions
from service.core.requests import Embedded, Embedding, ImageError
from service.core.timings import Timings, timed
from service.core.vectors import Dtype, heat, shaped, written
from service.http import negotiation
from service.http.negotiation import Encoding
from service.http.parameters import ClassifyOptions, EmbedOptions, Parameters
from service.http.problems import image_problem

RawHeaders = list[tuple[bytes, bytes]]


class RawResponse(NamedTuple):
    """A response whose headers are complete and encoded; the names are those of Starlette's response."""

    status_code: int
    raw_headers: RawHeaders
    body: bytes


def write(
    embedded: Embedded,
    parameters: Parameters,
    timings: Timings,
    *,
    classes: bool = False,
    regions: Sequence[Region] = (),
) -> tuple[RawResponse, bool]:
    """Encode vectors, or the classes that they stand for, and write the headers that say where they come from.

    Args:
        embedded: the vectors.
        parameters: of the request.
        timings: told how long encoding takes.
        classes: whether classes are answered.
        regions: of each image; none where all of each was wanted.

    Returns:
        The response without its Server-Timing, and whether all its vectors come from the cache.
    """
    if embedded.text is not None and parameters.encoding == "int8":
        raise BadRequest(
            "Expected an encoding other than int8 for images and texts together: each tower has ranges of its own, so "
            "that their numbers could not be compared."
        )
    with timed(timings.stage, "encode"):
        writer = _classes if classes else _WRITERS[parameters.form.media_type]
        body, more = writer(embedded, parameters.options, parameters.encoding, regions)
    sources = {e.cache for e in embedded.embeddings}
    source = sources.pop() if len(sources) == 1 else "mixed"
    headers = [
        *_origin(embedded, source, parameters.form.media_type),
        (b"content-length", b"%d" % len(body)),
        *_raw_headers(more),
    ]
    status = HTTPStatus.MULTI_STATUS if embedded.errors else HTTPStatus.OK
    return RawResponse(status, headers, body), source == "hit"


def _raw_headers(headers: Mapping[str, str]) -> RawHeaders:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def _origin(embedded: Embedded, source: str, media_type: str) -> RawHeaders:
    """Say where vectors come from; of two towers, the image tower first."""
    card, text = embedded.card, embedded.text
    manifest = card.manifest
    if text is None:
        space = manifest.space or ""
        tower = manifest.tower if manifest.family else ""
        return _provenance(card.name, str(card.version), manifest.fingerprint, source, media_type, tower, space)
    return _provenance(
        f"{card.name}, {text.name}",
        f"{card.version}, {text.version}",
        f"{manifest.fingerprint}, {text.manifest.fingerprint}",
        source,
        media_type,
        "image, text",
        manifest.space or "",
    )


@lru_cache(64)
def _provenance(  # noqa: PLR0913, PLR0917, the headers
    model: str, version: str, fingerprint: str, source: str, media_type: str, tower: str, space: str
) -> RawHeaders:
    towers = {"X-Tower": tower, "X-Space": space} if tower else {}
    return _raw_headers(
        {
            "X-Model": in_header(model),
            "X-Model-Version": version,
            "X-Fingerprint": fingerprint,
            **towers,
            "X-Cache": source,
            "Vary": "Accept",
            "Content-Type": media_type,
        }
    )


_Answer = tuple[bytes, Mapping[str, str]]
"""A body, and the headers that describe it."""


def _document(
    embedded: Embedded,
    options: EmbedOptions,
    vector: Callable[[Embedding], object],
    regions: Sequence[Region],
    **more: object,
) -> dict[str, Any]:
    manifest = embedded.card.manifest
    document: dict[str, Any] = {
        "model": embedded.card.name,
        "version": embedded.card.version,
        "fingerprint": manifest.fingerprint,
        **({"towers": [tower_of(card) for card in embedded.cards]} if manifest.family else {}),
        **more,
        "embeddings": [
            {
                "index": e.index,
                "output": e.output,
                "dim": options.dimensions or (prod(embedded.output(e).shape[:-1]) if options.heat else len(e.vector)),
                "vector": vector(e),
                "cache": e.cache,
            }
            for e in embedded.embeddings
        ],
        "errors": [image_problem(e.index, e.error) for e in embedded.errors],
    }
    if manifest.family:
        for entry, embedding in zip(document["embeddings"], embedded.embeddings, strict=True):
            entry["tower"] = embedded.card_of(embedding).manifest.tower
    if regions:
        for name in ("embeddings", "errors", "predictions"):
            entries = [each if isinstance(each, dict) else asdict(each) for each in document.get(name, ())]
            document[name] = [_placed(entry, regions[entry["index"]]) for entry in entries]
        if "predictions" not in more:
            del document["predictions"]
    return document


def tower_of(card: ModelCard) -> dict[str, object]:
    """Describe a version of a tower, as answers do."""
    return {
        "tower": card.manifest.tower,
        "model": card.name,
        "version": card.version,
        "fingerprint": card.manifest.fingerprint,
        "space": card.manifest.space,
    }


def _placed(entry: dict[str, Any], region: Region) -> dict[str, Any]:
    """Tell which region an entry is of, unless it is of all of the image."""
    return entry if region == WHOLE else {"index": entry["index"], "crop": list(region), **entry}


def _letters(embedding: Embedding, options: EmbedOptions, embedded: Embedded) -> str:
    return b64encode(_cut(embedding, options, embedded).astype("<f4", copy=False).tobytes()).decode("ascii")


def _cut(embedding: Embedding, options: EmbedOptions, embedded: Embedded) -> NDArray[np.float32]:
    if options.heat:
        return heat(embedding.vector, embedded.output(embedding))
    return shaped(embedding.vector, normalize=options.normalize, dimensions=options.dimensions)


def _json(embedded: Embedded, options: EmbedOptions, encoding: Encoding, regions: Sequence[Region]) -> _Answer:
    # A partial of a module's function: an inner function's annotations would be evaluated for each response.
    vector = _letters if encoding == "base64" else _cut
    document = _document(embedded, options, partial(vector, options=options, embedded=embedded), regions)
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), {}


def _classes(embedded: Embedded, options: EmbedOptions, encoding: Encoding, regions: Sequence[Region]) -> _Answer:
    """Write labels of outputs with classes, and vectors of the others."""
    wanted = cast("ClassifyOptions", options)
    found = predictions(embedded, ClassOptions(wanted.top_k, wanted.min_score, wanted.function))
    vectors = [embedding for embedding in embedded.embeddings if not embedded.output(embedding).classes]
    rest = replace(embedded, embeddings=vectors)
    vector = partial(_letters if encoding == "base64" else _cut, options=options, embedded=embedded)
    document = _document(rest, options, vector, regions, predictions=found)
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), {}


def _msgpack(embedded: Embedded, options: EmbedOptions, encoding: Encoding, regions: Sequence[Region]) -> _Answer:
    def vector(embedding: Embedding) -> object:
        cut = _cut(embedding, options, embedded)
        if encoding == "float":
            return cut
        return written(cut[np.newaxis], _dtype(encoding), embedded.output(embedding)).tobytes()

    document = _document(embedded, options, vector, regions, encoding=encoding)
    return ormsgpack.packb(document, option=ormsgpack.OPT_SERIALIZE_NUMPY), {}


def _rows(embedded: Embedded, options: EmbedOptions, encoding: Encoding, _: Sequence[Region]) -> _Answer:
    name, matrix = _matrix(embedded, options, encoding)
    return matrix.tobytes(), _row_headers(embedded, name, matrix)


def _npy(embedded: Embedded, options: EmbedOptions, encoding: Encoding, _: Sequence[Region]) -> _Answer:
    name, matrix = _matrix(embedded, options, encoding)
    out = io.BytesIO()
    np.save(out, matrix, allow_pickle=False)
    return out.getvalue(), _row_headers(embedded, name, matrix)


def _npz(embedded: Embedded, options: EmbedOptions, encoding: Encoding, _: Sequence[Region]) -> _Answer:
    out = io.BytesIO()
    # numpy.savez would fail for an output named like one of its parameters.
    with ZipFile(out, "w") as archive:
        for name, matrix in _matrices(embedded, options, encoding).items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, matrix, allow_pickle=False)
    return out.getvalue(), _index_headers(embedded)


_WRITERS: Mapping[str, Callable[[Embedded, EmbedOptions, Encoding, Sequence[Region]], _Answer]] = {
    negotiation.JSON.media_type: _json,
    negotiation.ROWS.media_type: _rows,
    negotiation.NPY.media_type: _npy,
    negotiation.NPZ.media_type: _npz,
    negotiation.MSGPACK.media_type: _msgpack,
}


def _dtype(encoding: Encoding) -> Dtype:
    if encoding in {"float", "base64"}:
        raise AssertionError(f"{encoding} is no encoding of binary responses")
    return encoding  # type: ignore[return-value]  # the others are binary


def _matrices(embedded: Embedded, options: EmbedOptions, encoding: Encoding) -> dict[str, NDArray[np.generic]]:
    """Return the vectors by output, [N, D] each: one row for each item that has them, in the order of the request.

    Raises:
        BadRequest: both towers have an output of this name, of different lengths.
    """
    vectors: dict[str, list[NDArray[np.float32]]] = {}
    outputs: dict[str, OutputSpec] = {}
    for embedding in embedded.embeddings:
        rows = vectors.setdefault(embedding.output, [])
        rows.append(_cut(embedding, options, embedded))
        if len(rows[0]) != len(rows[-1]):
            raise BadRequest(
                f"Expected outputs of equal lengths for this form of answer; those named {embedding.output!r} have "
                f"{len(rows[0])} and {len(rows[-1])} numbers. Take JSON or MessagePack."
            )
        outputs.setdefault(embedding.output, embedded.output(embedding))
    return {name: written(np.stack(rows), _dtype(encoding), outputs[name]) for name, rows in vectors.items()}


def _matrix(embedded: Embedded, options: EmbedOptions, encoding: Encoding) -> tuple[str, NDArray[np.generic]]:
    """Return the only output's name and vectors, [N, D].

    Raises:
        BadRequest: the default outputs of two towers have different names.
    """
    (name, matrix), *more = _matrices(embedded, options, encoding).items()
    if more:
        raise BadRequest(
            f"Expected one output of both towers for this form of answer; received {name!r} and {more[0][0]!r}. Name "
            "one that both have, or take JSON, MessagePack or npz."
        )
    return name, matrix


def _row_headers(embedded: Embedded, output: str, matrix: NDArray[np.generic]) -> dict[str, str]:
    shape = ",".join(map(str, matrix.shape))
    return {"X-Output": in_header(output), "X-Dtype": str(matrix.dtype), "X-Shape": shape, **_index_headers(embedded)}


def _index_headers(embedded: Embedded) -> dict[str, str]:
    """If images were skipped: the indexes of the rows' images, and the errors of the skipped ones."""
    errors: Sequence[ImageError] = embedded.errors
    if not errors:
        return {}
    rows = ",".join(map(str, dict.fromkeys(e.index for e in embedded.embeddings)))
    bad = ",".join(f"{e.index}={str(image_problem(e.index, e.error)['type']).rpartition(':')[2]}" for e in errors)
    return {"X-Index": rows, "X-Errors": bad}


def in_header(name: str) -> str:
    """Return a name for a header: percent-encoded if it is not printable ASCII."""
    return name if name.isascii() and name.isprintable() else quote(name)
