"""The files that a recipe names: the images of a folder, and digests of contents."""

import errno
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from exporter.runtime.terminal import counted

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})


_LARGEST_PHOTO = 1 << 30


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
        digest.update(bytes.fromhex(photo_digest(path)))
    return digest.hexdigest()


def photo_bytes(path: Path) -> int:
    """Return the size of an image file.

    Raises:
        OSError: It is larger than any photo: a hole, or a link to what is no photo, would be read without end.
    """
    if (size := path.stat().st_size) > _LARGEST_PHOTO:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return size


def photo_digest(path: Path) -> str:
    """Return the SHA-256 of an image file, in hexadecimal.

    Raises:
        OSError: It cannot be read, or is larger than any photo.
    """
    photo_bytes(path)
    return file_digest(path)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
