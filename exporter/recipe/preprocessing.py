"""The input of a model as a recipe gives it: the backbone's defaults, the recipe's overrides, and what is possible."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, get_args

from microtome.fast_resizing import unavailable
from microtome.manifest import Color, Crop, Decode, Depth, InputSpec, Interpolation, Resize, TokensSpec

RESIZES: tuple[str, ...] = get_args(Resize)
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)
CROPS: tuple[str, ...] = get_args(Crop)
DECODES: tuple[str, ...] = get_args(Decode)
COLORS: tuple[str, ...] = get_args(Color)
DEPTHS: tuple[str, ...] = get_args(Depth)
_HEX = re.compile(r"#(?:[0-9a-f]{3}|[0-9a-f]{6})")
_LATER = {"color": "rgb", "background": None, "depth": "keras"}
"""Fields that came after the first recorded recipes, with their defaults."""


def hex_color(value: object) -> str:
    """Read a colour: `#rrggbb`, `#rgb`, or three numbers from 0 to 255.

    Returns:
        `#rrggbb`, in small letters.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, str) and _HEX.fullmatch(value.lower()):
        digits = value[1:].lower()
        return f"#{digits if len(digits) == 6 else ''.join(2 * digit for digit in digits)}"
    if isinstance(value, list | tuple) and len(value) == 3 and all(type(n) is int and 0 <= n <= 255 for n in value):
        return "#" + bytes(value).hex()
    raise ValueError('a colour, such as "#ffffff" in quotes or [255, 255, 255]')


def input_spec(
    height: int, width: int, *, shortest_side: int, interpolation: Interpolation = "bilinear", color: Color = "rgb"
) -> InputSpec:
    """Return a backbone's default: the shorter side resized to `shortest_side` pixels, then the centre cut out."""
    return InputSpec(
        height,
        width,
        "shortest-side",
        shortest_side,
        interpolation,
        "center",
        exif_orientation=True,
        color=color,
    )


def impossibilities(spec: InputSpec) -> list[str]:
    """Return what the gateway cannot do about this, one sentence each."""
    found = []
    if (spec.resize == "shortest-side") != (spec.crop == "center"):
        found.append(
            "expected crop: center with resize: shortest-side, and crop: none with squash or letterbox. "
            f"Received: resize: {spec.resize}, crop: {spec.crop}."
        )
    if (spec.resize == "shortest-side") != (spec.shortest_side is not None):
        found.append(
            "expected shortest_side with resize: shortest-side, and nowhere else. "
            f"Received: resize: {spec.resize}, shortest_side: {spec.shortest_side}."
        )
    longest = max(spec.height, spec.width)
    if spec.shortest_side is not None and spec.shortest_side < longest:
        found.append(f"expected shortest_side of at least {longest} pixels. Received: {spec.shortest_side}.")
    if lacking := unavailable(spec):
        found.append(lacking)
    return found


def resolve(default: InputSpec, overrides: Mapping[str, Any]) -> InputSpec:
    """Override a backbone's default with a recipe's `input`.

    Another size keeps the default's proportion of crop to image, and a resize that fills the whole input needs no crop.

    Args:
        default: The backbone's own.
        overrides: Field names of `InputSpec` with valid values; any of them may be absent.
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
    return InputSpec(**{**asdict(default), **chosen})


def recorded(spec: InputSpec | TokensSpec) -> dict[str, Any]:
    """Return the fields that recipes and fingerprints record: those of later releases only where they say something.

    `decode` was `jpeg_draft` before it had a third value.
    """
    if isinstance(spec, TokensSpec):
        return asdict(spec)
    found = {name: value for name, value in asdict(spec).items() if name not in _LATER or value != _LATER[name]}
    del found["decode"], found["kind"]
    found["jpeg_draft"] = spec.decode != "exact"
    return found | ({"decode": "fast"} if spec.decode == "fast" else {})


def identity(spec: InputSpec | TokensSpec) -> dict[str, Any]:
    """Return what of an input can change a vector: of a tokenizer its digest, and not how it is compressed."""
    return recorded(spec) | ({"tokenizer": spec.tokenizer.sha256} if isinstance(spec, TokensSpec) else {})
