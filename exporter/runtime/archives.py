"""Zip files from strangers: opened only when their list of members and what they inflate to fit the file's size."""

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FREE_BYTES, MOST_TIMES = 64 << 20, 4
"""A file may inflate to so many bytes, and beyond them to so many times its size. Weights inflate to about once."""

_END, _END_64 = b"PK\x05\x06", b"PK\x06\x06"
_LONGEST_END = 66_000
_LARGEST_DIRECTORY = 16 << 20


@contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file whose members inflate to what its size allows.

    Raises:
        zipfile.BadZipFile: They inflate to more, or it is no zip file.
        OSError: It cannot be read.
    """
    if (directory := _directory_bytes(path)) > _LARGEST_DIRECTORY:
        raise zipfile.BadZipFile(f"its list of members has {directory:,} bytes")
    with zipfile.ZipFile(path) as archive:
        check_inflated(sum(member.file_size for member in archive.infolist()), path.stat().st_size)
        for member in archive.infolist():
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
                raise zipfile.BadZipFile("a member is encrypted or compressed in an uncommon way")
        yield archive


def check_inflated(inflated: int, size: int) -> None:
    """Check how many bytes a file of a size holds.

    Raises:
        zipfile.BadZipFile: More than a file of this size may.
    """
    if inflated > FREE_BYTES + MOST_TIMES * size:
        raise zipfile.BadZipFile(f"its {size:,} bytes inflate to {inflated:,}")


def _directory_bytes(path: Path) -> int:
    """Return the size of a zip file's list of members, which `zipfile` reads at once."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _LONGEST_END, 0))
        tail = file.read(_LONGEST_END)
    # A comment may hold further ends, real or not. 0xFFFFFFFF refers to the larger record.
    sizes = [
        int.from_bytes(tail[at + start : at + start + width], "little")
        for mark, start, width in ((_END, 12, 4), (_END_64, 40, 8))
        for at in (found.start() for found in re.finditer(re.escape(mark), tail))
    ]
    return max((size for size in sizes if size != 0xFFFFFFFF), default=0)
