"""The files that a recipe names: the images of a folder, and digests of contents."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from exporter.runtime.terminal import counted

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})


def image_files(folder: Path, most: int) -> list[Path]:
    """Return the images below a folder by path; if there are more than `most`, an evenly spread choice.

    Evenly, because folders are often sorted by class, and the first thousand would be of one class.
    """
    found = sorted(
        (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()),
        key=lambda path: path.relative_to(folder).as_posix(),
    )
    if len(found) <= most:
        return found
    return [found[index * len(found) // most] for index in range(most)]


def images_digest(files: Sequence[Path]) -> str:
    """Return the SHA-256 over the contents of files, in order; paths do not enter."""
    digest = hashlib.sha256()
    for path in counted(files, len(files), "Reading the calibration images", delay=1):
        digest.update(bytes.fromhex(file_digest(path)))
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
