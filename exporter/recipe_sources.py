"""Read where a recipe's model comes from: `backbone` and `weights`, which may be files of the user's own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from exporter.backbones import BACKBONES, Backbone, find_backbone
from exporter.errors import UnknownBackbone, nearest
from exporter.located import Located
from exporter.own_backbones import KERAS_FILE, PRESET_PREFIX
from exporter.recipe import OWN_WEIGHTS, WEIGHTS
from exporter.strictness import Checker

WEIGHTS_FILES = (".h5", ".hdf5", ".keras", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class Source:
    """A backbone and its weights, as far as they can be known without building anything.

    Attributes:
        backbone: A row's name, a `.keras` file's absolute path, `module:function` or `keras_hub:preset`.
        weights: `imagenet`, `random`, `own`, or a weights file's absolute path.
        row: What is known of the backbone.
        own: Whether it is no row of the table.
        files: SHA-256 by path, of the user's files among them.
    """

    backbone: str
    weights: str
    row: Backbone
    own: bool
    files: tuple[tuple[str, str], ...]


def read_source(check: Checker, at: Located, found: dict[str, Located]) -> Source:
    """Read `backbone` and `weights`."""
    backbone, row = _backbone(check, found.get("backbone"))
    own = row.name not in BACKBONES
    weights = found.get("weights")
    if weights is not None:
        chosen = _weights(check, weights, own)
    else:
        chosen = OWN_WEIGHTS
        if not own and isinstance(at.value, dict):
            check.note(at, f"expected the key weights. Received: only {', '.join(at.value) or 'nothing'}.")
    preset = Path(backbone.removeprefix(PRESET_PREFIX)) if backbone.startswith(PRESET_PREFIX) else None
    parts = sorted(preset.rglob("*")) if preset is not None and preset.is_absolute() else []
    own_files = [path for path in (Path(backbone), Path(chosen), *parts) if path.is_file()]
    files = tuple((str(path), digest(path)) for path in own_files)
    return Source(backbone, chosen, row, own, files)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _backbone(check: Checker, at: Located | None) -> tuple[str, Backbone]:
    name = check.text(at)
    if at is None or not name:
        return "", next(iter(BACKBONES.values()))  # noted already; any row lets the rest be checked too
    if name.endswith(KERAS_FILE):
        name = check.file(at)
    elif name.startswith(PRESET_PREFIX):
        name = PRESET_PREFIX + check.preset(name.removeprefix(PRESET_PREFIX))
    try:
        return name, find_backbone(name)
    except UnknownBackbone as error:
        check.note_error(at, error)
        return name, next(iter(BACKBONES.values()))


def _weights(check: Checker, at: Located, own: bool) -> str:
    text = check.text(at)
    words = (OWN_WEIGHTS,) if own else WEIGHTS
    if not text or text in words:
        return text
    if text.endswith(WEIGHTS_FILES):
        return check.file(at)
    kinds = " ".join(WEIGHTS_FILES)
    check.note(
        at, f"expected one of {', '.join(words)}, or a file ({kinds}). Received: {text!r}. {nearest(text, words)}"
    )
    return text
