"""The results of a run so far, on disk: appended record by record, so that `kill -9` loses only work in flight.

A record is its length, its CRC-32 and MessagePack. Reading stops at the first record that is not whole, and writing
continues there: what a killed process or a power loss left incomplete, zeros included, is done again.
"""

import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import ormsgpack

from microtome.client.results import ModelVersion
from microtome.commands.embed.errors import EmbedError, writing
from microtome.commands.embed.stores import sync_folder

FORMAT = 1
"""Format of the journal, in its head."""

_FRAME = struct.Struct("<II")
_HEAD = ormsgpack.packb({"head": {}})[:-1]
"""How the first record begins."""

_LONGEST_HEAD = 1 << 16
_SYNC_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """An image's vectors, packed numbers by output; or its error, kind and message."""

    key: str
    vectors: Mapping[str, bytes]
    error: tuple[str, str] | None = None


def described(model: ModelVersion) -> dict[str, Any]:
    """Return a model as results name it; tower and space only where it has them."""
    found = {"name": model.name, "version": model.version, "fingerprint": model.fingerprint}
    return found | {"tower": model.tower, "space": model.space} if model.space else found


def together(known: Mapping[str, Any] | None, answered: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the model of vectors so far and of these, with the other tower under `also`.

    Raises:
        EmbedError: they are neither one model nor the two towers of one.
    """
    if known is None:
        return answered
    if (known.get("space") or known["fingerprint"]) != (answered.get("space") or answered["fingerprint"]):
        raise EmbedError(
            f"The vectors so far are from {known['name']} version {known['version']} ({known['fingerprint'][:18]}…), "
            f"these are from version {answered['version']} ({answered['fingerprint'][:18]}…). They do not compare, so "
            "these were not kept. Serve the old version again, or give --restart."
        )
    for one in (answered, answered.get("also", answered)):
        if "also" not in known and one.get("tower") != known.get("tower"):
            known = {**known, "also": {name: value for name, value in one.items() if name != "also"}}
    return known


class Journal:
    """The journal of a run, which one process at a time may have open: `runner` holds the lock.

    Attributes:
        head: the run's options, as `begin` first received them; empty in a new journal.
        model: the model that answered first, with the other tower under `also`; None before that.
        embedded: images with vectors.
        failed: images with an error.
        lost: bytes after the last whole record, which were cut off.
    """

    def __init__(self, path: Path, *, restart: bool = False) -> None:
        """Open a journal, or create one.

        Args:
            path: where it is.
            restart: whether to forget its results.

        Raises:
            EmbedError: the file is not a journal of this release, or cannot be written.
        """
        self.path = path
        self.head: Mapping[str, Any] = {}
        self.model: Mapping[str, Any] | None = None
        self.embedded = self.failed = 0
        # 16 bytes for each image instead of its key; two of 10^12 images collide with a probability of 10^-15.
        self._keys: set[bytes] = set()
        with writing(path):
            # Without a buffer, which would be written again when the file is closed after a full disk.
            self._file = path.open("a+b", buffering=0)
            try:
                size = path.stat().st_size
                end = self._replay(size, restart=restart)
                if size > end:
                    self._file.truncate(end)
            except BaseException:
                self._file.close()
                raise
        self.lost = 0 if restart else size - end
        self._synced = time.monotonic()

    def begin(self, head: Mapping[str, Any]) -> None:
        """Record the run's options in a new journal; in an existing one check that they are the same.

        Raises:
            EmbedError: they are not.
        """
        if not self.head:
            self._append({"head": head})
            self.head = dict(head)
            self.sync()
            sync_folder(self.path.parent)
            return
        other = [f"{k} was {self.head.get(k)!r}, is {head[k]!r}" for k in head if self.head.get(k) != head[k]]
        if other:
            raise EmbedError(
                f"{self.path.name} holds the results of another run: {'; '.join(other)}. Ask for the same, or give "
                "--restart to start over."
            )

    def answered_by(self, model: ModelVersion) -> None:
        """Check that all vectors come from one model, or from the two towers of one.

        Raises:
            EmbedError: they do not.
        """
        found = together(self.model, described(model))
        if found != self.model:
            self.model = dict(found)
            self._append({"model": self.model})

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
        with writing(self.path):
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def rows(self) -> Iterator[Row]:
        """Read all results, in the order in which they were appended."""
        return (found for _, found in self._records() if isinstance(found, Row))

    def close(self) -> None:
        """Close the file, which stays on disk if it has results."""
        try:
            if self.embedded or self.failed:
                self.sync()
            else:
                self.path.unlink(missing_ok=True)
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, record: Mapping[str, Any]) -> None:
        body = ormsgpack.packb(record)
        left = memoryview(_FRAME.pack(len(body), zlib.crc32(body)) + body)
        with writing(self.path):
            while left:
                left = left[self._file.write(left) :]

    def _count(self, row: Row) -> None:
        self.failed += row.error is not None
        self.embedded += row.error is None

    def _replay(self, size: int, *, restart: bool) -> int:
        """Read what is there; return the offset of its end."""
        with self.path.open("rb") as file:
            first = file.read(_LONGEST_HEAD)
        body = first[_FRAME.size :][: len(_HEAD)]
        # What a crash leaves of a first record is its beginning, or zeros.
        ours = body.startswith(_HEAD) or (size <= len(first) and (_HEAD.startswith(body) or not any(first)))
        if not ours:
            raise EmbedError(f"{self.path} is no journal of a run; move it away, or choose another --out.")
        if restart:
            return 0
        end = 0
        for end, found in self._records():  # noqa: B007, the last one is the journal's end
            if isinstance(found, Row):
                self._count(found)
                self._keys.add(_digest(found.key))
            else:
                self.head = found.get("head", self.head)
                self.model = found.get("model", self.model)
        if end and self.head.get("format") != FORMAT:
            raise EmbedError(
                f"{self.path} is of another release of Microtome: expected format {FORMAT}, received "
                f"{self.head.get('format')!r}. Go on with that release, or give --restart to start over."
            )
        if not end and size > _LONGEST_HEAD:
            raise EmbedError(f"The beginning of {self.path} is damaged. Give --restart to start over.")
        return end

    def _records(self) -> Iterator[tuple[int, "Row | dict[str, Any]"]]:
        """Read whole records, each with the offset of its end."""
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while len(frame := file.read(_FRAME.size)) == _FRAME.size:
                length, checksum = _FRAME.unpack(frame)
                # No record is empty, although zeros are a length and a checksum that agree.
                if not 0 < length <= size - file.tell():
                    return
                body = file.read(length)
                if zlib.crc32(body) != checksum:
                    return
                try:
                    record = ormsgpack.unpackb(body)
                    found = _row(record) if "key" in record else {**record}
                except (ValueError, TypeError, KeyError, AttributeError):
                    return
                yield file.tell(), found


def _row(record: Mapping[str, Any]) -> Row:
    error = record["error"]
    return Row(
        record["key"].decode("utf-8", "surrogateescape"), dict(record["vectors"]), tuple(error) if error else None
    )


def _digest(key: str) -> bytes:
    return blake2b(_bytes(key), digest_size=16).digest()


def _bytes(key: str) -> bytes:
    # File names need not be UTF-8.
    return key.encode("utf-8", "surrogateescape")
