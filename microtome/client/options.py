"""What one call asks for: the options of POST /embed that make sense from Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Dtype = Literal["float32", "float16", "int8", "binary"]
"""How numbers travel and arrive: NumPy's float32, float16, int8, or uint8 with eight signs in each."""

NUMPY: Mapping[str, str] = {"float32": "<f4", "float16": "<f2", "int8": "i1", "binary": "u1"}
"""NumPy's names for them."""

CacheUse = Literal["use", "refresh", "bypass"]


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """Which vectors are wanted.

    Attributes:
        model: which model; None for the server's first.
        version: which version of it; None for the one in use.
        output: which outputs; () for the default output, ("all",) for every one.
        normalize: divide each vector by its Euclidean length, after the cut.
        dimensions: keep only so many numbers from the vector's beginning; None keeps all.
        dtype: how numbers travel and arrive. `int8` needs a model with calibrated ranges; `binary` packs signs, eight
            to a byte, most significant bit first.
        cache: `refresh` computes anew and stores, `bypass` computes anew and does not store.
    """

    model: str | None = None
    version: int | None = None
    output: tuple[str, ...] = ()
    normalize: bool = False
    dimensions: int | None = None
    dtype: Dtype = "float32"
    cache: CacheUse = "use"

    @property
    def several(self) -> bool:
        """Whether vectors of several outputs may come."""
        return len(self.output) > 1 or self.output == ("all",)


def outputs(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Bring what a caller may write for `output` into one form."""
    return () if given is None else (given,) if isinstance(given, str) else tuple(given)
