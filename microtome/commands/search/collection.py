"""The vectors of a folder of photos, in one file, and which of them are nearest.

NumPy reads the file: `numpy.load(FILE, mmap_mode="r")` is float32 [N, D], rows of length 1. After the array follows
what the rows are: a MessagePack document, its length, and `_MARK`. The file is replaced whole.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import ormsgpack
from numpy.typing import NDArray

from microtome.client.options import EmbedOptions
from microtome.client.results import ModelInfo
from microtome.commands.embed.engine import GatewayEngine
from microtome.commands.embed.errors import EmbedError, tell
from microtome.commands.embed.journal import FORMAT, Journal, Row
from microtome.commands.embed.keyed_images import ImageFile, Rules
from microtome.commands.embed.progress import Progress
from microtome.commands.embed.runner import beside, kept
from microtome.commands.embed.sources import images
from microtome.commands.embed.stores import sync_folder, whole

Vectors = NDArray[np.float32]

_FORMAT = 1
_MARK = b"MTSEARCH"
_ROWS = 8192
"""Rows of a product: of 1,280 numbers each, 42 MB."""


def listed(options: Namespace) -> dict[str, ImageFile]:
    """Find the photos, by a key that changes with the file: its path in the folder, its size and its time.

    Raises:
        EmbedError: there is no such folder, or it cannot be listed.
    """
    folder = str(options.photos)
    if not options.photos.is_dir():
        found = "is a file" if options.photos.exists() else "is not there"
        raise EmbedError(f"Expected a folder of photos and then the photos to look for. {folder} {found}.")
    photos: dict[str, ImageFile] = {}
    for image in images([folder], sys.stdin, Rules(options.follow_links, options.max_image_bytes)):
        assert isinstance(image, ImageFile)  # noqa: S101, for mypy: a folder has no archives
        try:
            status = os.stat(image.key)  # noqa: PTH116, names need not be text
            stamp = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            stamp = "absent"
        key = f"{os.path.relpath(image.key, folder)}\n{stamp}"
        photos[key] = ImageFile(key, image.key, folder=image.folder, max_bytes=image.max_bytes)
    return photos


def in_folder(key: str) -> str:
    """Return the path of a photo in the folder."""
    return key.rpartition("\n")[0]


@dataclass(frozen=True, slots=True)
class Collection:
    """Vectors, and what they are of.

    Attributes:
        model: name, version, fingerprint and output; the space of a model of images and text.
        keys: of the rows; see `listed`.
        failed: key, kind and message of each photo that cannot be embedded.
        vectors: float32 [N, D] of length 1, mapped from the file.
    """

    model: Mapping[str, Any]
    keys: Sequence[str] = ()
    failed: Sequence[tuple[str, str, str]] = ()
    vectors: Vectors = field(default_factory=lambda: np.empty((0, 0), np.float32))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that this command has written.

        Raises:
            EmbedError: it is another one, or damaged.
        """
        tail = len(_MARK) + 8
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - tail))
                end = file.read()
                length = int.from_bytes(end[:8], "little")
                start = size - tail - length
                ours = end[8:] == _MARK and start > 0
                file.seek(start if ours else 0)
                found = ormsgpack.unpackb(file.read(length)) if ours else {}
            keys = [_text(key) for key in found["keys"]]
            failed = [(_text(key), kind, text) for key, kind, text in found["failed"]]
            # An array of no rows cannot be mapped.
            vectors = np.load(path, mmap_mode="r" if keys else None, allow_pickle=False)
            fits = found["format"] == _FORMAT and vectors.shape[:-1] == (len(keys),) and vectors.dtype == np.float32
        except (ValueError, TypeError, KeyError, AttributeError, EOFError):
            fits = False
        if not fits:
            raise EmbedError(
                f"{path} is not what an earlier microtome search has kept, or it is damaged. Give another --vectors, "
                "or --restart to replace it."
            )
        return cls(found["model"], keys, failed, vectors)

    def nearest(self, asked: Vectors, count: int, left_out: str = "") -> list[tuple[str, float]]:
        """Return the paths in the folder of the nearest photos, best first, with their cosines.

        Args:
            asked: float32 [D], of length 1.
            count: how many.
            left_out: path of a photo in the folder that does not count.
        """
        row = next((row for row, key in enumerate(self.keys) if in_folder(key) == left_out), None)
        return [(in_folder(self.keys[row]), score) for row, score in nearest(self.vectors, asked, count, row)]


def _text(packed: bytes) -> str:
    return packed.decode("utf-8", "surrogateescape")


def nearest(vectors: Vectors, asked: Vectors, count: int, left_out: int | None = None) -> list[tuple[int, float]]:
    """Return the rows with the largest cosines, best first, of equal ones the first, with the cosines.

    Args:
        vectors: float32 [N, D] of length 1, which may be mapped from a file: some rows are read at a time.
        asked: float32 [D] of length 1.
        count: how many.
        left_out: a row that does not count.
    """
    rows, scores = np.empty(0, np.int64), np.empty(0, np.float32)
    for start in range(0, len(vectors), _ROWS):
        block = vectors[start : start + _ROWS] @ asked
        if left_out is not None and start <= left_out < start + len(block):
            block[left_out - start] = -np.inf
        scores = np.concatenate([scores, block])
        rows = np.concatenate([rows, np.arange(start, start + len(block))])
        # Not argpartition, which takes any of equal ones.
        best = np.argsort(-scores, kind="stable")[:count]
        rows, scores = rows[best], scores[best]
    found = zip(rows.tolist(), scores.clip(max=1.0).tolist(), strict=True)
    return [(row, score) for row, score in found if score > -np.inf]


def up_to_date(
    path: Path, photos: Mapping[str, ImageFile], options: Namespace, wanted: EmbedOptions, served: ModelInfo
) -> Collection:
    """Embed what the file lacks, leave out what is gone, and return all of it.

    Args:
        path: of the file.
        photos: what `listed` has found.
        options: of the command line.
        wanted: model, version and output.
        served: that model as the gateway has it.

    Raises:
        EmbedError: the file is another one, or of another model or output.
    """
    fingerprint = served.fingerprint or ""
    model = {"name": served.name, "version": served.version, "fingerprint": fingerprint, "output": wanted.output[0]}
    model |= {"space": served.space} if served.space else {}
    old = _held(path, model) if path.exists() and not options.restart else Collection(model)
    done = {*old.keys, *(key for key, *_ in old.failed)}
    missing = {key: image for key, image in photos.items() if key not in done}
    if not missing and done <= photos.keys():
        return old
    with Journal(beside(path, "journal"), restart=options.restart) as journal:
        journal.begin({"format": FORMAT, "search": model})
        todo = [image for image in missing.values() if journal.claim(image.key)]
        before = len(missing) - len(todo)
        with Progress(len(missing), before, sys.stderr, command="search") as progress:
            if before:
                progress.note(f"going on after {before} images; --restart would start over")
            with closing(GatewayEngine(options, progress)) as engine:
                for _ in kept(journal, engine.outcomes(iter(todo), wanted), progress):
                    pass
        if journal.model and journal.model["fingerprint"] != fingerprint:
            raise EmbedError(f"The model has changed meanwhile. Search again with --restart; {path} is as it was.")
        _write(path, old, photos.keys(), journal, missing.keys())
        journal.path.unlink()
    return Collection.read(path)


def _held(path: Path, model: Mapping[str, Any]) -> Collection:
    """Return what the file has of this very model: nothing if it is of another version.

    Raises:
        EmbedError: it has vectors of another model or output.
    """
    found = Collection.read(path)
    old = found.model
    if (old["name"], old["output"]) != (model["name"], model["output"]):
        raise EmbedError(
            f"{path} has vectors of {old['name']}, output {old['output']}, which do not compare with those of "
            f"{model['name']}, output {model['output']}. Give another --vectors, or --restart to replace it."
        )
    spaces = {found.get("space", "") for found in (old, model)} - {""}
    if old["fingerprint"] == model["fingerprint"] and len(spaces) < 2:
        return found
    tell(
        sys.stderr,
        f"{path} is of {old['name']} version {old['version']} ({old['fingerprint'][:18]}…), the gateway serves version "
        f"{model['version']} ({model['fingerprint'][:18]}…): all photos are embedded again",
        "search",
    )
    return Collection(model)


def _write(path: Path, old: Collection, photos: Set[str], journal: Journal, missing: Set[str]) -> None:
    """Write the rows that stay, and those of the journal."""
    stay = [row for row, key in enumerate(old.keys) if key in photos]
    # An interrupted run may have embedded photos that have changed since.
    rows = [Row(row.key, {}, row.error) for row in journal.rows() if row.key in missing]
    keys = [*(old.keys[row] for row in stay), *(row.key for row in rows if row.error is None)]
    failed = [one for one in old.failed if one[0] in photos] + [(row.key, *row.error) for row in rows if row.error]
    first = next((row for row in journal.rows() if row.error is None), None)
    width = len(next(iter(first.vectors.values()))) // 4 if first else old.vectors.shape[1]
    with whole(path) as file:
        head = {"descr": "<f4", "fortran_order": False, "shape": (len(keys), width)}
        np.lib.format.write_array_header_1_0(file, head)
        for start in range(0, len(stay), _ROWS):
            file.write(old.vectors[stay[start : start + _ROWS]].tobytes())
        for row in journal.rows():
            if row.key in missing and row.error is None:
                file.write(next(iter(row.vectors.values())))
        document = {
            "format": _FORMAT,
            "model": old.model,
            "keys": [key.encode("utf-8", "surrogateescape") for key in keys],
            "failed": [(key.encode("utf-8", "surrogateescape"), kind, text) for key, kind, text in failed],
        }
        body = ormsgpack.packb(document)
        file.write(body + len(body).to_bytes(8, "little") + _MARK)
    sync_folder(path.absolute().parent)
