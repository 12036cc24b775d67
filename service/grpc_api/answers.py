"""Vectors as messages: numbers packed, straight from the array's memory."""

from collections.abc import Sequence

import numpy as np

from microtome.v1 import embedding_pb2 as pb
from service.embedding.manifest import ModelCard, OutputSpec
from service.embedding.request import Embedded, Embedding, Source
from service.embedding.vectors import Dtype, checked_dimensions, shaped, written
from service.grpc_api.details import described
from service.grpc_api.options import Asked

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


def results(embedded: Embedded, asked: Asked, images: int) -> Sequence[pb.ImageResult]:
    """Write an answer, a result for each of the request's images in their order.

    Raises:
        BadRequest: the version that answered has shorter vectors than were asked for, or no ranges for int8.
    """
    found = [pb.ImageResult() for _ in range(images)]
    outputs = embedded.card.outputs
    if asked.dimensions is not None:
        checked_dimensions(asked.dimensions, [outputs[name] for name in {e.output for e in embedded.embeddings}])
    for embedding in embedded.embeddings:
        found[embedding.index].embeddings.append(_embedding(embedding, asked, outputs[embedding.output]))
    for error in embedded.errors:
        found[error.index].error.CopyFrom(described(error.error))
    return found


def version_of(card: ModelCard) -> pb.ModelVersion:
    """Say who answered."""
    return pb.ModelVersion(name=card.name, version=card.version, fingerprint=card.manifest.fingerprint)


def _embedding(embedding: Embedding, asked: Asked, output: OutputSpec) -> pb.Embedding:
    cut = shaped(embedding.vector, normalize=asked.normalize, dimensions=asked.dimensions)
    if asked.dtype == "float32":
        data = cut.astype("<f4", copy=False).tobytes()
    else:
        data = written(cut[np.newaxis], asked.dtype, output).tobytes()
    return pb.Embedding(
        output=embedding.output,
        dtype=_DTYPE[asked.dtype],
        shape=output.shape if asked.dimensions is None else (asked.dimensions,),
        data=data,
        cache=_CACHE[embedding.cache],
    )
