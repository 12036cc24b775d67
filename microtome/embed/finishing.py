"""Make of a finished journal the file that was asked for, in its form, and what stands beside it.

Every file is written under another name, brought to the disk, and renamed: it is there whole or not at all. The journal
goes last, so a run that is killed here does this again.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from microtome.client.options import NUMPY
from microtome.embed.errors import EmbedError
from microtome.embed.journal import Journal, Row
from microtome.embed.parquet import pyarrow

_ROWS = 512
"""Rows of a Parquet row group: a megabyte or two of vectors."""


@dataclass(frozen=True, slots=True)
class Made:
    """What is written, and how its numbers are read.

    Attributes:
        rows: opens the results with vectors, from the first; may be called again.
        count: how many they are.
        dtype: how their numbers were asked for.
        about: who made them, and with which options.
    """

    rows: Callable[[], Iterator[Row]]
    count: int
    dtype: str
    about: Mapping[str, Any]

    def numbers(self, packed: bytes) -> "np.ndarray[Any, Any]":
        """Return one vector [D]."""
        return np.frombuffer(packed, NUMPY[self.dtype])


def write(journal: Journal, out: Path) -> None:
    """Write the vectors, their keys, the errors and the facts; then remove the journal."""
    head = journal.head or {}

    def good() -> Iterator[Row]:
        return (row for row in journal.rows() if row.error is None)

    about = {"model": journal.model, "asked": head, "embedded": journal.embedded, "failed": journal.failed}
    WRITERS[out.suffix](Made(good, journal.embedded, str(head["dtype"]), about), out)
    errors = ({"key": r.key, "type": r.error[0], "detail": r.error[1]} for r in journal.rows() if r.error)
    write_errors(out, errors)
    with _whole(beside(out, "about.json")) as file:
        file.write(orjson.dumps(about, option=orjson.OPT_INDENT_2) + b"\n")
    journal.path.unlink()


def beside(out: Path, what: str) -> Path:
    """Name a file that belongs to the result: `vectors.npy.errors.jsonl`."""
    return out.with_name(f"{out.name}.{what}")


def write_errors(out: Path, errors: Iterable[Mapping[str, str]]) -> None:
    """Write the side file of images that failed; there is none when none did."""
    path = beside(out, "errors.jsonl")
    with _whole(path) as file:
        file.writelines(error_line(error) for error in errors)
    if not path.stat().st_size:
        path.unlink()


def error_line(error: Mapping[str, str]) -> bytes:
    """Write one line of the side file."""
    return orjson.dumps(_speakable(error)) + b"\n"


def _speakable(texts: Mapping[str, str]) -> dict[str, str]:
    # File names need not be UTF-8; what cannot be said in JSON is shown as \udc80 would be in Python.
    return {name: text.encode("utf-8", "backslashreplace").decode() for name, text in texts.items()}


def _npy(made: Made, out: Path) -> None:
    """One array [N, D], and the keys of its rows beside it."""
    rows = made.rows()
    first = next(rows, None)
    if first and len(first.vectors) != 1:
        raise EmbedError(
            f"--out {out.name} holds one output, received {', '.join(first.vectors)}: use .parquet or .jsonl."
        )
    width = len(made.numbers(next(iter(first.vectors.values())))) if first else 0
    head = {"descr": NUMPY[made.dtype], "fortran_order": False, "shape": (made.count, width)}
    with _whole(out) as file, _whole(beside(out, "keys.jsonl")) as keys:
        np.lib.format.write_array_header_1_0(file, head)
        for row in made.rows():
            file.write(next(iter(row.vectors.values())))
            keys.write(orjson.dumps(_speakable({"key": row.key})["key"]) + b"\n")


def _jsonl(made: Made, out: Path) -> None:
    """One object a line: the key, and a list of numbers for each output under its name."""
    with _whole(out) as file:
        for row in made.rows():
            vectors = {name: made.numbers(packed) for name, packed in row.vectors.items()}
            file.write(
                orjson.dumps({**_speakable({"key": row.key}), **vectors}, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n"
            )


def _parquet(made: Made, out: Path) -> None:
    """A column of keys, and one of vectors for each output under its name; facts in the schema's metadata."""
    pa, parquet = pyarrow("pyarrow"), pyarrow()
    first = next(made.rows(), None)
    widths = {name: len(made.numbers(packed)) for name, packed in first.vectors.items()} if first else {}
    kind = pa.from_numpy_dtype(np.dtype(NUMPY[made.dtype]))
    schema = pa.schema(
        [("key", pa.string()), *((name, pa.list_(kind, width)) for name, width in widths.items())],
        metadata={"microtome": orjson.dumps(made.about)},
    )
    rows = made.rows()
    with _whole(out) as file, parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, _ROWS)):
            columns = [pa.array([_speakable({"key": row.key})["key"] for row in group])]
            for name, width in widths.items():
                flat = made.numbers(b"".join(row.vectors[name] for row in group))
                columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), width))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


WRITERS: Mapping[str, Callable[[Made, Path], None]] = {".npy": _npy, ".jsonl": _jsonl, ".parquet": _parquet}
"""By the ending of the file that is asked for."""


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Write a file that is there whole or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
