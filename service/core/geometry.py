"""Where the pixels that a model sees lie in an image: the resize and crop rules of the manifest, as arithmetic."""

from typing import NamedTuple

from service.core.manifest import InputSpec


class Placement(NamedTuple):
    """Resize the image to `size` (width, height), then cut the model's window with its corner at (left, top)."""

    size: tuple[int, int]
    left: int
    top: int


def place(stored: tuple[int, int], spec: InputSpec) -> Placement:
    """Say how an image of `stored` (width, height) pixels, seen upright, becomes the model's window.

    * squash: resized to the window, aspect ratio ignored; `keras.utils.load_img(target_size=…)`.
    * shortest-side: the shorter side becomes `shortest_side`, the longer one follows, rounded down; then the centre is
      cut out. The arithmetic is torchvision's `Resize` and `CenterCrop`, so that vectors compare with everybody's.
    * letterbox: the longer side fits the window, and the rest is black, equally on both sides.
    """
    width, height = stored
    if spec.resize == "squash":
        return Placement((spec.width, spec.height), 0, 0)
    if spec.resize == "shortest-side":
        side = spec.shortest_side or min(spec.width, spec.height)
        size = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
        return _centered(size, spec)
    ratio = min(spec.width / width, spec.height / height)
    return _centered((max(1, round(width * ratio)), max(1, round(height * ratio))), spec)


def _centered(size: tuple[int, int], spec: InputSpec) -> Placement:
    return Placement(size, round((size[0] - spec.width) / 2), round((size[1] - spec.height) / 2))
