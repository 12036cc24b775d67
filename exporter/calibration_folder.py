"""Which images of a folder calibrate a model, and what tells these images from others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from exporter.progress import counted

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})


def image_files(folder: Path, most: int) -> list[Path]:
    """Return the images below a folder in the order of their paths; when there are more than `most`, evenly spread.

    Evenly, because folders are often sorted by class, and the first thousand would be of one.
    """
    found = sorted(
        (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()),
        key=lambda path: path.relative_to(folder).as_posix(),
    )
    if len(found) <= most:
        return found
    return [found[index * len(found) // most] for index in range(most)]


def images_digest(files: Sequence[Path]) -> str:
    """Return SHA-256 over the contents, in order; where the files lie and what they are called does not enter."""
    digest = hashlib.sha256()
    for path in counted(files, len(files), "Reading the calibration images", patience=1):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
