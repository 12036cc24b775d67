"""One run: what is not in the journal yet is embedded and appended to it, then the journal becomes the result."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from microtome.client.options import EmbedOptions
from microtome.client.outcomes import Outcome
from microtome.embed import finishing, sources
from microtome.embed.arguments import Options
from microtome.embed.engine import Engine
from microtome.embed.errors import EmbedError
from microtome.embed.images import Located
from microtome.embed.journal import Journal, Row
from microtome.embed.parquet import pyarrow
from microtome.embed.progress import Progress

SOME_FAILED = 3
"""Exit code of a run that is complete but for images that cannot be embedded; 1 is Python's, for the unforeseen."""

_FORMAT = 1


def run(options: Options, opened: Callable[[Options, Progress], Engine], stdin: TextIO, say: TextIO) -> int:
    """Do what was asked, or what is left of it, and return the exit code.

    Args:
        options: what was asked.
        opened: makes the engine.
        stdin: where a list of files comes from.
        say: where progress goes.

    Raises:
        EmbedError: it cannot be done as asked.
        MicrotomeError: the gateway says so.
    """
    path = _prepared(options)
    total = sources.count(options.paths)
    with Journal(path) as journal:
        done = journal.embedded + journal.failed
        with Progress(total, done, say) as progress:
            if done:
                progress.note(f"going on after {done} images; --restart would begin anew")
            with opened(options, progress) as engine:
                wanted = _agreed(journal, options, engine)
                _embed(journal, options, engine.outcomes(_missing(journal, options, stdin), wanted), progress)
        finishing.write(journal, options.out)
        _conclude(journal, options.out, say)
        return SOME_FAILED if journal.failed else 0


def _prepared(options: Options) -> Path:
    """Look at what lies at the result's place; return the journal's."""
    out, path = options.out, finishing.beside(options.out, "journal")
    if options.restart:
        for old in (path, out):
            old.unlink(missing_ok=True)
    elif out.exists() and not path.exists():
        raise EmbedError(f"{out} is there already, and complete. Give --restart to make it anew, or another --out.")
    if out.suffix == ".parquet":
        pyarrow()
    return path


def _agreed(journal: Journal, options: Options, engine: Engine) -> EmbedOptions:
    """Settle model and version for all lives of this run, so that vectors of two versions never meet."""
    if journal.head:
        name, version = journal.head["model"], journal.head["version"]
    else:
        name, version = engine.identify(options.model)
    wanted = EmbedOptions(
        model=options.model or name,
        version=options.version or version,
        output=options.output,
        normalize=options.normalize,
        dimensions=options.dimensions,
        dtype=options.dtype,
    )
    journal.begin(
        {
            "format": _FORMAT,
            "model": wanted.model,
            "version": wanted.version,
            "output": list(wanted.output),
            "normalize": wanted.normalize,
            "dimensions": wanted.dimensions,
            "dtype": wanted.dtype,
        }
    )
    return wanted


def _missing(journal: Journal, options: Options, stdin: TextIO) -> Iterator[Located]:
    return (image for image in sources.images(options.paths, stdin) if journal.claim(image.key))


def _embed(journal: Journal, options: Options, outcomes: Iterator[Outcome], progress: Progress) -> None:
    failed = ({"key": row.key, "type": row.error[0], "detail": row.error[1]} for row in journal.rows() if row.error)
    # What a killed run left there may be torn; the journal knows.
    finishing.write_errors(options.out, failed)
    with finishing.beside(options.out, "errors.jsonl").open("ab") as errors:
        for outcome in outcomes:
            _keep(journal, errors, outcome)
            progress.advance(failed=outcome.error is not None)
    journal.sync()


def _keep(journal: Journal, errors: BinaryIO, outcome: Outcome) -> None:
    key: str = outcome.image.key
    if outcome.error is not None:
        detail = str(outcome.error).encode("utf-8", "backslashreplace").decode()
        journal.put(Row(key, {}, (outcome.error.kind, detail)))
        errors.write(finishing.error_line({"key": key, "type": outcome.error.kind, "detail": detail}))
        errors.flush()
        return
    assert outcome.model is not None  # noqa: S101, for mypy: who has vectors has a model
    journal.answered_by(outcome.model.name, outcome.model.version, outcome.model.fingerprint)
    journal.put(Row(key, {name: vector.tobytes() for name, vector in outcome.vectors.items()}))


def _conclude(journal: Journal, out: Path, say: TextIO) -> None:
    bad = f"; {journal.failed} failed, see {finishing.beside(out, 'errors.jsonl')}" if journal.failed else ""
    say.write(f"microtome embed: {out} has {journal.embedded} vectors{bad}\n")
