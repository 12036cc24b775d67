"""`microtome embed` and `microtome classify`: the command line, exit codes, and messages when a run ends early."""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TextIO, get_args

from microtome.client.options import ClassOptions, Dtype, EmbedOptions, Function, Priority
from microtome.commands.embed.errors import EmbedError, tell
from microtome.commands.embed.keyed_images import MAX_IMAGE_BYTES

DESCRIPTION = "Embed folders, lists, tars or Parquet columns of images into one file; go on where it was stopped."
EPILOG = """\
The same command goes on with a run that was interrupted. Images that cannot be embedded are listed in
OUT.errors.jsonl. While the gateway is away the run waits. Exit codes: 0 all images embedded; 2 the run cannot be done
as asked; 3 some images could not be embedded; 130 interrupted by Ctrl-C.
"""
CLASSIFY_DESCRIPTION = (
    "Name what the images of folders, lists, tars or Parquet columns show, in one file; go on where it was stopped."
)
ENDINGS = {"embed": (".parquet", ".npy", ".jsonl"), "classify": (".csv", ".jsonl")}
"""Of results, by command."""
REFUSED, INTERRUPTED = 2, 130

_USUAL = 8
"""Requests at a time, and images in a request."""


def build_parser(command: str = "embed") -> argparse.ArgumentParser:
    """Describe the command line of `embed` or `classify`."""
    classify = command == "classify"
    parser = argparse.ArgumentParser(
        prog=f"microtome {command}",
        description=CLASSIFY_DESCRIPTION if classify else DESCRIPTION,
        epilog=EPILOG.replace("embedded", "classified") if classify else EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "paths",
        nargs="*",
        metavar="PATH",
        help="image files, folders (all images below), patterns, tars (WebDataset), FILE.parquet::COLUMN, for a model "
        "of images and text also FILE.txt, a text a line; any of them also as s3:// or gs://; or - for a list of files "
        "on standard input",
    )
    endings = " or ".join((", ".join(ENDINGS[command][:-1]), ENDINGS[command][-1]))
    what = "labels" if classify else "vectors"
    folder = "" if classify else "; with --engine ray a folder, or an address such as s3://bucket/vectors"
    add("--out", required=True, metavar="FILE", help=f"where the {what} go: {endings}{folder}")
    add("--restart", action="store_true", help="forget an earlier run with this --out; replace its result")
    add_gateway_to(parser)
    add("--version", type=positive, help="which version of it (the one in use when the run begins)")
    default = "the one that classifies" if classify else "the default output"
    add("--output", action="append", default=[], help=f"which output, repeatable; or all ({default})")
    if classify:
        add("--top-k", type=positive, default=1, metavar="N", help="the most labels of an image (%(default)s)")
        add("--min-score", type=float, metavar="X", help="leave out labels with a lower score")
        add("--function", choices=get_args(Function), help="from logits to scores (the output's own)")
        add(
            "--labels",
            type=_labels,
            default=(),
            metavar="A,B,C",
            help="what to choose among, in words, by a model of images and text; or @FILE, a label a line",
        )
        add(
            "--template",
            action="append",
            default=[],
            metavar="TEXT",
            help="what is said of a photo, each label in place of {}; of several the mean counts (a photo of a {})",
        )
    else:
        add("--text", action="append", default=[], metavar="TEXT", help="also embed this text, repeatable")
        add("--normalize", action="store_true", help="divide each vector by its Euclidean length, after the cut")
        add("--dimensions", type=positive, metavar="N", help="keep only so many numbers from each vector's beginning")
        add("--dtype", choices=get_args(Dtype), default="float32", help="how numbers are written (%(default)s)")
    add_reading_to(parser, ray=not classify)
    add(
        "--priority",
        choices=get_args(Priority),
        default="bulk",
        help="whether the gateway computes what others send first (%(default)s), or not (interactive)",
    )
    if classify:
        parser.set_defaults(engine="local", saved_model=None, text=[])
        return parser
    add("--engine", choices=("local", "ray"), default="local", help="this process, or a Ray cluster (%(default)s)")
    add("--saved-model", metavar="DIR", help="no gateway: this process, or Ray's actors, hold this version of a model")
    add("--ray-address", metavar="ADDRESS", help="of the cluster; without it RAY_ADDRESS, or Ray starts one here")
    add(
        "--num-gpus",
        type=_share,
        metavar="X",
        help="with --saved-model: GPUs of an actor, such as 1 or 0.5; 0 computes on CPUs (1 if the cluster has GPUs)",
    )
    add("--shard-rows", type=positive, default=2048, metavar="N", help="with --engine ray: rows a file (%(default)s)")
    return parser


def add_gateway_to(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which gateway is asked, and which of its models."""
    add = parser.add_argument
    url = os.environ.get("MICROTOME_URL", "http://localhost:8000")
    add("--url", default=url, help="the gateway, http(s):// or grpc(s):// (or MICROTOME_URL)")
    add("--api-key-file", type=Path, metavar="FILE", help="file with the key (or MICROTOME_API_KEY)")
    add("--ca-file", metavar="FILE", help="certificates (PEM) to trust instead of the system's")
    add("--model", help="which model (the gateway's first)")


def add_reading_to(parser: argparse.ArgumentParser, *, ray: bool = False) -> None:
    """Add the options that say how images are read and sent; with `ray` their defaults depend on the engine."""
    add = parser.add_argument
    actors = "; with --engine ray the most actors (as many as the cluster has room for)" if ray else ""
    model = "; with --saved-model in a batch (the model's own most)" if ray else ""
    usual = None if ray else _USUAL
    add("--concurrency", type=positive, default=usual, metavar="N", help=f"requests at a time ({_USUAL}){actors}")
    add("--batch", type=positive, default=usual, metavar="N", help=f"images in a request ({_USUAL}){model}")
    add("--follow-links", action="store_true", help="also read what links lead to out of a folder or a pattern")
    add(
        "--max-image-bytes",
        type=positive,
        default=MAX_IMAGE_BYTES,
        metavar="N",
        help="larger images are listed as errors (%(default)s, the most that a gateway takes unless told otherwise)",
    )


def read_key(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Set `api_key` to what its file holds, or the environment.

    Raises:
        SystemExit: With 2 when the file cannot be read.
    """
    key_file = options.api_key_file
    try:
        options.api_key = key_file.read_text().strip() if key_file else os.environ.get("MICROTOME_API_KEY")
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"--api-key-file {key_file}: {getattr(error, 'strerror', None) or 'it is no text'}")


def read(words: Sequence[str], command: str = "embed") -> argparse.Namespace:
    """Parse a command's line; `wanted` are the `EmbedOptions` that it names, `api_key` is read from its file.

    Raises:
        SystemExit: With 2 when it is wrong, with 0 after --help.
    """
    parser = build_parser(command)
    parser.set_defaults(command=command)
    options = parser.parse_args(words)
    read_key(parser, options)
    if not options.paths and not options.text:
        parser.error("Expected PATHs of images" + ("." if command == "classify" else ", or --text."))
    if options.saved_model and options.text:
        parser.error("--text needs a gateway; --saved-model takes images.")
    try:
        options.out = (_folder if options.engine == "ray" else partial(_out, command))(options.out)
    except argparse.ArgumentTypeError as error:
        parser.error(f"argument --out: {error}")
    if options.engine == "local":
        options.concurrency = options.concurrency or _USUAL
        options.batch = options.batch or (None if options.saved_model else _USUAL)
        if command == "embed" and options.num_gpus is not None:
            parser.error("--num-gpus goes with --engine ray.")
    if str(options.out).endswith(".npy") and (len(options.output) > 1 or options.output == ["all"]):
        parser.error("--out *.npy holds one output: name one with --output, or use .parquet or .jsonl.")
    if command == "classify":
        labels = ClassOptions(
            options.top_k, options.min_score, options.function, options.labels, tuple(options.template)
        )
        output = tuple(options.output)
        options.wanted = EmbedOptions(options.model, options.version, output, priority=options.priority, classes=labels)
        return options
    wanted = {
        name: getattr(options, name) for name in ("model", "version", "normalize", "dimensions", "dtype", "priority")
    }
    options.wanted = EmbedOptions(output=tuple(options.output), **wanted)
    return options


def _out(command: str, text: str) -> Path:
    path, endings = Path(text), ENDINGS[command]
    if path.suffix not in endings:
        raise argparse.ArgumentTypeError(f"expected a file that ends in {', '.join(endings)}; received {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder")
    return path


def _folder(text: str) -> str:
    """Parse the folder that Ray's workers fill; absolute, since they have other working directories."""
    if text.rstrip("/").endswith(ENDINGS["embed"]):
        raise argparse.ArgumentTypeError(
            f"with --engine ray it is a folder, which the workers fill with Parquet files; received {text!r}"
        )
    if "://" in text:
        return text.rstrip("/")
    path = Path(text).absolute()
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a file; with --engine ray it is a folder")
    return str(path)


def _share(text: str) -> float:
    """Parse a number of GPUs: a part of one, or a whole number."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not (0 <= number < 1 or (number.is_integer() and number < 1 << 10)):
        raise argparse.ArgumentTypeError(f"expected a part of one GPU, or a whole number of them; received {text!r}")
    return number


def _labels(text: str) -> tuple[str, ...]:
    try:
        given = Path(text[1:]).read_text(encoding="utf-8").splitlines() if text.startswith("@") else text.split(",")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8"
        raise argparse.ArgumentTypeError(f"expected a file of labels, a line each: {text[1:]}: {why}") from None
    labels = tuple(label.strip() for label in given if label.strip())
    if not labels:
        raise argparse.ArgumentTypeError("expected at least one label")
    return labels


def positive(text: str) -> int:
    """Parse a whole number from 1 up."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 up, received {text!r}")
    return int(text)


def main(argv: Sequence[str]) -> int:
    """Run the command line, whose first word is `embed` or `classify`, and return its exit code.

    Raises:
        SystemExit: With 2 when the command line itself is wrong, with 0 after `--help`.
    """
    options = read(argv[1:], argv[0])
    # Imported after the command line has been read, so that --help is instant.
    from microtome.client.errors import MicrotomeError  # noqa: PLC0415
    from microtome.commands.embed import runner  # noqa: PLC0415

    try:
        return runner.run(options, _paths(sys.stdin), sys.stderr)
    except (EmbedError, MicrotomeError, ValueError, OSError) as error:
        tell(sys.stderr, str(error), argv[0])
        return REFUSED
    except MemoryError:
        tell(
            sys.stderr,
            "not enough memory. Give a lower --concurrency, --batch or --max-image-bytes; the run goes on from here",
            argv[0],
        )
        return REFUSED
    except KeyboardInterrupt:
        tell(sys.stderr, "interrupted; the same command goes on from here", argv[0])
        return INTERRUPTED


def _paths(stdin: TextIO) -> TextIO:
    """Return standard input as paths, which need not be UTF-8.

    Another object, since Python cannot end while a thread waits for a line of `sys.stdin`.
    """
    try:
        return open(stdin.fileno(), encoding="utf-8", errors="surrogateescape", closefd=False)
    except (OSError, ValueError, AttributeError):  # not a file, or none
        return stdin
