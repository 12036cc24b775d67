"""List images one by one: folders, globs, files, tars, Parquet columns, and lists of files from standard input.

Only the names of one folder, or of one pattern, are held at a time, so memory does not grow with the images. An image
is listed by its place and read when it is needed.
"""

import glob
import importlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from microtome.commands.embed.errors import EmbedError

SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Endings of images in folders and tars. A file that is named itself is always taken for an image."""

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

_ROWS = 64
"""Rows of a Parquet column read at a time."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file, or bytes inside one, such as a tar that is not compressed.

    Attributes:
        path: of the file, where the key is not its path.
        size: bytes; -1 for all to the file's end.
    """

    key: str
    path: str = ""
    offset: int = 0
    size: int = -1

    def __call__(self) -> bytes:
        """Read only these bytes.

        Raises:
            OSError: the file is gone or cannot be read.
        """
        with Path(self.path or self.key).open("rb") as file:
            if self.offset:
                file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """Bytes in memory: reading what follows them in a stream has read them too."""

    key: str
    body: bytes

    def __call__(self) -> bytes:
        """Return the bytes."""
        return self.body


KeyedImage: TypeAlias = ImageFile | ImageBytes
"""An image that is read by a call, may be pickled and read on another machine, and has a key, unique in a run."""


def images(words: Iterable[str], stdin: TextIO) -> Iterator[KeyedImage]:
    """List all images.

    Args:
        words: paths of files and folders, patterns, tars, `FILE.parquet::COLUMN`, or `-` for a list from `stdin`.
        stdin: one path a line.

    Raises:
        EmbedError: a word names nothing.
    """
    for word in words:
        if word == "-":
            yield from (ImageFile(line.rstrip("\r\n")) for line in stdin if line.strip())
            continue
        for path, column in _places(word):
            yield from _below(path) if column is None else column_images(path, column)


def count(words: Iterable[str]) -> int | None:
    """Count images; None where counting is slow, as in a tar, or impossible, as in a list on standard input."""
    total = 0
    for word in words:
        if word == "-":
            return None
        for path, column in _places(word):
            if column is None and path.lower().endswith(_TARS):
                return None
            total += sum(1 for _ in _below(path)) if column is None else rows(path)
    return total


def _places(word: str) -> Iterator[tuple[str, str | None]]:
    """Find the files and folders of a word, each with the column of a Parquet file, if one is named."""
    column: str | None = None
    pattern = word
    if "::" in word and not Path(word).exists():
        pattern, column = word.rsplit("::", 1)
    # A file may have brackets in its name.
    found = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207, which has no absolute patterns
    if not found:
        raise EmbedError(f"Expected images at {pattern!r}, found nothing there. The working directory is {Path.cwd()}.")
    return ((path, column) for path in found)


def _below(path: str) -> Iterator[KeyedImage]:
    if Path(path).is_dir():
        yield from _folder(path)
    elif path.lower().endswith(_TARS):
        yield from _tar(path)
    elif path.lower().endswith(".parquet"):
        raise EmbedError(f"Expected FILE.parquet::COLUMN, received {path!r}. Say which column holds the images.")
    else:
        yield ImageFile(path)


def _folder(path: str) -> Iterator[KeyedImage]:
    with os.scandir(path) as entries:
        # Links to folders are not followed: they may form cycles.
        found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_folder in found:
        below = os.path.join(path, name)  # noqa: PTH118, ten times as fast as Path, for millions of files
        if is_folder:
            yield from _folder(below)
        elif _is_image(name):
            yield ImageFile(below)


def _tar(path: str) -> Iterator[KeyedImage]:
    """List a tar's images; in a WebDataset a member's name is its sample's key and an ending."""
    try:
        with tarfile.open(path, "r:" if path.lower().endswith(".tar") else "r|*") as tar:
            spans = path.lower().endswith(".tar")
            while (member := tar.next()) is not None:
                if member.isreg() and _is_image(member.name):
                    key = f"{path}::{member.name}"
                    if spans:
                        yield ImageFile(key, path, member.offset_data, member.size)
                    else:
                        file = tar.extractfile(member)
                        yield ImageBytes(key, file.read() if file else b"")
                # tarfile keeps every member that it has read.
                tar.members.clear()  # type: ignore[attr-defined]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise EmbedError(f"{path} cannot be read as a tar: {error}. What came before is kept.") from error


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.rsplit("/", 1)[-1].startswith("._")  # noqa: PTH122


def pyarrow(module: str = "pyarrow.parquet") -> Any:  # noqa: ANN401, pyarrow has no types
    """Import pyarrow.

    Raises:
        EmbedError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise EmbedError(
            "Parquet needs pyarrow, which is not installed: pip install pyarrow, or --out vectors.npy or vectors.jsonl."
        ) from None


def rows(path: str) -> int:
    """Count a file's rows."""
    return int(_file(path).metadata.num_rows)


def column_images(path: str, column: str) -> Iterator[KeyedImage]:
    """List the images of a column; their keys are the numbers of their rows.

    The column holds bytes, or structs with a field `bytes`, as Hugging Face's datasets do.

    Raises:
        EmbedError: no such file or column, or one of another type.
    """
    file, place = _file(path), 0
    if column not in file.schema_arrow.names:
        raise EmbedError(f"Expected a column of {path}: {', '.join(file.schema_arrow.names)}. Received {column!r}.")
    for batch in file.iter_batches(_ROWS, columns=[column]):
        for value in batch.column(0).to_pylist():
            body = value.get("bytes") if isinstance(value, dict) else value
            if body is not None and not isinstance(body, bytes):
                raise EmbedError(f"Expected bytes in column {column!r} of {path}, found {type(body).__name__}.")
            yield ImageBytes(f"{path}::{place}", body or b"")
            place += 1


def _file(path: str) -> Any:  # noqa: ANN401
    parquet = pyarrow()
    if not Path(path).is_file():
        raise EmbedError(f"Expected FILE.parquet::COLUMN, and there is no file {path}.")
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise EmbedError(f"{path} cannot be read as Parquet: {error}") from error
