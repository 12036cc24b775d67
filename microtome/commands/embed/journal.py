"""The results of a run so far, on disk: appended record by record, so that `kill -9` loses only work in flight.

A record is its length, its CRC-32 and MessagePack. Reading stops at the first incomplete record, and writing continues
there: a record that a killed process or a power cut left incomplete is done again.
"""

import fcntl
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Self

import ormsgpack

from microtome.commands.embed.errors import EmbedError

_FRAME = struct.Struct("<II")
_LONGEST = 1 << 30
_LONGEST_HEAD = 1 << 16
_SYNC_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """An image's vectors, packed numbers by output; or its error, kind and message."""

    key: str
    vectors: Mapping[str, bytes]
    error: tuple[str, str] | None = None


class Journal:
    """The journal of a run. One process at a time may have it open.

    Attributes:
        head: the run's options, as `begin` first received them; empty in a new journal.
        model: the model that answered first; None before that.
        embedded: images with vectors.
        failed: images with an error.
    """

    def __init__(self, path: Path) -> None:
        """Open a journal, or create one.

        Raises:
            EmbedError: another process writes it, or the file is not a journal.
        """
        self.path = path
        self.head: Mapping[str, Any] = {}
        self.model: Mapping[str, Any] | None = None
        self.embedded = self.failed = 0
        # 16 bytes for each image instead of its key; two of 10^12 images collide with a probability of 10^-15.
        self._keys: set[bytes] = set()
        self._file: BinaryIO = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise EmbedError(f"Another run is writing {path}. Wait for it, or choose another --out.") from None
        try:
            self._file.truncate(self._replay())
        except EmbedError:
            self._file.close()
            raise
        self._file.seek(0, os.SEEK_END)
        self._synced = time.monotonic()

    def begin(self, head: Mapping[str, Any]) -> None:
        """Record the run's options in a new journal; in an existing one check that they are the same.

        Raises:
            EmbedError: they are not.
        """
        if not self.head:
            self.head = dict(head)
            self._append({"head": self.head})
            return
        other = [f"{k} was {self.head.get(k)!r}, is {head[k]!r}" for k in head if self.head.get(k) != head[k]]
        if other:
            raise EmbedError(
                f"{self.path.name} holds the results of another run: {'; '.join(other)}. Ask for the same, or give "
                "--restart to start over."
            )

    def answered_by(self, name: str, version: int, fingerprint: str) -> None:
        """Check that all vectors come from one model.

        Raises:
            EmbedError: they do not.
        """
        if self.model is None:
            self.model = {"name": name, "version": version, "fingerprint": fingerprint}
            self._append({"model": self.model})
        elif self.model["fingerprint"] != fingerprint:
            raise EmbedError(
                f"The vectors so far are from {self.model['name']} version {self.model['version']} "
                f"({self.model['fingerprint'][:18]}…), these are from version {version} ({fingerprint[:18]}…). They do "
                "not compare, so this one was not kept. Serve the old version again, or give --restart."
            )

    def claim(self, key: str) -> bool:
        """Whether an image is not done yet; true once for each key."""
        digest = _digest(key)
        if digest in self._keys:
            return False
        self._keys.add(digest)
        return True

    def put(self, row: Row) -> None:
        """Append a result. It survives the process immediately, and a power cut after a second."""
        self._count(row)
        self._append({"key": _bytes(row.key), "vectors": row.vectors, "error": row.error})
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Sync all results to the disk."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def rows(self) -> Iterator[Row]:
        """Read all results, in the order in which they were appended."""
        for _, record in self._records():
            if "key" in record:
                yield _row(record)

    def close(self) -> None:
        """Close the file, which stays on disk."""
        self.sync()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, record: Mapping[str, Any]) -> None:
        body = ormsgpack.packb(record)
        self._file.write(_FRAME.pack(len(body), zlib.crc32(body)) + body)
        self._file.flush()

    def _count(self, row: Row) -> None:
        self.failed += row.error is not None
        self.embedded += row.error is None

    def _replay(self) -> int:
        end = 0
        for end, record in self._records():  # noqa: B007, the last one is the journal's end
            if "head" in record:
                self.head = record["head"]
            elif "model" in record:
                self.model = record["model"]
            else:
                self._count(_row(record))
                self._keys.add(_digest(_row(record).key))
        if not end and self.path.stat().st_size > _LONGEST_HEAD:
            raise EmbedError(f"{self.path} is no journal of a run; move it away.")
        return end

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Read complete records, each with the offset of its end."""
        with self.path.open("rb") as file:
            while len(frame := file.read(_FRAME.size)) == _FRAME.size:
                length, checksum = _FRAME.unpack(frame)
                body = file.read(min(length, _LONGEST))
                if len(body) != length or zlib.crc32(body) != checksum:
                    return
                yield file.tell(), ormsgpack.unpackb(body)


def _row(record: Mapping[str, Any]) -> Row:
    error = record["error"]
    return Row(record["key"].decode("utf-8", "surrogateescape"), record["vectors"], tuple(error) if error else None)


def _digest(key: str) -> bytes:
    return blake2b(_bytes(key), digest_size=16).digest()


def _bytes(key: str) -> bytes:
    # File names need not be UTF-8.
    return key.encode("utf-8", "surrogateescape")
