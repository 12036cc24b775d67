"""One run: embed what the journal lacks and append it there, then turn the journal into the result.

Every file of the result is written under another name, synced and renamed, so it is complete or absent. The journal is
removed last, when the names are on the disk, so a run that is killed here writes the files again.
"""

import csv
import fcntl
import io
import os
import socket
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import orjson
import ormsgpack

from microtome.client.options import NUMPY, Dtype, EmbedOptions
from microtome.client.results import Outcome
from microtome.commands.embed import sources, stores
from microtome.commands.embed.engine import Engine, GatewayEngine
from microtome.commands.embed.errors import EmbedError, servers_packages, tell, writing
from microtome.commands.embed.journal import FORMAT, Journal, Row
from microtome.commands.embed.keyed_images import KeyedText, Rules
from microtome.commands.embed.progress import Progress
from microtome.commands.embed.shards import OWN
from microtome.commands.embed.stores import pyarrow, sync_folder, whole

SOME_FAILED = 3
"""Exit code of a run that is complete except for images that cannot be embedded; 1 is Python's, for a traceback."""

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
    if options.engine == "ray":
        return _on_ray(options, stdin, say)
    out, path = options.out, beside(options.out, "journal")
    if out.suffix == ".parquet":
        pyarrow()
    with alone(out):
        if out.exists() and not (path.exists() or options.restart):
            raise EmbedError(f"{out} is there already, and complete. Give --restart to replace it, or another --out.")
        return _resume(options, path, stdin, say)


def _resume(options: Namespace, path: Path, stdin: TextIO, say: TextIO) -> int:
    rules = Rules(options.follow_links, options.max_image_bytes)
    texts = [KeyedText(text, text) for text in options.text]
    counted = sources.count(options.paths, rules)
    total = None if counted is None else counted + len(texts)
    with Journal(path, restart=options.restart) as journal:
        done = journal.embedded + journal.failed
        with Progress(total, done, say, command=options.command) as progress:
            if journal.lost:
                progress.note(
                    f"the last {journal.lost} bytes of {path} were incomplete; their images are embedded again"
                )
            if done:
                progress.note(f"going on after {done} images; --restart would start over")
            with closing(_engine(options, progress)) as engine:
                wanted = _agreed(journal, options, engine)
                listed = chain(texts, sources.images(options.paths, stdin, rules))
                missing = (image for image in listed if journal.claim(image.key))
                _embed(journal, options, engine.outcomes(missing, wanted), progress)
        write(journal, options.out)
        what = "vectors" if options.wanted.classes is None else "images with their labels"
        errors = beside(options.out, "errors.jsonl")
        return _told(options, say, f"{journal.embedded} {what}", journal.failed, str(errors))


def _on_ray(options: Namespace, stdin: TextIO, say: TextIO) -> int:
    from microtome.commands.embed import ray_engine  # noqa: PLC0415, Ray may not be installed

    # A store has no locks.
    with nullcontext() if stores.is_address(options.out) else alone(Path(options.out)):
        embedded, failed = ray_engine.run(options, stdin, say)
    return _told(options, say, f"{embedded} vectors", failed, stores.joined(options.out, OWN, "errors"))


def _told(options: Namespace, say: TextIO, what: str, failed: int, errors: str) -> int:
    bad = f"; {failed} failed, see {errors}" if failed else ""
    tell(say, f"{options.out} has {what}{bad}", options.command)
    return SOME_FAILED if failed else 0


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the lock of a result: nothing of it is read, written or removed by two runs.

    Raises:
        EmbedError: another run holds it; the message names its process.
    """
    path = beside(out, "lock")
    with writing(path):
        file = _locked(path, out)
    with file:
        with writing(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path, out: Path) -> TextIO:
    while True:
        file = path.open("a+", encoding="utf-8", errors="replace")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its holder removes the file; a lock on what was removed locks nothing.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
            file.close()
        except BlockingIOError:
            with file:
                file.seek(0)
                holder = file.read(500).strip() or "another process"
            raise EmbedError(
                f"{out} is being written by {holder}. Wait for its end, end it, or choose another --out."
            ) from None
        except OSError:
            file.close()
            raise


def _engine(options: Namespace, progress: Progress) -> Engine:
    if not options.saved_model:
        return GatewayEngine(options, progress)
    with servers_packages():
        from microtome.commands.embed.saved_model import SavedModelEngine  # noqa: PLC0415

        return SavedModelEngine(options)


def _agreed(journal: Journal, options: Namespace, engine: Engine) -> EmbedOptions:
    """Fix model and version for all parts of this run, so that vectors of two versions are never mixed."""
    if journal.head:
        name, version = journal.head["model"], journal.head["version"]
    else:
        name, version = engine.identify(options.wanted.model)
    asked: EmbedOptions = options.wanted
    wanted = replace(asked, model=asked.model or name, version=asked.version or version)
    head = {"format": FORMAT, **asdict(wanted), "output": list(wanted.output)}
    # A run may go on with another one: the vectors are the same.
    del head["cache"], head["priority"]
    if wanted.classes is None:
        del head["classes"]
    else:
        # As the journal gives them back, and as those before labels in words have them.
        given = asdict(wanted.classes)
        words = {name: list(given.pop(name)) for name in ("labels", "template")}
        head["classes"] = given | {name: value for name, value in words.items() if value}
    journal.begin(head)
    return wanted


def _embed(journal: Journal, options: Namespace, outcomes: Iterator[Outcome], progress: Progress) -> None:
    # A killed run may have left the file incomplete; the journal is the truth.
    write_errors(journal, options.out)
    errors = beside(options.out, "errors.jsonl")
    for row in kept(journal, outcomes, progress):
        if row.error is not None:
            with writing(errors), errors.open("ab") as file:
                file.write(error_line(row))


def kept(journal: Journal, outcomes: Iterator[Outcome], progress: Progress) -> Iterator[Row]:
    """Append each outcome to the journal and yield what was appended; all of it is on the disk at the end.

    Raises:
        EmbedError: an outcome is of another model than those before.
    """
    for outcome in outcomes:
        row = _row(journal, outcome)
        journal.put(row)
        yield row
        progress.advance(failed=row.error is not None)
    journal.sync()


def _row(journal: Journal, outcome: Outcome) -> Row:
    key: str = outcome.image.key
    if outcome.error is not None:
        return Row(key, {}, (outcome.error.kind, printable(str(outcome.error))))
    assert outcome.model is not None  # noqa: S101, for mypy: an outcome with vectors has a model
    journal.answered_by(outcome.model)
    packed = {name: vector.tobytes() for name, vector in outcome.vectors.items()}
    if "classes" in journal.head:
        packed = {name: ormsgpack.packb(asdict(one)) for name, one in outcome.predictions.items()}
    return Row(key, packed)


def write(journal: Journal, out: Path) -> None:
    """Write vectors or labels, their keys, the errors and the description; then remove the journal."""
    (CLASS_WRITERS if "classes" in journal.head else WRITERS)[out.suffix](journal, out)
    write_errors(journal, out)
    with whole(beside(out, "about.json")) as file:
        file.write(orjson.dumps(_about(journal), option=orjson.OPT_INDENT_2) + b"\n")
    sync_folder(out.parent)
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
    with whole(path) as file:
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
    with whole(out) as file, whole(beside(out, "keys.jsonl")) as keys:
        np.lib.format.write_array_header_1_0(file, head)
        for row in _good(journal):
            file.write(next(iter(row.vectors.values())))
            keys.write(orjson.dumps(printable(row.key)) + b"\n")


def _jsonl(journal: Journal, out: Path) -> None:
    """Write one object per line: the key, and a list of numbers for each output under its name."""
    with whole(out) as file:
        for row in _good(journal):
            vectors = {name: _numbers(journal, packed) for name, packed in row.vectors.items()}
            line = orjson.dumps({"key": printable(row.key), **vectors}, option=orjson.OPT_SERIALIZE_NUMPY)
            file.write(line + b"\n")


def _parquet(journal: Journal, out: Path) -> None:
    """Write a column of keys, and one of vectors for each output; the description is in the schema's metadata."""
    rows, dtype = _good(journal), journal.head["dtype"]
    group = list(islice(rows, _ROWS))
    table = vector_table(group, dtype, _about(journal))
    with whole(out) as file, pyarrow().ParquetWriter(file, table.schema) as writer:
        while group:
            writer.write_table(table)
            group = list(islice(rows, _ROWS))
            table = vector_table(group, dtype, _about(journal))


def vector_table(rows: Sequence[Row], dtype: Dtype, about: Mapping[str, Any]) -> Any:  # noqa: ANN401, pyarrow has no types
    """Return rows as an Arrow table: `key`, and a fixed-size list of numbers for each output under its name."""
    pa = pyarrow("pyarrow")
    columns = {"key": pa.array([printable(row.key) for row in rows], pa.string())}
    for name, first in rows[0].vectors.items() if rows else ():
        flat = np.frombuffer(b"".join(row.vectors[name] for row in rows), NUMPY[dtype])
        width = len(first) // flat.itemsize
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
    return pa.table(columns, metadata={"microtome": orjson.dumps(about)})


WRITERS: Mapping[str, Callable[[Journal, Path], None]] = {".npy": _npy, ".jsonl": _jsonl, ".parquet": _parquet}
"""Writers by the ending of the result's file."""


def _csv(journal: Journal, out: Path) -> None:
    """Write a line for each label, the best first; one without label for an image that has none."""
    with whole(out) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(("key", "output", "rank", "label", "id", "index", "score", "rejected"))
        for row in _good(journal):
            for output, packed in row.vectors.items():
                found = ormsgpack.unpackb(packed)
                rejected = str(found["rejected"]).lower()
                for rank, label in enumerate(found["labels"] or [{}], 1):
                    words = (label.get(name, "") for name in ("name", "id", "index", "score"))
                    lines.writerow((printable(row.key), output, rank, *words, rejected))
        text.detach()


def _class_lines(journal: Journal, out: Path) -> None:
    """Write one object per line: the key, and the prediction of each output under its name."""
    with whole(out) as file:
        for row in _good(journal):
            found = {name: ormsgpack.unpackb(packed) for name, packed in row.vectors.items()}
            file.write(orjson.dumps({"key": printable(row.key), **found}) + b"\n")


CLASS_WRITERS: Mapping[str, Callable[[Journal, Path], None]] = {".csv": _csv, ".jsonl": _class_lines}
"""Of labels, by the ending of the result's file."""
