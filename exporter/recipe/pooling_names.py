"""The notation of poolings: `avg`, `max`, `gem(3)`, `spp(1,2,4)`, `flatten`, `none`, `cls`, `map`."""

import re
from dataclasses import dataclass
from typing import Self

PLAIN = ("avg", "max", "flatten", "none", "cls", "map")
SPELLINGS = (*PLAIN, "gem(p)", "spp(1,2,4)")
PATTERN = r"^(avg|max|flatten|none|cls|map|gem(\([0-9]+(\.[0-9]+)?\))?|spp(\([1-9][0-9]?(, ?[1-9][0-9]?)*\))?)$"
_DEFAULTS = {"gem": "3", "spp": "1,2,4"}


@dataclass(frozen=True, slots=True)
class PoolingName:
    """A parsed pooling.

    Attributes:
        kind: `avg`, `max`, `gem`, `spp`, `flatten`, `none`, `cls` or `map`.
        numbers: The exponent of `gem`, the levels of `spp`; empty for the others.
    """

    kind: str
    numbers: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a pooling; `gem` and `spp` alone mean the usual `gem(3)` and `spp(1,2,4)`.

        Raises:
            ValueError: It is not a pooling.
        """
        if not re.fullmatch(PATTERN, text):
            raise ValueError(text)
        kind, _, rest = text.partition("(")
        rest = rest.rstrip(")") or _DEFAULTS.get(kind, "")
        numbers = tuple(float(number) for number in rest.split(",")) if rest else ()
        if kind == "gem" and numbers[0] <= 0:
            raise ValueError(text)
        return cls(kind, numbers)

    @property
    def of_patches(self) -> bool:
        """Whether it sees a transformer's patches as a map, and none of its other tokens."""
        return self.kind not in ("cls", "flatten", "none")

    def __str__(self) -> str:
        """Return the canonical spelling, as in manifests."""
        return f"{self.kind}({','.join(f'{number:g}' for number in self.numbers)})" if self.numbers else self.kind
