"""One run: embed what the journal lacks and append it there, then turn the journal into the result."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import BinaryIO, TextIO

from microtome.client.options import EmbedOptions
from microtome.client.results import Outcome
from microtome.commands.embed import sources, writers
from microtome.commands.embed.command import Options
from microtome.commands.embed.engine import Engine
from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.journal import Journal, Row
from microtome.commands.embed.progress import Progress
from microtome.commands.embed.sources import KeyedImage, pyarrow

SOME_FAILED = 3
"""Exit code of a run that is complete except for images that cannot be embedded; 1 is Python's, for a traceback."""

_FORMAT = 1


def run(options: Options, opened: Callable[[Options, Progress], Engine], stdin: TextIO, say: TextIO) -> int:
    """Do the run, or what is left of it, and return the exit code.

    Args:
        options: of the command line.
        opened: returns the engine.
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
            with closing(opened(options, progress)) as engine:
                wanted = _agreed(journal, options, engine)
                _embed(journal, options, engine.outcomes(_missing(journal, options, stdin), wanted), progress)
        writers.write(journal, options.out)
        _conclude(journal, options.out, say)
        return SOME_FAILED if journal.failed else 0


def _prepared(options: Options) -> Path:
    """Check the path of the result; return the journal's."""
    out, path = options.out, writers.beside(options.out, "journal")
    if options.restart:
        for old in (path, out):
            old.unlink(missing_ok=True)
    elif out.exists() and not path.exists():
        raise EmbedError(f"{out} is there already, and complete. Give --restart to replace it, or another --out.")
    if out.suffix == ".parquet":
        pyarrow()
    return path


def _agreed(journal: Journal, options: Options, engine: Engine) -> EmbedOptions:
    """Fix model and version for all parts of this run, so that vectors of two versions are never mixed."""
    if journal.head:
        name, version = journal.head["model"], journal.head["version"]
    else:
        name, version = engine.identify(options.wanted.model)
    asked = options.wanted
    wanted = replace(asked, model=asked.model or name, version=asked.version or version)
    head = {"format": _FORMAT, **asdict(wanted), "output": list(wanted.output)}
    del head["cache"]
    journal.begin(head)
    return wanted


def _missing(journal: Journal, options: Options, stdin: TextIO) -> Iterator[KeyedImage]:
    return (image for image in sources.images(options.paths, stdin) if journal.claim(image.key))


def _embed(journal: Journal, options: Options, outcomes: Iterator[Outcome], progress: Progress) -> None:
    # A killed run may have left the file incomplete; the journal is the truth.
    writers.write_errors(journal, options.out)
    with writers.beside(options.out, "errors.jsonl").open("ab") as errors:
        for outcome in outcomes:
            _keep(journal, errors, outcome)
            progress.advance(failed=outcome.error is not None)
    journal.sync()


def _keep(journal: Journal, errors: BinaryIO, outcome: Outcome) -> None:
    key: str = outcome.image.key
    if outcome.error is not None:
        row = Row(key, {}, (outcome.error.kind, writers.printable(str(outcome.error))))
        journal.put(row)
        errors.write(writers.error_line(row))
        errors.flush()
        return
    assert outcome.model is not None  # noqa: S101, for mypy: an outcome with vectors has a model
    journal.answered_by(outcome.model.name, outcome.model.version, outcome.model.fingerprint)
    journal.put(Row(key, {name: vector.tobytes() for name, vector in outcome.vectors.items()}))


def _conclude(journal: Journal, out: Path, say: TextIO) -> None:
    bad = f"; {journal.failed} failed, see {writers.beside(out, 'errors.jsonl')}" if journal.failed else ""
    say.write(f"microtome embed: {out} has {journal.embedded} vectors{bad}\n")
