"""Which pixels a position of a feature map sees: the arithmetic of receptive fields.

After Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019: position i
of a feature map sees the pixels from `stride * i + first` to `stride * i + last`, padding included, and every layer
maps one such interval to the next. Where branches meet, the union is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Span:
    """What a position sees along one axis.

    Attributes:
        stride: Pixels from one position to the next.
        first: First pixel that position 0 sees; negative within the padding.
        last: Last pixel that position 0 sees.
    """

    stride: Fraction = Fraction(1)
    first: Fraction = Fraction(0)
    last: Fraction = Fraction(0)

    @property
    def size(self) -> int:
        """Pixels that are seen."""
        return int(self.last - self.first) + 1

    def windowed(self, size: int, stride: int, padding: int) -> Span:
        """See through a window that slides.

        Args:
            size: Positions in the window, dilation included.
            stride: Positions from one window to the next.
            padding: Positions before the first that the first window begins at.
        """
        first = self.first - self.stride * padding
        return Span(self.stride * stride, first, self.last + self.stride * (size - 1 - padding))

    def enlarged(self, factor: int) -> Span:
        """See through an enlargement that repeats positions."""
        stride = self.stride / factor
        return Span(stride, self.first - stride * (factor - 1), self.last)


@dataclass(frozen=True, slots=True)
class Field:
    """What a tensor's positions see.

    Attributes:
        spans: Along height and along width; None when the tensor has no positions any more.
        whole: Whether the whole image is seen: once space has been pooled away, and where a gate (squeeze and excite)
            multiplies every position by something that comes from all of them.
        known: Whether the layers up to here are of kinds that this arithmetic knows.
    """

    spans: tuple[Span, Span] | None = (Span(), Span())
    whole: bool = False
    known: bool = True

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width in pixels; gates are left out. None when there are no positions, or it is not known."""
        return (self.spans[0].size, self.spans[1].size) if self.known and self.spans else None

    @property
    def stride(self) -> tuple[Fraction, Fraction] | None:
        """Height and width in pixels; None when there are no positions, or it is not known."""
        return (self.spans[0].stride, self.spans[1].stride) if self.known and self.spans else None

    def over(self, height: Span, width: Span) -> Field:
        """Return the same with other spans."""
        return replace(self, spans=(height, width))


PIXELS = Field()
EVERYTHING = Field(spans=None, whole=True)
UNKNOWN = Field(spans=None, known=False)


def merged(fields: Iterable[Field]) -> Field:
    """See what any of several tensors sees, position by position."""
    several = list(fields)
    if not all(field.known for field in several):
        return UNKNOWN
    spatial = [field.spans for field in several if field.spans is not None]
    whole = any(field.whole for field in several)
    if not spatial:
        return Field(spans=None, whole=whole)
    axes = [_union([spans[axis] for spans in spatial]) for axis in range(2)]
    if axes[0] is None or axes[1] is None:
        return UNKNOWN
    return Field((axes[0], axes[1]), whole=whole)


def _union(spans: list[Span]) -> Span | None:
    if len({span.stride for span in spans}) > 1:
        return None
    return Span(spans[0].stride, min(span.first for span in spans), max(span.last for span in spans))
