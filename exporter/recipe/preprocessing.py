"""How an image becomes the pixels that a model takes: defaults of the backbone, overridden by the recipe.

The gateway does what this says, so whatever is said here must be possible: a resize to the shorter side leaves
images of many shapes, which only a crop makes equal.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

RESIZES = ("shortest-side", "squash", "letterbox")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
CROPS = ("center", "none")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From an encoded image to uint8 pixels of `[height, width, 3]`, RGB.

    Attributes:
        height: Pixels.
        width: Pixels.
        resize: One of `RESIZES`.
        shortest_side: Pixels of the shorter side after resizing; None unless `resize` is `shortest-side`.
        interpolation: One of `INTERPOLATIONS`.
        crop: One of `CROPS`.
        exif_orientation: Whether to turn the image the way its EXIF data says.
        jpeg_draft: Whether the decoder may use libjpeg's scaled decoding.
    """

    height: int
    width: int
    resize: str = "shortest-side"
    shortest_side: int | None = None
    interpolation: str = "bilinear"
    crop: str = "center"
    exif_orientation: bool = True
    jpeg_draft: bool = True

    def to_manifest(self) -> dict[str, Any]:
        """Return the `input` object of the manifest."""
        return {"color": "rgb", **asdict(self)}

    def impossibilities(self) -> list[str]:
        """Say what cannot be done about this, one sentence each; empty when all is well."""
        found = []
        if (self.resize == "shortest-side") != (self.crop == "center"):
            found.append(
                "expected crop: center with resize: shortest-side, and crop: none with squash or letterbox. "
                f"Received: resize: {self.resize}, crop: {self.crop}."
            )
        if (self.resize == "shortest-side") != (self.shortest_side is not None):
            found.append(
                "expected shortest_side with resize: shortest-side, and nowhere else. "
                f"Received: resize: {self.resize}, shortest_side: {self.shortest_side}."
            )
        longest = max(self.height, self.width)
        if self.shortest_side is not None and self.shortest_side < longest:
            found.append(f"expected shortest_side of at least {longest} pixels. Received: {self.shortest_side}.")
        return found


def resolve(default: Preprocessing, overrides: Mapping[str, Any]) -> Preprocessing:
    """Lay a recipe's `input` over the backbone's default.

    What is not said follows what is: another size keeps the default's proportion of crop to image, and a resize
    that fills the whole input needs no crop.

    Args:
        default: The backbone's own.
        overrides: Field names of `Preprocessing` with valid values; any of them may be absent.
    """
    chosen = dict(overrides)
    if chosen.get("resize", default.resize) == "shortest-side":
        chosen.setdefault("crop", "center")
        longest = max(chosen.get("height", default.height), chosen.get("width", default.width))
        scale = longest / max(default.height, default.width)
        chosen.setdefault("shortest_side", round((default.shortest_side or longest) * scale))
    else:
        chosen.setdefault("crop", "none")
        chosen.setdefault("shortest_side", None)
    return Preprocessing(**{**asdict(default), **chosen})
