"""Images in tars, packed or not, texts in files of lines, both in columns of Parquet files, read in bounded memory."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO, cast

from microtome.client.errors import UnreadableImage
from microtome.commands.embed import stores
from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.keyed_images import (
    ImageBytes,
    ImageFile,
    KeyedImage,
    KeyedText,
    Rules,
    regular,
    too_large,
)
from microtome.commands.embed.stores import pyarrow

SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Endings of images in folders and tars. A file that is named itself is always taken for an image."""

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""Endings of tars. Whether one is packed, and how, its first bytes say."""

_LARGEST_HEADER = 1 << 20
TEXTS = ".txt"
"""Ending of a file of texts, one a line."""

_LONGEST_LINE = 1 << 15

_AHEAD = 8 << 20
"""Bytes that are read at a time from a store."""

_XZ_MEMORY = 128 << 20
"""Bytes that inflating may take; 65 MiB are enough for `xz -9`."""

_FREE_BYTES, _MOST_TIMES = 256 << 20, 100
"""An archive may inflate to so many bytes, and beyond them to so many times its size. Photos inflate to about once."""


def is_image(name: str) -> bool:
    """Whether a file in a folder or tar is an image, by its name."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.rsplit("/", 1)[-1].startswith("._")  # noqa: PTH122


class _Tar(tarfile.TarFile):
    """A tar whose list of members can be emptied: tarfile keeps every member that it has read."""

    members: list[tarfile.TarInfo]


def tar_images(path: str, rules: Rules) -> Iterator[KeyedImage]:
    """List a tar's images; in a WebDataset a member's name is its sample's key and an ending.

    Raises:
        EmbedError: the file is no tar, damaged, or inflates to too much.
    """
    try:
        remote = stores.is_address(path)
        with (
            stores.opened(path) if remote else regular(path) as file,
            _TarBytes(file, apart=not remote) as plain,
            _Tar(fileobj=cast("IO[bytes]", plain)) as tar,
        ):
            at = -1
            while (member := tar.next()) is not None:
                if member.offset <= at or member.size < 0:
                    raise tarfile.ReadError(f"the member at byte {member.offset} leads backwards")
                at = member.offset
                if member.isreg() and is_image(member.name):
                    yield _member(path, member, plain, rules.max_bytes)
                tar.members.clear()
            # tarfile takes a damaged header for the tar's end.
            plain.seek(tar.offset)
            if any(plain.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError(f"what begins at byte {tar.offset} is no member")
    except (
        tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, OverflowError, RecursionError,
        UnreadableImage,
    ) as error:  # fmt: skip
        raise EmbedError(f"{path} cannot be read as a tar: {error}. What came before is kept.") from error


def _member(path: str, member: tarfile.TarInfo, plain: "_TarBytes", most: int) -> KeyedImage:
    key = f"{path}::{member.name}"
    if member.issparse():
        return ImageBytes(key, b"", f"{key} is stored as a sparse file, which is not read.")
    if plain.apart:
        return ImageFile(key, path, member.offset_data, member.size, max_bytes=most)
    if member.size > most:
        return ImageBytes(key, b"", too_large(key, member.size, most))
    plain.seek(member.offset_data)
    return ImageBytes(key, plain.body(member.size))


def _ahead(remote: Any) -> io.BufferedReader:  # noqa: ANN401, pyarrow's file
    return io.BufferedReader(cast("io.RawIOBase", remote), _AHEAD)


class _TarBytes:
    """A tar's bytes, inflated if they are packed, for `tarfile`: read forwards, and little at a time.

    Attributes:
        apart: whether a member can be read without what is before it: the file is local, and not compressed, whatever
            its name says.
    """

    def __init__(self, file: BinaryIO, *, apart: bool) -> None:
        start = file.read(6)
        file.seek(0)
        if not apart:
            file = _ahead(file)
        self.apart = False
        self._file, self._stream = file, file
        if start.startswith(b"\x1f\x8b"):
            self._stream = cast("BinaryIO", gzip.GzipFile(fileobj=file))
        elif start.startswith(b"BZh"):
            self._stream = cast("BinaryIO", bz2.BZ2File(file))
        elif start.startswith(b"\xfd7zXZ\0"):
            self._stream = cast("BinaryIO", io.BufferedReader(_Xz(file)))
        else:
            self.apart = apart
        # Of bytes that are read in order: the offset reached, what is before it, and how much of that is read again.
        self._at, self._last, self._again = 0, b"", 0

    def tell(self) -> int:
        """Return the offset of the next byte."""
        return self._file.tell() if self.apart else self._at - self._again

    def seek(self, offset: int) -> int:
        """Go on at an offset: forwards, or a few bytes back."""
        if self.apart:
            return self._file.seek(offset)
        self._again = max(self._at - offset, 0)
        if self._again > len(self._last):
            raise tarfile.ReadError("its members are not in order")
        while self._at < offset and self._inflated(min(offset - self._at, 1 << 16)):
            pass
        return self.tell()

    def read(self, size: int) -> bytes:
        """Read a header.

        Raises:
            tarfile.ReadError: it is larger than any header, or the file inflates to too much.
        """
        if not 0 <= size <= _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes; expected at most {_LARGEST_HEADER}")
        return self._file.read(size) if self.apart else self.body(size)

    def body(self, size: int) -> bytes:
        """Read bytes in order."""
        kept = self._last[len(self._last) - self._again :][:size]
        self._again -= len(kept)
        return kept + self._inflated(size - len(kept))

    def _inflated(self, size: int) -> bytes:
        found = self._stream.read(size)
        self._at += len(found)
        self._last = (self._last + found)[-tarfile.BLOCKSIZE :]
        if self._at > _FREE_BYTES + _MOST_TIMES * self._file.tell():
            raise tarfile.ReadError(f"it inflates to more than {_MOST_TIMES} times its size")
        return found

    def __enter__(self) -> "_TarBytes":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


class _Xz(io.RawIOBase):
    """An xz file, inflated in bounded memory, which `lzma.LZMAFile` cannot be told."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inflater = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401, as in the class above
        """Inflate the next bytes; several streams may follow each other."""
        while True:
            piece = b""
            if self._inflater.eof:
                piece = self._inflater.unused_data.lstrip(b"\0") or self._file.read(1 << 16).lstrip(b"\0")
                if not piece:
                    return 0
                self._inflater = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
            elif self._inflater.needs_input:
                piece = self._file.read(1 << 16)
                if not piece:
                    raise EOFError("it is truncated")
            found = self._inflater.decompress(piece, len(buffer))
            if found:
                buffer[: len(found)] = found
                return len(found)


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar, a file of lines, or a column of a Parquet file; or one row group of it, which is read by itself.

    Attributes:
        path: of the file, or its address in a store.
        column: of a Parquet file; "" for a tar or lines.
        group: the row group; -1 for all.
        first: the number of its first row.
        count: images in it; -1 where that is not known before it is read.
    """

    path: str
    column: str = ""
    group: int = -1
    first: int = 0
    count: int = -1

    def images(self, rules: Rules) -> Iterator[KeyedImage]:
        """List its images or texts.

        Raises:
            EmbedError: it is damaged, or inflates to too much.
        """
        if self.column:
            return _column_images(self, rules)
        return _texts(self.path) if self.path.lower().endswith(TEXTS) else tar_images(self.path, rules)

    def parts(self) -> "list[Archive]":
        """Return what can be read beside each other: the row groups, or the whole file.

        Raises:
            EmbedError: no such file or column, or one that inflates to too much.
        """
        if not self.column:
            return [self]
        metadata, found, first = _parquet(self.path, self.column).metadata, list[Archive](), 0
        for group in range(metadata.num_row_groups):
            count = metadata.row_group(group).num_rows
            found.append(replace(self, group=group, first=first, count=count))
            first += count
        return found


def lines(file: TextIO, name: str) -> Iterator[tuple[int, str]]:
    """Read lines that are not empty, each with its number from 1.

    Raises:
        EmbedError: one is too long.
    """
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            raise EmbedError(
                f"Expected lines of less than {_LONGEST_LINE} characters in {name}, received a longer one."
            )
        if line.strip():
            yield number, line.rstrip("\r\n")


def _texts(path: str) -> Iterator[KeyedText]:
    """List the texts of a file; a line that is no UTF-8 is listed too, and cannot be sent."""
    try:
        with (
            _ahead(stores.opened(path)) if stores.is_address(path) else regular(path) as file,
            io.TextIOWrapper(file, "utf-8", "surrogateescape") as text,
        ):
            for number, line in lines(text, path):
                yield KeyedText(line, f"{path}:{number}")
    except (OSError, UnreadableImage) as error:
        raise EmbedError(f"{path} cannot be read as lines of text: {error}") from error


def _column_images(archive: Archive, rules: Rules) -> Iterator[KeyedImage]:
    """List the images or texts of a column; their keys are the numbers of their rows.

    The column holds bytes, structs with a field `bytes`, as Hugging Face's datasets do, or strings, which are texts.
    """
    path, column, place = archive.path, archive.column, archive.first
    file = _parquet(path, column)
    groups = None if archive.group < 0 else [archive.group]
    try:
        # One row at a time: a dictionary gives many rows the same large value.
        for batch in file.iter_batches(1, columns=[column], row_groups=groups):
            (value,) = batch.column(0).to_pylist()
            body = value.get("bytes") if isinstance(value, dict) else value
            if isinstance(body, str):
                yield KeyedText(body, f"{path}::{place}")
                place += 1
                continue
            if body is not None and not isinstance(body, bytes):
                raise EmbedError(
                    f"Expected bytes or strings in column {column!r} of {path}, found {type(body).__name__}."
                )
            key, size = f"{path}::{place}", len(body or b"")
            problem = too_large(key, size, rules.max_bytes) if size > rules.max_bytes else ""
            yield ImageBytes(key, b"" if problem else body or b"", problem)
            place += 1
    except (OSError, pyarrow("pyarrow").lib.ArrowException) as error:
        raise EmbedError(f"{path} cannot be read as Parquet from row {place} on: {error}") from error


def _parquet(path: str, column: str) -> Any:  # noqa: ANN401
    parquet = pyarrow()
    # A pipe would be waited for.
    if not (stores.size(path) > 0 if stores.is_address(path) else Path(path).is_file()):
        raise EmbedError(f"Expected FILE.parquet::COLUMN, and there is no file {path}.")
    try:
        file = parquet.ParquetFile(stores.opened(path) if stores.is_address(path) else path)
        chunks = [
            file.metadata.row_group(group).column(place)
            for group in range(file.metadata.num_row_groups)
            for place in range(file.metadata.num_columns)
        ]
    except (OSError, pyarrow("pyarrow").lib.ArrowException) as error:
        raise EmbedError(f"{path} cannot be read as Parquet: {error}") from error
    if any(c.total_uncompressed_size > _FREE_BYTES + _MOST_TIMES * c.total_compressed_size for c in chunks):
        raise EmbedError(f"{path} inflates to more than {_MOST_TIMES} times its size, and is not read.")
    if column not in file.schema_arrow.names:
        raise EmbedError(f"Expected a column of {path}: {', '.join(file.schema_arrow.names)}. Received {column!r}.")
    return file
