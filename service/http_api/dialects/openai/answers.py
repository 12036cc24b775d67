"""Vectors as clients of this contract read them."""

import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

from service.embedding.request import Embedded
from service.embedding.vectors import shaped
from service.http_api.dialects.documents import choice

FIELDS = ("encoding_format", "dimensions", "normalize", "normalized")


@dataclass(frozen=True, slots=True)
class Answering:
    """How the vectors of one request are written.

    Attributes:
        model: its name, as it was asked for.
        encoding: `float` writes numbers, `base64` little-endian float32.
        dimensions: numbers kept of each vector, before it is normalised; None keeps all.
        normalize: whether vectors get the length 1.
    """

    model: str
    encoding: str
    dimensions: int | None
    normalize: bool

    def __call__(self, embedded: Embedded) -> Response:
        """Write an answer."""
        vectors = [shaped(e.vector, normalize=self.normalize, dimensions=self.dimensions) for e in embedded.embeddings]
        count = len(vectors)
        body = {
            "object": "list",
            "id": f"embd-{uuid4().hex}",
            "created": int(time.time()),
            "model": self.model,
            "data": [
                {"object": "embedding", "index": index, "embedding": self._written(vector)}
                for index, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": count, "total_tokens": count},
        }
        return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")

    def _written(self, vector: NDArray[np.float32]) -> object:
        if self.encoding == "base64":
            return b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")
        return vector


def encoding_of(fields: Mapping[str, object]) -> str:
    """Read how numbers shall be written.

    Raises:
        BadRequest: in a way that there is not.
    """
    return choice(fields, "encoding_format", ("float", "base64"), "float")
