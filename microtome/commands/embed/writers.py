"""Write the result of a finished journal in its format, and the files that go with it.

Every file is written under another name, synced and renamed, so it is complete or absent. The journal is removed last,
so a run that is killed here writes the files again.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from microtome.client.options import NUMPY
from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.journal import Journal, Row
from microtome.commands.embed.sources import pyarrow

_ROWS = 512
"""Rows of a Parquet row group: a megabyte or two of vectors."""


@dataclass(frozen=True, slots=True)
class Result:
    """Rows to write, and how to read their numbers.

    Attributes:
        rows: returns the results with vectors, from the first; may be called several times.
        count: the number of rows.
        dtype: of their numbers.
        about: model, options and counts.
    """

    rows: Callable[[], Iterator[Row]]
    count: int
    dtype: str
    about: Mapping[str, Any]

    def numbers(self, packed: bytes) -> "np.ndarray[Any, Any]":
        """Return one vector [D]."""
        return np.frombuffer(packed, NUMPY[self.dtype])


def write(journal: Journal, out: Path) -> None:
    """Write the vectors, their keys, the errors and the description; then remove the journal."""
    head = journal.head or {}

    def good() -> Iterator[Row]:
        return (row for row in journal.rows() if row.error is None)

    about = {"model": journal.model, "asked": head, "embedded": journal.embedded, "failed": journal.failed}
    WRITERS[out.suffix](Result(good, journal.embedded, str(head["dtype"]), about), out)
    write_errors(journal, out)
    with _whole(beside(out, "about.json")) as file:
        file.write(orjson.dumps(about, option=orjson.OPT_INDENT_2) + b"\n")
    journal.path.unlink()


def beside(out: Path, what: str) -> Path:
    """Name a file that belongs to the result: `vectors.npy.errors.jsonl`."""
    return out.with_name(f"{out.name}.{what}")


def write_errors(journal: Journal, out: Path) -> None:
    """Write the file of images that failed; there is none when none did."""
    path = beside(out, "errors.jsonl")
    with _whole(path) as file:
        file.writelines(error_line(row) for row in journal.rows() if row.error)
    if not path.stat().st_size:
        path.unlink()


def error_line(row: Row) -> bytes:
    """Return one line of that file."""
    kind, detail = row.error or ("", "")
    return orjson.dumps({"key": printable(row.key), "type": kind, "detail": detail}) + b"\n"


def printable(text: str) -> str:
    """Return text that can be encoded: file names need not be UTF-8, and other bytes are shown with a backslash."""
    return text.encode("utf-8", "backslashreplace").decode()


def _npy(result: Result, out: Path) -> None:
    """Write one array [N, D], and the keys of its rows in another file."""
    rows = result.rows()
    first = next(rows, None)
    if first and len(first.vectors) != 1:
        raise EmbedError(
            f"--out {out.name} holds one output, received {', '.join(first.vectors)}: use .parquet or .jsonl."
        )
    width = len(result.numbers(next(iter(first.vectors.values())))) if first else 0
    head = {"descr": NUMPY[result.dtype], "fortran_order": False, "shape": (result.count, width)}
    with _whole(out) as file, _whole(beside(out, "keys.jsonl")) as keys:
        np.lib.format.write_array_header_1_0(file, head)
        for row in result.rows():
            file.write(next(iter(row.vectors.values())))
            keys.write(orjson.dumps(printable(row.key)) + b"\n")


def _jsonl(result: Result, out: Path) -> None:
    """Write one object per line: the key, and a list of numbers for each output under its name."""
    with _whole(out) as file:
        for row in result.rows():
            vectors = {name: result.numbers(packed) for name, packed in row.vectors.items()}
            line = orjson.dumps({"key": printable(row.key), **vectors}, option=orjson.OPT_SERIALIZE_NUMPY)
            file.write(line + b"\n")


def _parquet(result: Result, out: Path) -> None:
    """Write a column of keys, and one of vectors for each output; the description is in the schema's metadata."""
    pa, parquet = pyarrow("pyarrow"), pyarrow()
    first = next(result.rows(), None)
    widths = {name: len(result.numbers(packed)) for name, packed in first.vectors.items()} if first else {}
    kind = pa.from_numpy_dtype(np.dtype(NUMPY[result.dtype]))
    schema = pa.schema(
        [("key", pa.string()), *((name, pa.list_(kind, width)) for name, width in widths.items())],
        metadata={"microtome": orjson.dumps(result.about)},
    )
    rows = result.rows()
    with _whole(out) as file, parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, _ROWS)):
            columns = [pa.array([printable(row.key) for row in group])]
            for name, width in widths.items():
                flat = result.numbers(b"".join(row.vectors[name] for row in group))
                columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), width))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


WRITERS: Mapping[str, Callable[[Result, Path], None]] = {".npy": _npy, ".jsonl": _jsonl, ".parquet": _parquet}
"""Writers by the ending of the result's file."""


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Write a file that is complete or absent."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
