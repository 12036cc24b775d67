"""Write an answer in its form: JSON, MessagePack, raw rows, NumPy's own files.

JSON of float32 is written by orjson straight from the vector's memory; no list of numbers is ever built.
"""

import io
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote
from zipfile import ZipFile

import numpy as np
import orjson
import ormsgpack
from numpy.typing import NDArray

from service.core.requests import Embedded, Embedding, ImageError
from service.core.vectors import Dtype, shaped, written
from service.http import negotiation
from service.http.negotiation import Form
from service.http.parameters import EmbedOptions, Encoding
from service.http.problems import fault


@dataclass(frozen=True, slots=True)
class Answer:
    """A body, and the headers that it needs to be read."""

    body: bytes
    headers: Mapping[str, str]


def encoded(embedded: Embedded, options: EmbedOptions, form: Form, encoding: Encoding) -> Answer:
    """Write an answer in a form that fits the options, see `negotiation.chosen`."""
    return _WRITERS[form.media_type](embedded, options, encoding)


def _document(
    embedded: Embedded, options: EmbedOptions, vector: Callable[[Embedding], object], **more: object
) -> dict[str, Any]:
    return {
        "model": embedded.card.name,
        "version": embedded.card.version,
        "fingerprint": embedded.card.manifest.fingerprint,
        **more,
        "embeddings": [
            {
                "index": e.index,
                "output": e.output,
                "dim": options.dimensions or len(e.vector),
                "vector": vector(e),
                "cache": e.cache,
            }
            for e in embedded.embeddings
        ],
        "errors": [fault(e.index, e.error) for e in embedded.errors],
    }


def _letters(embedding: Embedding, options: EmbedOptions) -> str:
    return b64encode(_cut(embedding, options).astype("<f4", copy=False).tobytes()).decode("ascii")


def _cut(embedding: Embedding, options: EmbedOptions) -> NDArray[np.float32]:
    return shaped(embedding.vector, normalize=options.normalize, dimensions=options.dimensions)


def _json(embedded: Embedded, options: EmbedOptions, encoding: Encoding) -> Answer:
    # Functions of this module, since what is annotated here would be evaluated with each answer.
    document = _document(embedded, options, partial(_letters if encoding == "base64" else _cut, options=options))
    return Answer(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), {})


def _msgpack(embedded: Embedded, options: EmbedOptions, encoding: Encoding) -> Answer:
    outputs = embedded.card.outputs

    def vector(embedding: Embedding) -> object:
        cut = _cut(embedding, options)
        if encoding == "float":
            return cut
        return written(cut[np.newaxis], _dtype(encoding), outputs[embedding.output]).tobytes()

    document = _document(embedded, options, vector, encoding=encoding)
    return Answer(ormsgpack.packb(document, option=ormsgpack.OPT_SERIALIZE_NUMPY), {})


def _rows(embedded: Embedded, options: EmbedOptions, encoding: Encoding) -> Answer:
    ((name, matrix),) = _matrices(embedded, options, encoding).items()
    return Answer(matrix.tobytes(), _row_headers(embedded, name, matrix))


def _npy(embedded: Embedded, options: EmbedOptions, encoding: Encoding) -> Answer:
    ((name, matrix),) = _matrices(embedded, options, encoding).items()
    out = io.BytesIO()
    np.save(out, matrix, allow_pickle=False)
    return Answer(out.getvalue(), _row_headers(embedded, name, matrix))


def _npz(embedded: Embedded, options: EmbedOptions, encoding: Encoding) -> Answer:
    out = io.BytesIO()
    # Not numpy.savez: an output may have the name of one of its parameters.
    with ZipFile(out, "w") as archive:
        for name, matrix in _matrices(embedded, options, encoding).items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, matrix, allow_pickle=False)
    return Answer(out.getvalue(), _index_headers(embedded))


_WRITERS: Mapping[str, Callable[[Embedded, EmbedOptions, Encoding], Answer]] = {
    negotiation.JSON.media_type: _json,
    negotiation.ROWS.media_type: _rows,
    negotiation.NPY.media_type: _npy,
    negotiation.NPZ.media_type: _npz,
    negotiation.MSGPACK.media_type: _msgpack,
}


def _dtype(encoding: Encoding) -> Dtype:
    if encoding in {"float", "base64"}:
        raise AssertionError(f"{encoding} is no encoding of binary answers")
    return encoding  # type: ignore[return-value]  # what is left


def _matrices(embedded: Embedded, options: EmbedOptions, encoding: Encoding) -> dict[str, NDArray[np.generic]]:
    """Return the vectors by output, a row for each image that has them, in the order of the images."""
    vectors: dict[str, list[NDArray[np.float32]]] = {}
    for embedding in embedded.embeddings:
        vectors.setdefault(embedding.output, []).append(_cut(embedding, options))
    outputs = embedded.card.outputs
    return {name: written(np.stack(rows), _dtype(encoding), outputs[name]) for name, rows in vectors.items()}


def _row_headers(embedded: Embedded, output: str, matrix: NDArray[np.generic]) -> dict[str, str]:
    shape = ",".join(map(str, matrix.shape))
    return {"X-Output": in_header(output), "X-Dtype": str(matrix.dtype), "X-Shape": shape, **_index_headers(embedded)}


def _index_headers(embedded: Embedded) -> dict[str, str]:
    """Say which images the rows belong to and what is wrong with the others, when some were skipped."""
    errors: Sequence[ImageError] = embedded.errors
    if not errors:
        return {}
    rows = ",".join(map(str, dict.fromkeys(e.index for e in embedded.embeddings)))
    bad = ",".join(f"{e.index}={str(fault(e.index, e.error)['type']).rpartition(':')[2]}" for e in errors)
    return {"X-Index": rows, "X-Errors": bad}


def in_header(name: str) -> str:
    """Write a name so that a header can hold it: percent-encoded where it is not printable ASCII."""
    return name if name.isascii() and name.isprintable() else quote(name)
