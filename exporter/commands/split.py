"""`microtome split`: a network as consecutive blocks, proved equal to the whole."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.commands.arguments import add_backbone_to, built_backbone
from exporter.errors import ImpossibleSplit

if TYPE_CHECKING:
    from exporter.split.pipeline import Split

_UNEQUAL = 1


DESCRIPTION = (
    "Cut a backbone into consecutive blocks at any layers, save each as a SavedModel and as .keras, and prove that "
    "the chain of what was saved equals the backbone. With --from and --to: save what lies between, and prove that it"
    " leads from what the backbone has at the one to what it has at the other."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_backbone_to(parser)
    parser.add_argument("--at", action="append", default=[], metavar="LAYER", help="where to cut; as often as needed")
    parser.add_argument("--from", dest="start", metavar="LAYER", help="with --to: only what comes after this layer")
    parser.add_argument("--to", dest="end", metavar="LAYER", help="with --from: only up to this layer")
    parser.add_argument("--weights", help="imagenet, random or a weights file (imagenet, or a model's own)")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="photos to try the blocks on (synthetic images like photos)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the blocks go; must not exist")
    parser.add_argument("--json", action="store_true", help="JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Split, and print how the blocks compare with the whole network."""
    sliced = arguments.start is not None and arguments.end is not None
    if sliced == bool(arguments.at) or (arguments.start is None) != (arguments.end is None):
        options = {"--at": arguments.at, "--from": arguments.start, "--to": arguments.end}
        given = " and ".join(option for option, value in options.items() if value) or "neither"
        raise ImpossibleSplit(f"Expected --at LAYER, at least once; or --from LAYER and --to LAYER. Received: {given}.")
    from exporter.recipe.own_backbones import is_own  # noqa: PLC0415

    arguments.weights = arguments.weights or (None if is_own(arguments.backbone) else "imagenet")
    with built_backbone(arguments) as (built, pixels):
        from exporter.split.pipeline import slice_to, split_to  # noqa: PLC0415

        if sliced:
            done = slice_to(built, pixels, (arguments.start, arguments.end), arguments.out, arguments.images)
        else:
            done = split_to(built, pixels, arguments.at, arguments.out, arguments.images)
    if arguments.json:
        print(json.dumps(done.document, indent=1))  # noqa: T201 -- the command's result
    else:
        _show(done, arguments.out)
    return 0 if done.published else _UNEQUAL


def _show(done: Split, out: Path) -> None:
    from exporter.runtime.terminal import print_table  # noqa: PLC0415

    blocks = [(block.model.name, ", ".join(block.takes), ", ".join(block.gives)) for block in done.blocks]
    print_table(("block", "takes", "gives"), blocks, title=f"{len(blocks)} blocks")
    proof = [
        (
            *(found.block, found.output, found.form, found.images),
            *(f"{found.max_abs:.2g}", f"{found.max_rel:.2g}", f"{found.cosine:.9f}"),
            "yes" if found.equal else "NO",
        )
        for found in done.comparisons
    ]
    print_table(("after", "output", "saved as", "images", "max abs", "max rel", "cosine", "equal"), proof)
    unequal = "What was written does not equal the network: nothing is kept."
    print(f"Written to {out}." if done.published else unequal)  # noqa: T201
