"""A folder of Parquet files that many workers write, and its manifest, by which a killed run goes on.

    OUT/vectors-….parquet               finished shards: `key`, and a list of numbers for each output
    OUT/_microtome/manifest.json        recipe, options, model, and what each finished shard holds
    OUT/_microtome/errors/vectors-….jsonl  the images of a shard that failed
    OUT/_microtome/plan.arrow           what is to be embedded, in pieces
    OUT/_microtome/unfinished/          what workers have written, and the manifest does not name yet

The plan is made once. So a place in a piece is one image for ever, and the manifest says in a few numbers which are
done. A worker writes a shard under a name of its own and tells the driver. The driver names it in the manifest and then
moves it into the folder. A shard that repeats an image, since a worker died after writing it, is not named. What is
not named is written again, and removed: no image is lost, and none appears twice, whatever is killed.
"""

import re
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from typing import Any

import orjson

from microtome.commands.embed import stores
from microtome.commands.embed.archives import Archive
from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.journal import together
from microtome.commands.embed.keyed_images import ImageFile, KeyedImage, KeyedText, Rules

FORMAT = 1
OWN = "_microtome"
"""The folder of all that is no shard. Readers of Parquet leave out names that begin so."""

_OURS = re.compile(r"vectors-[0-9a-f]{32}\.parquet")

_SMALL, _PIECE = 128, 1024
"""Files of a piece: the first ones are small, so that a small collection is spread over all workers, too."""

_MANY = 64
"""Small pieces."""

_SAVE_SECONDS = 1.0

Range = tuple[int, int]
"""Places of a piece: the first, and the one after the last."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a worker says of a shard that it has written.

    Attributes:
        name: of its files, without their ending.
        rows: vectors in it.
        failed: images that failed, which have a file of their own.
        places: the places that it holds, in order, by piece.
        ends: the number of images of pieces that have been read to their end.
        model: what the vectors are from; {} when all failed.
    """

    name: str
    rows: int
    failed: int
    places: Mapping[int, Sequence[Range]]
    ends: Mapping[int, int]
    model: Mapping[str, Any]

    def json(self) -> bytes:
        """Return it as JSON."""
        return orjson.dumps(self, option=orjson.OPT_NON_STR_KEYS)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "Receipt":
        """Read what `json` has written."""
        places = {int(piece): [(a, b) for a, b in held] for piece, held in document["places"].items()}
        ends = {int(piece): end for piece, end in document["ends"].items()}
        names = ("name", "rows", "failed", "model")
        return cls(places=places, ends=ends, **{name: document[name] for name in names})


class Manifest:
    """The manifest of a folder, which one run at a time writes.

    Attributes:
        head: the run's options, as they first were; empty in a new folder.
        model: the model of all vectors; None before the first.
        counts: images of each piece; -1 where that is not known before it is read.
        embedded: images with vectors.
        failed: images with an error.
        complete: whether all images are done.
    """

    def __init__(self, out: str, *, restart: bool) -> None:
        """Read the manifest, if there is one.

        Args:
            out: path or address of the folder.
            restart: whether to forget its results.

        Raises:
            EmbedError: it cannot be read.
        """
        self.out = out
        self.head: Mapping[str, Any] = {}
        self.model: Mapping[str, Any] | None = None
        self.counts: list[int] = []
        self.embedded = self.failed = 0
        self.complete = False
        self._receipts: list[Receipt] = []
        self._done: dict[int, list[Range]] = {}
        self._unsaved: list[Receipt] = []
        self._saved = 0.0
        if stores.size(self.own("manifest.json")) >= 0 and not restart:
            self._read()
        self._restart = restart

    def own(self, *names: str) -> str:
        """Return the name of a file that is no shard."""
        return stores.joined(self.out, OWN, *names)

    @property
    def images(self) -> int | None:
        """The number of all images, if it is known."""
        return None if -1 in self.counts else sum(self.counts)

    def begin(self, head: Mapping[str, Any], pieces: "Iterable[Piece]") -> None:
        """Record a new run's options and its plan; in an existing one check that the options are the same.

        Raises:
            EmbedError: they are not; or the folder holds something else, or lacks a shard.
        """
        if not self.head:
            for folder in (self.out, self.own(), self.own("errors"), self.own("unfinished")):
                stores.make_folder(folder)
            self._tidy()
            self.counts = _write_plan(self.own("plan.arrow"), pieces)
            self.head = head
            self.save()
            return
        other = [f"{k} was {self.head.get(k)!r}, is {head[k]!r}" for k in head if self.head.get(k) != head[k]]
        if other:
            raise EmbedError(
                f"{self.out} holds the results of another run: {'; '.join(other)}. Ask for the same, give --restart to "
                "start over, or choose another --out."
            )
        self._tidy()

    def left(self) -> list[tuple[int, list[Range]]]:
        """Return the pieces that are not done, each with the places of it that are."""
        found = []
        for piece, count in enumerate(self.counts):
            done = self._done.get(piece, [])
            if done != ([(0, count)] if count else []):
                found.append((piece, done))
        return found

    def commit(self, receipt: Receipt) -> bool:
        """Name a shard in the manifest; false if it repeats an image, and is removed.

        Raises:
            EmbedError: its vectors are of another model, or the manifest cannot be written.
        """
        if any(self._overlaps(piece, held) for piece, places in receipt.places.items() for held in places):
            self._remove(receipt)
            return False
        if receipt.model:
            self._same_model(receipt)
        self._add(receipt)
        self._unsaved.append(receipt)
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self.save()
        return True

    def save(self, *, complete: bool = False) -> None:
        """Write the manifest, and then move what it newly names into the folder.

        Raises:
            EmbedError: it cannot be written, or another run writes it.
        """
        self.complete = complete
        stores.write(self.own("manifest.json"), orjson.dumps(self._document(), option=orjson.OPT_NON_STR_KEYS))
        for receipt in self._unsaved:
            self._publish(receipt)
        self._unsaved = []
        self._saved = time.monotonic()

    def finish(self) -> None:
        """Write the manifest for the last time, and remove what it does not name."""
        self.save(complete=True)
        self._tidy()

    def _document(self) -> dict[str, Any]:
        names = ("head", "model", "embedded", "failed", "complete", "counts")
        shards = self._receipts
        return {"format": FORMAT, **{name: getattr(self, name) for name in names}, "shards": shards}

    def _read(self) -> None:
        path = self.own("manifest.json")
        try:
            document = orjson.loads(stores.read(path))
            if document["format"] != FORMAT:
                raise EmbedError(
                    f"{path} is of another release of Microtome: expected format {FORMAT}, received "
                    f"{document['format']!r}. Go on with that release, or give --restart to start over."
                )
            self.head, self.model, self.complete = document["head"], document["model"], document["complete"]
            self.counts = document["counts"]
            for receipt in map(Receipt.read, document["shards"]):
                self._add(receipt)
        except (ValueError, KeyError, TypeError) as error:
            raise EmbedError(f"{path} is no manifest of a run: {error}. Give --restart, or another --out.") from error

    def _add(self, receipt: Receipt) -> None:
        self._receipts.append(receipt)
        self.embedded += receipt.rows
        self.failed += receipt.failed
        for piece, places in receipt.places.items():
            self._done[piece] = _merged([*self._done.get(piece, []), *places])
        for piece, end in receipt.ends.items():
            self.counts[piece] = end

    def _overlaps(self, piece: int, held: Range) -> bool:
        done = self._done.get(piece, [])
        place = bisect_left(done, (held[1], 0))
        return place > 0 and done[place - 1][1] > held[0]

    def _same_model(self, receipt: Receipt) -> None:
        try:
            self.model = together(self.model, receipt.model)
        except EmbedError:
            self._remove(receipt)
            raise

    def _files(self, receipt: Receipt) -> Iterator[tuple[str, str]]:
        """Return the names of a shard's files, unfinished and finished."""
        if receipt.rows:
            name = f"{receipt.name}.parquet"
            yield self.own("unfinished", name), stores.joined(self.out, name)
        if receipt.failed:
            name = f"{receipt.name}.jsonl"
            yield self.own("unfinished", name), self.own("errors", name)

    def _publish(self, receipt: Receipt) -> None:
        for unfinished, finished in self._files(receipt):
            stores.move(unfinished, finished)

    def _remove(self, receipt: Receipt) -> None:
        for unfinished, _ in self._files(receipt):
            stores.remove(unfinished)

    def _tidy(self) -> None:
        """Move what the manifest names and a killed run has not moved; remove what it does not name."""
        places = self.out, self.own("errors"), self.own("unfinished")
        found, errors, unfinished = ({name for name, folder in stores.names(place) if not folder} for place in places)
        for receipt in self._receipts:
            for before, after in self._files(receipt):
                if before in unfinished:
                    stores.move(before, after)
                elif after not in found | errors:
                    raise EmbedError(f"{after} is gone, which the manifest names. Put it back, or give --restart.")
                for names in (found, errors, unfinished):
                    names -= {before, after}
        for name in found:
            if self._restart and _OURS.fullmatch(name.rpartition("/")[2]):
                stores.remove(name)
            elif name.endswith(".parquet"):
                raise EmbedError(f"{name} is of no run with this --out. Move it away, or choose a folder of its own.")
        for name in errors | unfinished:
            stores.remove(name)


def _merged(ranges: Iterable[Range]) -> list[Range]:
    found: list[Range] = []
    for first, end in sorted(ranges):
        if found and found[-1][1] == first:
            found[-1] = (found[-1][0], end)
        elif first < end:
            found.append((first, end))
    return found


@dataclass(frozen=True, slots=True)
class Piece:
    """What one task reads: some files or texts, an archive, or a row group of a Parquet file's column.

    Attributes:
        files: paths or addresses, or texts.
        folder: of these; links that lead out of it are refused.
        archive: in place of files.
        text: whether these are texts.
    """

    files: Sequence[str] = ()
    folder: str = ""
    archive: Archive | None = None
    text: bool = False

    @property
    def count(self) -> int:
        """Images in it; -1 where that is not known before it is read."""
        return self.archive.count if self.archive else len(self.files)

    def images(self, rules: Rules) -> Iterator[KeyedImage]:
        """List its images.

        Raises:
            EmbedError: the archive is damaged.
        """
        if self.text:
            yield from (KeyedText(text, text) for text in self.files)
            return
        if self.archive is None:
            yield from (ImageFile(path, folder=self.folder, max_bytes=rules.max_bytes) for path in self.files)
            return
        seen = set[bytes]()
        for image in self.archive.images(rules):
            # A tar may hold one name twice.
            if (key := _digest(image.key)) not in seen:
                seen.add(key)
                yield image


def pieces(found: Iterable[ImageFile | KeyedText | Archive], *, several: bool) -> Iterator[Piece]:
    """Divide what is listed.

    Args:
        found: files, texts and archives.
        several: whether something may be listed twice; the second is left out.
    """
    seen, made = set[bytes](), 0

    def once() -> Iterator[ImageFile | KeyedText | Archive]:
        for one in found:
            key = _digest(f"{one.path}::" if isinstance(one, Archive) else one.key)
            if key not in seen:
                if several:
                    seen.add(key)
                yield one

    def kind(one: ImageFile | KeyedText | Archive) -> tuple[str, bool]:
        return one.folder if isinstance(one, ImageFile) else "", isinstance(one, KeyedText)

    for (folder, text), group in groupby(once(), kind):
        files: list[str] = []
        for one in group:
            if isinstance(one, Archive):
                yield from (Piece(archive=part) for part in one.parts())
                continue
            files.append(one.key)
            if len(files) >= (_SMALL if made < _MANY else _PIECE):
                yield Piece(files, folder, text=text)
                files, made = [], made + 1
        if files:
            yield Piece(files, folder, text=text)


def _digest(key: str) -> bytes:
    return blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _schema() -> Any:  # noqa: ANN401, pyarrow has no types
    pa = stores.pyarrow("pyarrow")
    numbers = [(name, pa.int64()) for name in ("group", "first", "count")]
    names = [(name, pa.binary()) for name in ("folder", "path", "column")]
    return pa.schema([("files", pa.list_(pa.binary())), ("text", pa.bool_()), *names, *numbers])


def _write_plan(path: str, found: Iterable[Piece]) -> list[int]:
    """Write one record batch for each piece, and return the number of images of each."""
    pa, schema, counts = stores.pyarrow("pyarrow"), _schema(), list[int]()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with stores.whole(path) as file, pa.ipc.new_file(file, schema, options=options) as writer:
        for piece in found:
            archive = piece.archive or Archive("")
            row: dict[str, Any] = {"files": [_bytes(name) for name in piece.files], "folder": _bytes(piece.folder)}
            row |= {"text": piece.text, "path": _bytes(archive.path), "column": _bytes(archive.column)}
            row |= {"group": archive.group, "first": archive.first, "count": archive.count}
            writer.write_batch(pa.RecordBatch.from_pylist([row], schema=schema))
            counts.append(piece.count)
    return counts


def read_piece(path: str, number: int) -> Piece:
    """Read one piece of a plan."""
    pa = stores.pyarrow("pyarrow")
    with stores.opened(path) if stores.is_address(path) else pa.OSFile(path) as file:
        (row,) = pa.ipc.open_file(file).get_batch(number).to_pylist()
    if row["files"]:
        return Piece([_text(name) for name in row["files"]], _text(row["folder"]), text=row["text"])
    numbers = {name: row[name] for name in ("group", "first", "count")}
    return Piece(archive=Archive(_text(row["path"]), _text(row["column"]), **numbers))


def _bytes(name: str) -> bytes:
    # File names need not be UTF-8.
    return name.encode("utf-8", "surrogateescape")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
