"""Read a recipe's `input`: from an image to pixels, and from pixels to what the backbone wants."""

from __future__ import annotations

from typing import Any, get_args

from exporter.backbones import Scaling
from exporter.located import Located
from exporter.preprocessing import CROPS, INTERPOLATIONS, RESIZES, Preprocessing, resolve
from exporter.strictness import Checker

KEYS = ("size", "resize", "shortest_side", "interpolation", "crop", "exif_orientation", "jpeg_draft", "scaling")
SCALINGS = get_args(Scaling)


def read_input(check: Checker, at: Located | None, default: Preprocessing) -> Preprocessing:
    """Read `input`, with the backbone's own for what is not said."""
    if at is None:
        return default
    found = check.mapping(at, required=(), optional=KEYS)
    chosen: dict[str, Any] = {}
    if "size" in found:
        chosen["height"], chosen["width"] = _size(check, found["size"], default)
    for key, choices in (("resize", RESIZES), ("interpolation", INTERPOLATIONS), ("crop", CROPS)):
        if key in found:
            chosen[key] = check.choice(found[key], choices, getattr(default, key))
    if "shortest_side" in found:
        chosen["shortest_side"] = check.integer(found["shortest_side"], default.shortest_side or default.height)
    for key in ("exif_orientation", "jpeg_draft"):
        if key in found:
            chosen[key] = check.boolean(found[key], getattr(default, key))
    resolved = resolve(default, chosen)
    for problem in resolved.impossibilities():
        check.note(at, problem)
    return resolved


def read_scaling(check: Checker, at: Located | None) -> str | None:
    """Read `input.scaling`; None when the backbone's own is meant. What else is wrong there is `read_input`'s."""
    if at is None or not isinstance(at.value, dict) or "scaling" not in at.value:
        return None
    return check.choice(at.value["scaling"], SCALINGS, "none")


def _size(check: Checker, at: Located, default: Preprocessing) -> tuple[int, int]:
    """Read `224` or `[height, width]`."""
    if not isinstance(at.value, list):
        side = check.integer(at, default.height)
        return side, side
    if len(at.value) != 2:
        check.note(at, f"expected pixels, or [height, width] in pixels. Received: a list of {len(at.value)}.")
        return default.height, default.width
    return check.integer(at.value[0], default.height), check.integer(at.value[1], default.width)
