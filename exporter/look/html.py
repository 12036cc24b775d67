"""The report of a look at a layer: its channels as in Zeiler and Fergus' figure, and heat maps."""

from collections.abc import Iterator, Sequence
from html import escape

from exporter.graph.cut_points import Field
from exporter.look.figure import Cell
from exporter.look.heat import Compared, Tile
from exporter.look.pipeline import Look
from exporter.report.page import page, paragraph, picture, table

_DECONVNET = (
    "Each channel has two squares. Right: the parts of the photos that excite it most, cut to what one position sees, "
    "the strongest first. Left: what of each part reaches the channel, by DeconvNet (Zeiler and Fergus, 2013); grey is "
    "nothing, and each picture has its own contrast."
)
_DECONVNET_CAUTION = (
    "DeconvNet fails the randomisation test: it recovers edges of the photo that any weights would pass on (Nie et al. "
    "2018, Adebayo et al. 2018). What the photos of a channel have in common says more than a sharp outline."
)
_GUIDED_CAUTION = (
    "Guided backpropagation fails the randomisation test of Adebayo et al. (2018): its picture hardly changes when the "
    "layers that decide are made random. It shows edges of the photo, and does not explain the class."
)
_HEAT = (
    "Bright positions count most; each map has its own scale. Channel norm and EigenCAM show where the layer reacts at "
    "all, and know nothing of the layers above it. LayerCAM shows what speaks for a class, or for the likeness of two "
    "photos at this layer: the cosine of their pooled vectors."
)


def report(found: Look) -> str:
    """Return the report as one HTML file."""
    return page(f"What {found.request.layer} of {found.subject.name} sees", list(_parts(found)))


def _parts(found: Look) -> Iterator[str]:
    subject, request = found.subject, found.request
    _, height, width, channels = subject.tensor.shape
    size = f"{subject.pixels.height}x{subject.pixels.width}"
    yield paragraph(
        f"{height}x{width} positions of {channels} channels. {seen(subject.field, size)} {found.photos:,} photos. "
        f"Weights: {subject.built.source}."
    )  # fmt: skip
    if subject.built.weights == "random":
        yield paragraph(
            "The weights are random: this is what the architecture does, and nothing that was learnt.", "note"
        )
    if found.channels:
        yield "<h2>What excites its channels</h2>"
        yield paragraph(_DECONVNET, "soft")
        yield paragraph(_DECONVNET_CAUTION, "note")
        silent = f"; {found.silent} are never excited" if found.silent else ""
        yield paragraph(f"The {len(found.channels)} strongest of {channels} channels{silent}.", "soft")
        yield f'<div class="channels">{"".join(_channel(*one) for one in found.channels)}</div>'
    elif request.channels:
        yield paragraph("No photo excites any channel.")
    if found.compared:
        yield "<h2>Heat maps</h2>"
        yield paragraph(_HEAT, "soft")
        if any(tile.title.startswith("guided") for one in found.compared for tile in one.tiles):
            yield paragraph(_GUIDED_CAUTION, "note")
        if subject.scores is None:
            yield paragraph("There is no class to explain: the network ends without a classifier.", "soft")
        for one in found.compared:
            yield from _compared(one)
    if found.left_out:
        yield "<h2>Left out</h2>"
        yield table(["photo", "why"], [("", list(pair)) for pair in found.left_out])


def seen(field: Field, size: str) -> str:
    """Return in a sentence what a position sees."""
    if field.size is None:
        return f"What a position sees is not known: parts are whole photos of {size} pixels."
    gated = ", and through gates the whole photo" if field.whole else ""
    return f"A position sees {field.size[0]}x{field.size[1]} pixels; photos have {size}{gated}."


def _channel(index: int, cells: Sequence[Cell]) -> str:
    halves = []
    for word, pictures in (
        ("reconstruction", [cell.rebuilt for cell in cells]),
        ("photo", [cell.patch for cell in cells]),
    ):
        shown = [
            picture(pixels, f"{word} {place}: {cell.photo.name}")
            for place, (pixels, cell) in enumerate(zip(pictures, cells, strict=True), start=1)
        ]
        halves.append(f'<div class="nine">{"".join(shown)}</div>')
    peak = max(cell.peak for cell in cells)
    return (
        f'<figure class="channel"><figcaption>channel {index}<span class="soft">up to {peak:.3g}</span></figcaption>'
        f'<div class="halves">{"".join(halves)}</div></figure>'
    )


def _compared(one: Compared) -> Iterator[str]:
    yield f"<h3>{escape(one.photo.name)}</h3>"
    yield f'<div class="tiles">{"".join(map(_tile, one.tiles))}</div>'
    if one.partner is not None:
        yield paragraph(f"Compared with {one.partner.name}: cosine {one.cosine:.3f}.", "soft")
        yield f'<div class="tiles">{"".join(map(_tile, one.partner_tiles))}</div>'


def _tile(tile: Tile) -> str:
    return f"<figure>{picture(tile.pixels, tile.title)}<figcaption>{escape(tile.title)}</figcaption></figure>"
