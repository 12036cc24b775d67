"""Vectors as clients of this contract read them: numbers, base64, or nothing but bytes."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

from service.core.requests import Embedded
from service.errors import BadRequest
from service.http.compat.documents import choice
from service.http.compat.number_types import CALIBRATED, KINDS, Shape, base64_of, shape_of

FIELDS = (
    *("encoding_format", "dimensions", "normalized", "normalize"),
    *("embedding_type", "encoding_type", "embed_dtype", "endianness"),
)

_BYTES = {
    ("float32", "little"): "<f4",
    ("float32", "big"): ">f4",
    ("float16", "little"): "<f2",
    ("float16", "big"): ">f2",
}
_LARGEST_FLOAT16 = 65504.0


@dataclass(frozen=True, slots=True)
class Answering:
    """How the vectors of one request are written.

    Attributes:
        model: its name, as it was asked for.
        shape: which numbers of each vector.
        kind: one of `KINDS`.
        form: `float` for lists of numbers, `base64` for strings, `bytes` for nothing but bytes.
        dtype: numpy's name of the numbers in bytes.
    """

    model: str
    shape: Shape
    kind: str
    form: str
    dtype: str = "<f4"

    @property
    def calibrated(self) -> bool:
        """Whether ranges are needed."""
        return self.kind in CALIBRATED

    def __call__(self, embedded: Embedded) -> Response:
        """Write an answer."""
        rows = self.shape.rows(embedded, self.kind)
        usage = {"prompt_tokens": len(rows), "total_tokens": len(rows)}
        head = {"id": f"embd-{uuid4().hex}", "created": int(time.time()), "model": self.model, "usage": usage}
        if self.form == "bytes":
            return _bytes(rows, head, self.dtype)
        data = [
            {"object": "embedding", "index": index, "embedding": base64_of(row) if self.form == "base64" else row}
            for index, row in enumerate(rows)
        ]
        body = orjson.dumps({"object": "list", "data": data, **head}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, media_type="application/json")


def _bytes(rows: NDArray[np.generic], head: Mapping[str, object], dtype: str) -> Response:
    """Write rows one after another; where each stands is said in the header `metadata`, as vLLM does."""
    # Beyond a half's range its largest number, as POST /embed has it.
    rows = (np.clip(rows, -_LARGEST_FLOAT16, _LARGEST_FLOAT16) if dtype.endswith("f2") else rows).astype(dtype)
    name, order = next(key for key, value in _BYTES.items() if value == dtype)
    size = rows[0].nbytes
    items = [
        {
            "index": index,
            "embed_dtype": name,
            "endianness": order,
            "start": index * size,
            "end": (index + 1) * size,
            "shape": list(row.shape),
        }
        for index, row in enumerate(rows)
    ]
    metadata = orjson.dumps({**head, "data": items}).decode("ascii")
    return Response(rows.tobytes(), headers={"metadata": metadata}, media_type="application/octet-stream")


def answering(fields: Mapping[str, object], model: str) -> Answering:
    """Read how vectors shall be written.

    Args:
        fields: of the request.
        model: which answers when none is named.

    Raises:
        BadRequest: in a way that there is not, or in two at once.
    """
    kind = _kind(fields)
    form = choice(fields, "encoding_format", ("float", "base64", "bytes"), "float")
    if kind == "base64":
        kind, form = "float", "base64"
    if form == "bytes" and kind != "float":
        raise BadRequest(f"Expected `encoding_format` to be float with vectors of {kind}; received bytes.")
    if kind != "float":
        # OpenAI's clients ask for base64 unless told otherwise, and read whatever comes in it as float32.
        form = "float"
    order = choice(fields, "endianness", ("native", "little", "big"), "little").replace("native", "little")
    number = choice(fields, "embed_dtype", ("float32", "float16"), "float32")
    if form != "bytes" and (number, order) != ("float32", "little"):
        raise BadRequest('Expected `embed_dtype` and `endianness` with `"encoding_format": "bytes"` only.')
    if "normalize" in fields and "normalized" in fields:
        raise BadRequest("Expected one of `normalize` and `normalized`, received both.")
    shape = shape_of(fields, dimensions="dimensions", normalize="normalize" if "normalize" in fields else "normalized")
    return Answering(str(fields.get("model", model)), shape, kind, form, _BYTES[number, order])


def _kind(fields: Mapping[str, object]) -> str:
    """Read the number type: Jina's clients call it `embedding_type`, older ones `encoding_type`; some send a list."""
    if "embedding_type" in fields and "encoding_type" in fields:
        raise BadRequest("Expected one of `embedding_type` and `encoding_type`, received both.")
    name = "encoding_type" if "encoding_type" in fields else "embedding_type"
    value = fields.get(name, "float")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return choice({name: value}, name, (*KINDS, "base64"), "float")
