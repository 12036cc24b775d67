"""`microtome sweep`: which layer, pooling and preprocessing suit your own photos."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import ImpossibleOption, nearest
from microtome.errors import shown

if TYPE_CHECKING:
    from exporter.recipe.backbones import Scaling
    from exporter.sweep.request import Variant

_USES = ("search", "classify", "duplicates")
_RESIZES = {"crop": "shortest-side", "squash": "squash", "letterbox": "letterbox"}

DESCRIPTION = (
    "Measure every layer and pooling of one or more backbones on your own photos, and write the recipe of the cheapest "
    "that is as good as the best, with a report that says how sure that is."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "photos",
        type=Path,
        metavar="PHOTOS",
        help="a folder with a folder for each class, or with photos alone; or a CSV file with the columns path, label "
        "and perhaps group, or a, b, same",
    )
    parser.add_argument(
        "--backbone",
        action="append",
        required=True,
        metavar="NAME[=WEIGHTS]",
        help="such as EfficientNetLite0, ResNet50=random or ResNet50=FILE.h5; more than once for several. The first "
        "one's usual cut is the default",
    )
    parser.add_argument(
        "--for", dest="use", choices=_USES, default="search", metavar="USE", help=f"{', '.join(_USES)} (%(default)s)"
    )
    parser.add_argument(
        "--measure", metavar="NAME", help="what decides: recall@1, recall@5, recall@10 or mAP for search, 20-NN or 1-NN"
    )
    parser.add_argument(
        "--pooling", metavar="LIST", help="such as avg,gem(3),cls (avg,max,gem,flatten,spp where they fit)"
    )
    parser.add_argument("--layers", metavar="LIST", help="only these layers, separated by commas (where blocks end)")
    parser.add_argument("--resize", default="crop", metavar="LIST", help="crop, squash, letterbox (%(default)s)")
    parser.add_argument("--scaling", metavar="NAME", help="of the pixels of your own backbone: caffe, tf, torch, none")
    parser.add_argument(
        "--groups",
        metavar="PATTERN",
        help="photos of a group never find each other: folder, or a regular expression on a photo's name",
    )
    parser.add_argument("--out", type=Path, default=Path("sweep"), metavar="DIR", help="results (%(default)s/)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Sweep, write the results, and say in six lines what came of it."""
    from exporter.features.logistic import want_scikit_learn  # noqa: PLC0415
    from exporter.features.photos import read_collection  # noqa: PLC0415
    from exporter.runtime.tensorflow_ready import tensorflow_ready  # noqa: PLC0415

    started = time.monotonic()
    variants = _variants(arguments.backbone, arguments.resize, arguments.scaling)
    if arguments.use == "classify":
        want_scikit_learn("the linear probe of --for classify", ", or choose --for search.")
    collection = read_collection(arguments.photos, arguments.use, arguments.groups)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImpossibleOption(f"Expected a folder for the results. Received: {arguments.out}: {error}.") from error
    with tensorflow_ready(gpu=True):
        from exporter.sweep.candidates import POOLINGS, parse_poolings  # noqa: PLC0415
        from exporter.sweep.outputs import summary, write  # noqa: PLC0415
        from exporter.sweep.pipeline import sweep  # noqa: PLC0415
        from exporter.sweep.request import Request  # noqa: PLC0415
        from exporter.sweep.tasks import measure_for  # noqa: PLC0415

        request = Request(
            use=arguments.use,
            measure=measure_for(arguments.use, arguments.measure),
            variants=variants,
            poolings=parse_poolings(arguments.pooling) if arguments.pooling else POOLINGS,
            layers=tuple(layer for layer in (arguments.layers or "").split(",") if layer),
            out=arguments.out,
            seed=arguments.seed,
        )
        found = sweep(request, collection)
        write(found, arguments.out, arguments.photos)
    for line in summary(found, arguments.out, time.monotonic() - started).splitlines():
        print(shown(line))  # noqa: T201 -- the command's result
    return 0


def _variants(backbones: list[str], resizes: str, scaling: str | None) -> tuple[Variant, ...]:
    """Return the backbones with their preprocessing, without TensorFlow."""
    from exporter.recipe.backbones import BACKBONES, find_backbone  # noqa: PLC0415
    from exporter.recipe.own_backbones import brings_scaling  # noqa: PLC0415
    from exporter.recipe.preprocessing import resolve  # noqa: PLC0415
    from exporter.sweep.request import Variant  # noqa: PLC0415

    words = [word.strip() for word in resizes.split(",")]
    for word in words:
        if word not in _RESIZES:
            raise ImpossibleOption(
                f"Expected --resize with some of {', '.join(_RESIZES)}. Received: {word!r}. {nearest(word, _RESIZES)}"
            )
    found = []
    for text in dict.fromkeys(backbones):
        name, _, weights = text.partition("=")
        row = find_backbone(name)
        own = name not in BACKBONES
        if own and scaling is None and not brings_scaling(name):
            raise ImpossibleOption(
                f"Expected --scaling caffe, tf, torch or none for your own backbone {name}. Received: none of them."
            )
        if own and scaling is not None:
            row = replace(row, scaling=_scaling(scaling))
        chosen = weights or ("own" if own else "imagenet")
        if chosen not in {"imagenet", "random", "own"} and not Path(chosen).is_file():
            raise ImpossibleOption(
                f"Expected imagenet, random or a weights file after {name}=. Received: {chosen!r}, which is not there."
            )
        for word in dict.fromkeys(words):
            pixels = resolve(row.preprocessing, {"resize": _RESIZES[word]})
            found.append(Variant(row, chosen, word, pixels))
    return tuple(found)


def _scaling(text: str | None) -> Scaling:
    kinds: dict[str | None, Scaling] = {"caffe": "caffe", "tf": "tf", "torch": "torch", "none": "none"}
    if text not in kinds:
        raise ImpossibleOption(f"Expected --scaling caffe, tf, torch or none. Received: {text!r}.")
    return kinds[text]
