"""One run: embed what the journal lacks and append it there, then turn the journal into the result.

Every file of the result is written under another name, synced and renamed, so it is complete or absent. The journal is
removed last, so a run that is killed here writes the files again.
"""

import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import orjson

from microtome.client.options import NUMPY, EmbedOptions
from microtome.client.results import Outcome
from microtome.commands.embed import sources
from microtome.commands.embed.engine import Engine, GatewayEngine
from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.journal import Journal, Row
from microtome.commands.embed.progress import Progress
from microtome.commands.embed.sources import pyarrow

SOME_FAILED = 3
"""Exit code of a run that is complete except for images that cannot be embedded; 1 is Python's, for a traceback."""

_FORMAT = 1

_ROWS = 512
"""Rows of a Parquet row group: a megabyte or two of vectors."""


def run(options: Namespace, stdin: TextIO, say: TextIO) -> int:
    """Do the run, or what is left of it, and return the exit code.

    Args:
        options: of the command line.
        stdin: the list of files for the path `-`.
        say: where progress is written.

    Raises:
        EmbedError: the run cannot be done as asked.
        MicrotomeError: the gateway refused it.
    """
    path = _prepared(options)
    total = sources.count(options.paths)
    with Journal(path) as journal:
        done = journal.embedded + journal.failed
        with Progress(total, done, say) as progress:
            if done:
                progress.note(f"going on after {done} images; --restart would start over")
            with closing(_engine(options, progress)) as engine:
                wanted = _agreed(journal, options, engine)
                missing = (image for image in sources.images(options.paths, stdin) if journal.claim(image.key))
                _embed(journal, options, engine.outcomes(missing, wanted), progress)
        write(journal, options.out)
        bad = f"; {journal.failed} failed, see {beside(options.out, 'errors.jsonl')}" if journal.failed else ""
        say.write(f"microtome embed: {options.out} has {journal.embedded} vectors{bad}\n")
        return SOME_FAILED if journal.failed else 0


def _engine(options: Namespace, progress: Progress) -> Engine:
    if options.engine == "ray":
        from microtome.commands.embed.ray_engine import RayEngine  # noqa: PLC0415, Ray may not be installed

        return RayEngine(options, progress)
    return GatewayEngine(options, progress)


def _prepared(options: Namespace) -> Path:
    """Check the path of the result; return the journal's."""
    out, path = options.out, beside(options.out, "journal")
    if options.restart:
        for old in (path, out):
            old.unlink(missing_ok=True)
    elif out.exists() and not path.exists():
        raise EmbedError(f"{out} is there already, and complete. Give --restart to replace it, or another --out.")
    if out.suffix == ".parquet":
        pyarrow()
    return path


def _agreed(journal: Journal, options: Namespace, engine: Engine) -> EmbedOptions:
    """Fix model and version for all parts of this run, so that vectors of two versions are never mixed."""
    if journal.head:
        name, version = journal.head["model"], journal.head["version"]
    else:
        name, version = engine.identify(options.wanted.model)
    asked: EmbedOptions = options.wanted
    wanted = replace(asked, model=asked.model or name, version=asked.version or version)
    head = {"format": _FORMAT, **asdict(wanted), "output": list(wanted.output)}
    del head["cache"]
    journal.begin(head)
    return wanted


def _embed(journal: Journal, options: Namespace, outcomes: Iterator[Outcome], progress: Progress) -> None:
    # A killed run may have left the file incomplete; the journal is the truth.
    write_errors(journal, options.out)
    with beside(options.out, "errors.jsonl").open("ab") as errors:
        for outcome in outcomes:
            _keep(journal, errors, outcome)
            progress.advance(failed=outcome.error is not None)
    journal.sync()


def _keep(journal: Journal, errors: BinaryIO, outcome: Outcome) -> None:
    key: str = outcome.image.key
    if outcome.error is not None:
        row = Row(key, {}, (outcome.error.kind, printable(str(outcome.error))))
        journal.put(row)
        errors.write(error_line(row))
        errors.flush()
        return
    assert outcome.model is not None  # noqa: S101, for mypy: an outcome with vectors has a model
    journal.answered_by(outcome.model.name, outcome.model.version, outcome.model.fingerprint)
    journal.put(Row(key, {name: vector.tobytes() for name, vector in outcome.vectors.items()}))


def write(journal: Journal, out: Path) -> None:
    """Write the vectors, their keys, the errors and the description; then remove the journal."""
    WRITERS[out.suffix](journal, out)
    write_errors(journal, out)
    with _whole(beside(out, "about.json")) as file:
        file.write(orjson.dumps(_about(journal), option=orjson.OPT_INDENT_2) + b"\n")
    journal.path.unlink()


def _about(journal: Journal) -> dict[str, Any]:
    """Return model, options and counts."""
    return {"model": journal.model, "asked": journal.head, "embedded": journal.embedded, "failed": journal.failed}


def _good(journal: Journal) -> Iterator[Row]:
    return (row for row in journal.rows() if row.error is None)


def _numbers(journal: Journal, packed: bytes) -> "np.ndarray[Any, Any]":
    return np.frombuffer(packed, NUMPY[journal.head["dtype"]])


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


def _npy(journal: Journal, out: Path) -> None:
    """Write one array [N, D], and the keys of its rows in another file."""
    first = next(_good(journal), None)
    if first and len(first.vectors) != 1:
        raise EmbedError(
            f"--out {out.name} holds one output, received {', '.join(first.vectors)}: use .parquet or .jsonl."
        )
    width = len(_numbers(journal, next(iter(first.vectors.values())))) if first else 0
    head = {"descr": NUMPY[journal.head["dtype"]], "fortran_order": False, "shape": (journal.embedded, width)}
    with _whole(out) as file, _whole(beside(out, "keys.jsonl")) as keys:
        np.lib.format.write_array_header_1_0(file, head)
        for row in _good(journal):
            file.write(next(iter(row.vectors.values())))
            keys.write(orjson.dumps(printable(row.key)) + b"\n")


def _jsonl(journal: Journal, out: Path) -> None:
    """Write one object per line: the key, and a list of numbers for each output under its name."""
    with _whole(out) as file:
        for row in _good(journal):
            vectors = {name: _numbers(journal, packed) for name, packed in row.vectors.items()}
            line = orjson.dumps({"key": printable(row.key), **vectors}, option=orjson.OPT_SERIALIZE_NUMPY)
            file.write(line + b"\n")


def _parquet(journal: Journal, out: Path) -> None:
    """Write a column of keys, and one of vectors for each output; the description is in the schema's metadata."""
    pa, parquet = pyarrow("pyarrow"), pyarrow()
    rows = _good(journal)
    first = next(_good(journal), None)
    widths = {name: len(_numbers(journal, packed)) for name, packed in first.vectors.items()} if first else {}
    kind = pa.from_numpy_dtype(np.dtype(NUMPY[journal.head["dtype"]]))
    schema = pa.schema(
        [("key", pa.string()), *((name, pa.list_(kind, width)) for name, width in widths.items())],
        metadata={"microtome": orjson.dumps(_about(journal))},
    )
    with _whole(out) as file, parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, _ROWS)):
            columns = [pa.array([printable(row.key) for row in group])]
            for name, width in widths.items():
                flat = _numbers(journal, b"".join(row.vectors[name] for row in group))
                columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), width))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


WRITERS: Mapping[str, Callable[[Journal, Path], None]] = {".npy": _npy, ".jsonl": _jsonl, ".parquet": _parquet}
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
