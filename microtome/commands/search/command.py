"""`microtome search`: the command line, what is looked for, and the result as text, JSON or a page."""

import argparse
import base64
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from microtome.commands.embed.command import INTERRUPTED, REFUSED, add_gateway_to, add_reading_to, positive, read_key
from microtome.commands.embed.errors import EmbedError, tell
from microtome.commands.embed.keyed_images import ImageFile, KeyedText
from microtome.errors import shown

if TYPE_CHECKING:
    from microtome.client.client import Client
    from microtome.client.options import EmbedOptions
    from microtome.client.results import ModelInfo, ModelVersion
    from microtome.commands.search.collection import Collection, Vectors

_DESCRIPTION = """\
Show the photos of a folder that are nearest to others, or to words, by the cosine of a served model's vectors. The
vectors are kept in a file: the next search only embeds photos that are new or have changed."""
_EPILOG = """\
A running gateway embeds the photos: microtome up starts one. A photo that is looked for is not listed as its own
neighbour. Words need a model of images and text. Exit codes: 0 done; 2 the search cannot be done as asked; 3 one of
several photos that were looked for cannot be embedded; 130 interrupted by Ctrl-C, and the same command goes on from
there.
"""
_SOME_FAILED = 3

_EQUAL = 0.99999
"""Cosine from which on two photos are called equal: float32 rounds in the sixth digit."""

_THUMBNAIL, _MAX_PIXELS = 320, 50_000_000
_NAMED_FAILURES = 3


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="microtome search",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("photos", type=Path, metavar="PHOTOS", help="a folder: all images below it are searched")
    add(
        "queries", nargs="+", metavar="QUERY", help="a photo, in the folder or elsewhere; or words, such as 'a red car'"
    )
    add("--top", type=positive, default=10, metavar="N", help="how many of the nearest to show (%(default)s)")
    add("--html", type=_in_a_folder, metavar="FILE", help="also write a page with the pictures, all in one file")
    add("--json", action="store_true", help="JSON, for programs")
    add(
        "--vectors",
        type=_array,
        metavar="FILE",
        help="where the folder's vectors are kept (PHOTOS.MODEL.OUTPUT.npy, beside the folder)",
    )
    add("--restart", action="store_true", help="embed all photos again, also those that could not be embedded")
    add("--output", help="which of the model's outputs (its default output)")
    add_gateway_to(parser)
    add_reading_to(parser)
    return parser


def _in_a_folder(text: str) -> Path:
    if not Path(text).absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {Path(text).parent}")
    if Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder")
    return Path(text)


def _array(text: str) -> Path:
    if not text.endswith(".npy"):
        raise argparse.ArgumentTypeError(f"expected a file that ends in .npy; received {text!r}")
    return _in_a_folder(text)


def main(argv: Sequence[str]) -> int:
    """Run `microtome search …` and return its exit code."""
    parser = build_parser()
    options = parser.parse_args(list(argv[1:]))
    read_key(parser, options)
    # Imported after the command line has been read, so that --help is instant.
    from microtome.client.errors import MicrotomeError  # noqa: PLC0415

    try:
        return _search(options)
    except BrokenPipeError:  # such as `| head`; Python's flush at exit would fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        _tell("not enough memory. Give a lower --concurrency, --batch or --max-image-bytes; it goes on from here")
    except (EmbedError, MicrotomeError, ValueError, OSError) as error:
        _tell(str(error))
    except KeyboardInterrupt:
        _tell("interrupted; the same command goes on from here")
        return INTERRUPTED
    return REFUSED


def _tell(text: str) -> None:
    tell(sys.stderr, text, "search")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is looked for.

    Attributes:
        name: as the user gave it.
        vector: float32 [D], of length 1.
        own: its path in the folder, if it is there; else one that leads out of it, or "" for words.
        words: whether it is words.
        model: that the vector comes from.
    """

    name: str
    vector: "Vectors"
    own: str
    words: bool = False
    model: "ModelVersion | None" = None


def _search(options: argparse.Namespace) -> int:
    from microtome.client.client import Client  # noqa: PLC0415
    from microtome.client.options import EmbedOptions  # noqa: PLC0415
    from microtome.commands.embed.runner import alone  # noqa: PLC0415
    from microtome.commands.search.collection import listed, up_to_date  # noqa: PLC0415

    photos = listed(options)
    if not photos:
        raise EmbedError(f"There are no images in {options.photos} or below it: nothing to search.")
    # These calls do not wait for a gateway, as the collection does: one that is away now has not been started.
    with Client(options.url, api_key=options.api_key, ca_file=options.ca_file, attempts=2) as client:
        model, output = _served(client, options)
        wanted = EmbedOptions(model.name, None if model.towers else model.version, (output,), normalize=True)
        asked = _asked(client, options, wanted, model)
    folder = Path(os.path.realpath(options.photos))
    path = options.vectors or folder.with_name(f"{folder.name or 'photos'}.{model.name}.{output}.npy")
    with alone(path):
        collection = up_to_date(path, photos, options, replace(wanted, priority="bulk"), model)
    if not collection.keys:
        raise EmbedError(f"No image in {options.photos} can be embedded: {_failures(collection)}")
    _require_one_space(asked, collection)
    found = [collection.nearest(one.vector, options.top, one.own) for one in asked]
    _report(options, collection, asked, found)
    return _SOME_FAILED if len(asked) < len(set(options.queries)) else 0


def _served(client: "Client", options: argparse.Namespace) -> "tuple[ModelInfo, str]":
    """Return the model and the output that are searched by.

    Raises:
        EmbedError: no gateway answers, or it has no such model or output.
    """
    from microtome.client.errors import Unreachable  # noqa: PLC0415

    try:
        known = client.models()
    except Unreachable as error:
        raise EmbedError(
            f"No gateway answers: {str(error).rstrip('.')}. Start one with microtome up (make run in a checkout), or "
            "name another with --url."
        ) from error
    model = next((info for info in known if options.model in {None, info.name}), None)
    if model is None:
        names = ", ".join(info.name for info in known) or "none"
        raise EmbedError(f"Expected --model to be one of {names}. Received: {options.model!r}.")
    if not model.version or not model.outputs:
        raise EmbedError(f"{model.name} has no version ready at {options.url}. Try again in a moment.")
    output = options.output or next(iter(model.outputs))
    if output not in model.outputs:
        near = ", ".join(get_close_matches(output, model.outputs, n=3, cutoff=0.4)) or "none"
        have = ", ".join(model.outputs)
        raise EmbedError(f"Expected --output to be one of {have}. Received: {output!r}. Nearest: {near}.")
    return model, output


def _asked(client: "Client", options: argparse.Namespace, wanted: "EmbedOptions", model: "ModelInfo") -> list[Asked]:
    """Embed what is looked for, before a collection that may take hours; say what cannot be embedded.

    Raises:
        EmbedError: none of it can be.
    """
    from microtome.commands.embed.archives import is_image  # noqa: PLC0415
    from microtome.commands.embed.engine import vector_options  # noqa: PLC0415

    folder = os.path.realpath(options.photos)
    images = [
        KeyedText(name, name)
        if model.takes_text and not is_image(name) and not os.path.isfile(name)  # noqa: PTH113, which fails for long words
        else ImageFile(name, max_bytes=options.max_image_bytes)
        for name in dict.fromkeys(options.queries)
    ]
    asked = []
    for outcome in client.embed_many(images, concurrency=1, batch=options.batch, **vector_options(wanted)):
        name: str = outcome.image.key
        if outcome.error is None and outcome.model is not None:
            words = isinstance(outcome.image, KeyedText)
            own = "" if words else os.path.relpath(os.path.realpath(name), folder)
            asked.append(Asked(name, outcome.vector.reshape(-1), own, words, outcome.model))
        else:
            _tell(f"{name} cannot be looked for: {outcome.error}")
    if not asked:
        raise EmbedError("There is nothing to look for.")
    return asked


def _require_one_space(asked: Sequence[Asked], collection: "Collection") -> None:
    """Refuse to compare vectors of different spaces, where both are known.

    Raises:
        EmbedError: a tower has changed since the photos were embedded.
    """
    kept = collection.model.get("space", "")
    for one in asked:
        space = one.model.space if one.model else ""
        if kept and space and kept != space:
            raise EmbedError(
                f"The photos' vectors are of the space {kept[:18]}…, and that of {shown(one.name)} is of "
                f"{space[:18]}…: they do not compare, since {collection.model['name']} has changed. Search again."
            )


def _failures(collection: "Collection") -> str:
    """Name the first photos that cannot be embedded."""
    from microtome.commands.search.collection import in_folder  # noqa: PLC0415

    some = [f"{in_folder(key)}: {text}" for key, _, text in collection.failed[:_NAMED_FAILURES]]
    more = len(collection.failed) - len(some)
    return " ".join([*some, f"And {more} more, which --json lists."] if more else some)


def _report(
    options: argparse.Namespace,
    collection: "Collection",
    asked: Sequence[Asked],
    found: Sequence[list[tuple[str, float]]],
) -> None:
    """Print the result, and write the page."""
    from microtome.commands.embed.stores import whole  # noqa: PLC0415

    model, count = collection.model, len(collection.failed)
    what = f"{len(collection.keys)} photos by {model['name']} version {model['version']}, output {model['output']}"
    if count:
        _tell(f"{count} image{'s' * (count > 1)} of the folder cannot be embedded. {_failures(collection)}")
    if options.html:
        with whole(options.html) as file:
            file.write(page(options.photos, what, asked, found).encode("utf-8", "backslashreplace"))
        _tell(f"{options.html} has the pictures")
    if options.json:
        print(_document(collection, asked, found))  # noqa: T201, a command
        return
    print(what)  # noqa: T201
    for one, near in zip(asked, found, strict=True):
        print(f"\nnearest to {_named(one)}")  # noqa: T201
        for place, (name, score) in enumerate(near, 1):
            print(f"{place:4}  {score:7.4f}  {shown(str(options.photos / name))}{_remark(score)}")  # noqa: T201
    sys.stdout.flush()  # a closed pipe raises here and not at exit


def _document(collection: "Collection", asked: Sequence[Asked], found: Sequence[list[tuple[str, float]]]) -> str:
    """Return the result as JSON."""
    import orjson  # noqa: PLC0415

    from microtome.commands.embed.runner import printable  # noqa: PLC0415
    from microtome.commands.search.collection import in_folder  # noqa: PLC0415

    failed = [
        {"photo": printable(in_folder(key)), "type": kind, "detail": text} for key, kind, text in collection.failed
    ]
    results = [
        {
            "query": printable(one.name),
            "nearest": [{"photo": printable(name), "score": round(score, 6)} for name, score in near],
        }
        for one, near in zip(asked, found, strict=True)
    ]
    document = {"model": collection.model, "photos": len(collection.keys), "failed": failed, "results": results}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def _named(one: Asked) -> str:
    return f"the words {one.name!r}" if one.words else shown(one.name)


def _remark(score: float) -> str:
    return "  (equal)" if score >= _EQUAL else ""


_STYLE = """\
:root { color-scheme: light dark; --ink: #1c2024; --soft: #59636e; --back: #fff; --panel: #f3f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9da7b1; --back: #0d1117; --panel: #1b2129; }
}
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--back); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: .3rem 0; }
h2 { font-size: 1.05rem; margin: 1.8rem 0 .6rem; }
p, figcaption { color: var(--soft); }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(9.5rem, 44vw), 1fr)); gap: .8rem;
  padding: 0; margin: 0; list-style: none; }
figure { margin: 0; }
figcaption { font-size: .82rem; margin-top: .25rem; }
figcaption b { color: var(--ink); font-variant-numeric: tabular-nums; }
img, .none { display: block; width: 100%; height: auto; aspect-ratio: 1; object-fit: contain;
  background: var(--panel); border-radius: 6px; }
.asked { max-width: 14rem; margin-bottom: .8rem; }
.bar { height: 4px; border-radius: 2px; background: #2f81f7; margin-top: .3rem; }
"""


def page(photos: Path, what: str, asked: Sequence[Asked], found: Sequence[list[tuple[str, float]]]) -> str:
    """Return one HTML document with all pictures in it.

    Args:
        photos: the folder.
        what: how many photos, and by which model.
        asked: what was looked for.
        found: for each the paths in the folder of the nearest, and their cosines.
    """
    # Nothing is fetched, whatever a name holds.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Nearest photos</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>\n{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>Nearest photos in {escape(str(photos))}</h1>",
        f"<p>{escape(what)}. The number is the cosine: 1 is equal.</p>",
    ]
    for one, near in zip(asked, found, strict=True):
        name = escape(one.name)
        asked_for = "" if one.words else f'<figure class="asked">{_picture(one.name, f"Looked for: {name}")}</figure>\n'
        parts.append(f"<section>\n<h2>{f'“{name}”' if one.words else name}</h2>\n{asked_for}<ol>")
        for place, (path, score) in enumerate(near, 1):
            picture = _picture(photos / path, f"{place}: {escape(path)}, cosine {score:.4f}")
            bar = f'<div class="bar" style="width: {max(score, 0):.0%}"></div>'
            caption = f"<figcaption><b>{score:.4f}</b> {escape(path)}{_remark(score)}</figcaption>"
            parts.append(f"<li><figure>{picture}{bar}{caption}</figure></li>")
        parts.append("</ol>\n</section>")
    return "\n".join([*parts, "</main>\n</body>\n</html>\n"])


def _picture(path: str | Path, alt: str) -> str:
    """Return a small copy of a photo, upright, on white where it is transparent; a panel if it cannot be read."""
    from PIL import Image, ImageOps  # noqa: PLC0415

    from microtome.client.errors import MicrotomeError  # noqa: PLC0415
    from microtome.opening import opened  # noqa: PLC0415

    try:
        with opened(ImageFile(str(path))(), _MAX_PIXELS) as image:
            image.draft("RGB", (2 * _THUMBNAIL, 2 * _THUMBNAIL))
            photo = ImageOps.exif_transpose(image).convert("RGBA")
    except (MicrotomeError, OSError, ValueError, SyntaxError):
        return f'<div class="none" role="img" aria-label="{alt}"></div>'
    photo.thumbnail((_THUMBNAIL, _THUMBNAIL))
    flat = Image.new("RGB", photo.size, "white")
    flat.paste(photo, mask=photo)
    encoded = BytesIO()
    flat.save(encoded, "WEBP", quality=72)
    data = base64.b64encode(encoded.getvalue()).decode("ascii")
    size = f'width="{flat.width}" height="{flat.height}"'
    return f'<img alt="{alt}" loading="lazy" {size} src="data:image/webp;base64,{data}">'
