"""Read where a recipe's model comes from: `backbone` and `weights`, which may be files of the user's own."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from exporter.backbones import BACKBONES, Backbone
from exporter.errors import nearest
from exporter.located import Located
from exporter.preprocessing import Preprocessing
from exporter.recipe import OWN_WEIGHTS, WEIGHTS
from exporter.strictness import Checker

KERAS_FILE = ".keras"
WEIGHTS_FILES = (".h5", ".hdf5", ".keras", ".pt", ".pth")
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
PRESET = re.compile(r"keras_hub:.+")
_OWN_SIZE = 224


@dataclass(frozen=True, slots=True)
class Source:
    """A backbone and its weights, as far as they can be known without building anything.

    Attributes:
        backbone: A row's name, a `.keras` file's absolute path, `module:function` or `keras_hub:preset`.
        weights: `imagenet`, `random`, `own`, or a weights file's absolute path.
        row: The backbone's row; None for the user's own.
        files: SHA-256 by path, of the user's files among them.
    """

    backbone: str
    weights: str
    row: Backbone | None
    files: tuple[tuple[str, str], ...]

    @property
    def preprocessing(self) -> Preprocessing:
        """What holds where the recipe is silent."""
        return self.row.preprocessing if self.row else Preprocessing(_OWN_SIZE, _OWN_SIZE, shortest_side=256)


def read_source(check: Checker, at: Located, found: dict[str, Located]) -> Source:
    """Read `backbone` and `weights`."""
    backbone, row = _backbone(check, found.get("backbone"))
    weights = found.get("weights")
    if weights is None:
        if row is not None and isinstance(at.value, dict):
            check.note(at, f"expected the key weights. Received: only {', '.join(at.value) or 'nothing'}.")
        chosen = OWN_WEIGHTS
    else:
        chosen = _weights(check, weights, row)
    files = tuple((text, digest(Path(text))) for text in (backbone, chosen) if Path(text).is_file())
    return Source(backbone, chosen, row, files)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _backbone(check: Checker, at: Located | None) -> tuple[str, Backbone | None]:
    name = check.text(at)
    if at is None or not name:
        return "", next(iter(BACKBONES.values()))  # noted already; any row lets the rest be checked too
    if name in BACKBONES:
        return name, BACKBONES[name]
    if name.endswith(KERAS_FILE):
        return check.file(at), None
    if FUNCTION.fullmatch(name) or PRESET.fullmatch(name):
        return name, None
    check.note(
        at,
        f"expected one of {len(BACKBONES)} backbones, a {KERAS_FILE} file, module:function or keras_hub:preset. "
        f"Received: {name!r}. {nearest(name, BACKBONES)}",
    )
    return name, next(iter(BACKBONES.values()))


def _weights(check: Checker, at: Located, row: Backbone | None) -> str:
    text = check.text(at)
    if not text or (row is not None and text in WEIGHTS) or (row is None and text == OWN_WEIGHTS):
        return text
    if text.endswith(WEIGHTS_FILES):
        return check.file(at)
    words = ", ".join(WEIGHTS) if row is not None else OWN_WEIGHTS
    known = WEIGHTS if row is not None else (OWN_WEIGHTS,)
    kinds = " ".join(WEIGHTS_FILES)
    check.note(at, f"expected one of {words}, or a file ({kinds}). Received: {text!r}. {nearest(text, known)}")
    return text
