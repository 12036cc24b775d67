"""Vectors as messages, written by hand: building them of protobuf's objects takes seven times as long.

What is the same for many vectors, all but their numbers, is protobuf's work, done once.
"""

from functools import lru_cache

import numpy as np

from microtome.manifest import ModelCard, OutputSpec
from microtome.v1 import embedding_pb2 as pb
from service.core.requests import Embedded, Embedding, Source
from service.core.vectors import Dtype, checked_dimensions, shaped, written
from service.delimited import opening
from service.grpc.details import described
from service.grpc.options import Asked

_DTYPE: dict[Dtype, pb.Dtype] = {
    "float32": pb.DTYPE_FLOAT32,
    "float16": pb.DTYPE_FLOAT16,
    "int8": pb.DTYPE_INT8,
    "binary": pb.DTYPE_BINARY,
}
_CACHE: dict[Source, pb.CacheResult] = {
    "hit": pb.CACHE_RESULT_HIT,
    "miss": pb.CACHE_RESULT_MISS,
    "coalesced": pb.CACHE_RESULT_COALESCED,
}
_DATA = pb.Embedding.DATA_FIELD_NUMBER
_EMBEDDINGS = pb.ImageResult.EMBEDDINGS_FIELD_NUMBER


def results(embedded: Embedded, asked: Asked, images: int) -> list[bytes]:
    """Write an answer: a serialised `ImageResult` for each of the request's images in their order.

    Raises:
        BadRequest: the version that answered has shorter vectors than were asked for, or no ranges for int8.
    """
    found = [b""] * images
    outputs = embedded.card.outputs
    if asked.dimensions is not None:
        checked_dimensions(asked.dimensions, [outputs[name] for name in {e.output for e in embedded.embeddings}])
    for embedding in embedded.embeddings:
        found[embedding.index] += _embedding(embedding, asked, outputs[embedding.output])
    for error in embedded.errors:
        found[error.index] = pb.ImageResult(error=described(error.error)).SerializeToString()
    return found


def version_of(card: ModelCard) -> bytes:
    """Write who answered, as a serialised `ModelVersion`."""
    return _version(card.name, card.version, card.manifest.fingerprint)


def field(number: int, message: bytes) -> bytes:
    """Write a message as a field of another."""
    return opening(number, len(message)) + message


@lru_cache(16)
def _version(name: str, version: int, fingerprint: str) -> bytes:
    return pb.ModelVersion(name=name, version=version, fingerprint=fingerprint).SerializeToString()


@lru_cache(256)
def _head(output: str, dtype: Dtype, shape: tuple[int, ...], cache: Source) -> bytes:
    """Write all of an `Embedding` but its numbers."""
    return pb.Embedding(output=output, dtype=_DTYPE[dtype], shape=shape, cache=_CACHE[cache]).SerializeToString()


def _embedding(embedding: Embedding, asked: Asked, output: OutputSpec) -> bytes:
    cut = shaped(embedding.vector, normalize=asked.normalize, dimensions=asked.dimensions)
    if asked.dtype == "float32":
        data = cut.astype("<f4", copy=False).tobytes()
    else:
        data = written(cut[np.newaxis], asked.dtype, output).tobytes()
    shape = output.shape if asked.dimensions is None else (asked.dimensions,)
    head = _head(embedding.output, asked.dtype, shape, embedding.cache) + opening(_DATA, len(data))
    return b"".join((opening(_EMBEDDINGS, len(head) + len(data)), head, data))
