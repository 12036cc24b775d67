"""What a run has done so far, on disk: appended record by record, so that `kill -9` loses only what was on its way.

A record is its length, its CRC-32 and MessagePack. Reading stops at the first that is not whole, and writing goes on
there: what a process that was killed, or a machine that lost power, left torn is done again.
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

from microtome.embed.errors import EmbedError

_FRAME = struct.Struct("<II")
_LONGEST = 1 << 30
_LONGEST_HEAD = 1 << 16
_SYNC_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """An image's vectors: by output the packed numbers, or the kind of its error and the words for it."""

    key: str
    vectors: Mapping[str, bytes]
    error: tuple[str, str] | None = None


class Journal:
    """A run's record. One process at a time may have it open.

    Attributes:
        head: what the run is about, as `begin` was told in the run's first life; None in a new journal.
        model: who answered first; None before anyone did.
        embedded: images with vectors.
        failed: images with an error.
    """

    def __init__(self, path: Path) -> None:
        """Open a journal, or make a new one.

        Raises:
            EmbedError: another process writes it, or it is none.
        """
        self.path = path
        self.head: Mapping[str, Any] | None = None
        self.model: Mapping[str, Any] | None = None
        self.embedded = self.failed = 0
        # 16 bytes for each image instead of its name; two of 10^12 images share them with a probability of 10^-15.
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
        """Say what the run is about, in its first life; in a later one check that it is about the same.

        Raises:
            EmbedError: it is not.
        """
        if self.head is None:
            self.head = dict(head)
            self._append({"head": self.head})
            return
        other = [f"{k} was {self.head.get(k)!r}, is {head[k]!r}" for k in head if self.head.get(k) != head[k]]
        if other:
            raise EmbedError(
                f"{self.path.name} holds the results of another run: {'; '.join(other)}. Ask for the same, or give "
                "--restart to begin anew."
            )

    def answered_by(self, name: str, version: int, fingerprint: str) -> None:
        """Check that vectors come from the model that all others came from.

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
        """Whether an image is still to be done; true once for each key."""
        digest = _digest(key)
        if digest in self._keys:
            return False
        self._keys.add(digest)
        return True

    def put(self, row: Row) -> None:
        """Append a result. It survives this process at once, and the machine within a second."""
        self._count(row)
        self._append({"key": _bytes(row.key), "vectors": row.vectors, "error": row.error})
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Have all results on the disk."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def rows(self) -> Iterator[Row]:
        """Read all results, in the order in which they came."""
        for _, record in self._records():
            if "key" in record:
                yield _row(record)

    def close(self) -> None:
        """Close it; it stays on disk."""
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
        """Read whole records, each with the place where it ends."""
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
    # A file's name need not be UTF-8.
    return key.encode("utf-8", "surrogateescape")
