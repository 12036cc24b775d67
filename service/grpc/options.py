"""The options of a call, checked as those of POST /embed are, in the same words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from microtome.v1 import embedding_pb2 as pb
from service.core.requests import CacheUse, EmbedRequest, OnError
from service.core.vectors import Dtype
from service.errors import BadRequest

Meaning = TypeVar("Meaning")

DTYPES: Mapping[int, Dtype] = {
    pb.DTYPE_UNSPECIFIED: "float32",
    pb.DTYPE_FLOAT32: "float32",
    pb.DTYPE_FLOAT16: "float16",
    pb.DTYPE_INT8: "int8",
    pb.DTYPE_BINARY: "binary",
}
_ON_ERROR: Mapping[int, OnError] = {pb.ON_ERROR_UNSPECIFIED: "fail", pb.ON_ERROR_FAIL: "fail", pb.ON_ERROR_SKIP: "skip"}
_CACHE: Mapping[int, CacheUse] = {
    pb.CACHE_USE_UNSPECIFIED: "use",
    pb.CACHE_USE_USE: "use",
    pb.CACHE_USE_REFRESH: "refresh",
    pb.CACHE_USE_BYPASS: "bypass",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call asks for: of the core, and of how vectors are written."""

    request: EmbedRequest
    normalize: bool
    dimensions: int | None
    dtype: Dtype


def read_options(options: pb.EmbedOptions, default_model: str) -> Asked:
    """Read the options of one call.

    Raises:
        BadRequest: a value that does not fit, or that this server does not know.
    """
    if "" in options.outputs:
        raise BadRequest("Expected `outputs` to be names of outputs, or `all`; received an empty name.")
    request = EmbedRequest(
        options.model or default_model,
        _number("version", options.version),
        tuple(dict.fromkeys(options.outputs)),
        _known("cache", _CACHE, options.cache, pb.CacheUse.keys()),
        _known("on_error", _ON_ERROR, options.on_error, pb.OnError.keys()),
    )
    dtype = _known("dtype", DTYPES, options.dtype, pb.Dtype.keys())
    return Asked(request, options.normalize, _number("dimensions", options.dimensions), dtype)


def _number(name: str, value: int) -> int | None:
    if value < 0:
        raise BadRequest(f"Expected `{name}` to be a whole number from 1 up, or 0 for the default; received {value}.")
    return value or None


def _known(name: str, meanings: Mapping[int, Meaning], value: int, names: list[str]) -> Meaning:
    # An open enum lets numbers through that a later version of the contract may have.
    if value not in meanings:
        raise BadRequest(f"Expected `{name}` to be one of {', '.join(names)}; received {value}.")
    return meanings[value]
