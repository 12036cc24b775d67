"""Write what a training of numbers found: head.npz, recipe.yaml, train.json and report.html, and say it shortly."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from exporter.features.measured_photos import BOX
from exporter.recipe.pooling_names import PoolingName
from exporter.recipe.writing import write_files
from exporter.report.page import dots, lines, page, paragraph, picture, table
from exporter.train.html import notes
from exporter.train.numbers import TrainedNumbers
from exporter.train.outputs import HEAD, NUMBERS, RECIPE, REPORT, described, entry_of, noted, read_on, rounded, text_of
from exporter.train.regression import Against, Estimate

NAME, BOX_NAME = "numbers", "box"
_WORST = 24
_MOST_CHARTS = 12
_SIDE = 160
_TRUE, _SAID = (63, 185, 80), (240, 136, 62)


def write_numbers(found: TrainedNumbers) -> None:
    """Write the four files, each whole or not at all."""
    out = found.request.out
    texts = {
        RECIPE: recipe_text(found),
        NUMBERS: json.dumps(document(found), indent=1, allow_nan=False),
        REPORT: report(found),
    }
    found.head.write(out / HEAD)
    write_files(out, texts)


def recipe_text(found: TrainedNumbers) -> str:
    """Return the recipe of the numbers, and of the vector that they come from where that is one to search by."""
    request, output, measured = found.request, found.request.output, found.material.measured
    given = next(one for one in request.entry["outputs"] if one["name"] == output.name)
    name = BOX_NAME if {column.casefold() for column in measured.columns} == set(BOX) else NAME
    name = name if name != output.name else f"{name}-2"
    kept = ("layer", "layers", "pooling", "projection", "normalize")
    said: dict[str, Any] = {"name": name, "kind": "numbers", "labels": list(measured.columns)}
    said |= {"units": list(measured.units)} if any(measured.units) else {}
    said |= {key: given[key] for key in kept if key in given} | {"head": {"weights": HEAD}}
    entry = entry_of(request, name)
    spatial = PoolingName.parse(output.pooling).kind in {"flatten", "spp"}
    outputs = [said] if spatial else [dict(given), said]
    return text_of(entry, outputs, _reached(found), Path(request.recipe.folder), request.out)


def _reached(found: TrainedNumbers) -> str:
    if found.box is not None:
        return f"intersection over union {_figure(found.box.overlap)}"
    return "; ".join(f"{one.name} ± {one.error.value:.3g}{_unit(one.unit)}" for one in found.columns[:8])


def document(found: TrainedNumbers) -> dict[str, Any]:
    """Return every number of a training, for `train.json`. Only `timing` differs from run to run."""
    material, request = found.material, found.request
    numbers = {
        "schema": 1,
        "kind": "numbers",
        **described(request, material.vectors.shape[1]),
        "head": {
            "kind": request.kind, "hidden": list(request.hidden), "strengths": list(found.strengths),
            "params": found.head.params,
        },
        "held_out": {
            "given": material.given,
            "photos": int(material.held.sum()),
            "columns": [asdict(one) for one in found.columns],
            "box": None if found.box is None else asdict(found.box),
        },
        "learning_curve": [{"trained_on": count, "value": value} for count, value in found.curve],
        "photos": [
            {
                "name": photo.name,
                "sha256": photo.digest,
                "group": photo.group,
                "held_out": bool(material.held[index]),
                "values": material.measured.values[index].tolist(),
                "said": found.said[index].tolist() if material.held[index] else None,
            }
            for index, photo in enumerate(material.photos)
        ],
        **noted(material.measured.collection),
    }  # fmt: skip
    return {**rounded(numbers), "timing": found.timing}


def summary_of_numbers(found: TrainedNumbers, seconds: float) -> str:
    """Return a few lines for the terminal."""
    material = found.material
    held, left = int(material.held.sum()), len(material.measured.collection.left_out)
    apart = f", {left} left out" if left else ""
    said = [f"{len(material.held) - held:,} photos to train on, {held:,} held out{apart}; {seconds:.0f} s"]
    wide = max(len(one.name) for one in found.columns)
    said += [
        f"{one.name:{wide}}  error {_figure(one.error)}{_unit(one.unit)}, R2 {_figure(one.r2)}; the mean's error: "
        f"{one.mean.value:.3g}, larger by {_change(one.mean)}"
        for one in found.columns[:20]
    ]
    if found.box is not None:
        said.append(f"box: intersection over union {_figure(found.box.overlap)}")
        others = (("the mean box", found.box.mean), ("average pooling", found.box.average))
        said += [f"  {name}: {one.value:.3f}, lower by {_change(one)}" for name, one in others if one is not None]
    said.append(read_on(found.request.out))
    return "\n".join(said)


def report(found: TrainedNumbers) -> str:
    """Return the report as one HTML file."""
    what = "boxes" if found.box is not None else f"{len(found.columns)} number{'s' if len(found.columns) > 1 else ''}"
    return page(f"{found.request.name}: {what} of photos", [part for part in _parts(found) if part])


def _parts(found: TrainedNumbers) -> Iterator[str]:
    yield f"<p>{' '.join(map(escape, _words(found)))}</p>"
    yield f'<div class="cards">{"".join(_cards(found))}</div>'
    yield "<h2>Numbers</h2>"
    yield paragraph(
        "The error is the mean absolute one on held-out photos, in the number's own unit. R² is 1 for perfect answers, "
        "and 0 for always saying the mean. Intervals are of 95 %; those of differences are paired.", "soft",
    )  # fmt: skip
    yield _table(found)
    yield from _charts(found)
    yield from _worst(found)
    yield from _curve(found)
    yield from notes(found.material.measured.collection)


def _words(found: TrainedNumbers) -> Iterator[str]:
    material, request = found.material, found.request
    held = int(material.held.sum())
    how = "A ridge regression" if request.kind == "ridge" else "A small network"
    yield (
        f"{how} on {request.output.name} of {request.recipe.name}, trained on {len(material.held) - held:,} photos and "
        f"measured on {held:,} that it has never seen, {'the given test photos' if material.given else 'a fifth'}."
    )
    if found.box is not None:
        yield (
            f"The intersection over union of its boxes and the true ones is {found.box.overlap.value:.3f} "
            f"({_between(found.box.overlap)}); always saying the mean box gives {found.box.mean.value:.3f}."
        )
        average = found.box.average
        if average is not None:
            yield (
                f"A head on the same layer after average pooling, which knows no places, reaches {average.value:.3f}: "
                f"{_sure(average.better)}."
            )
    poor = [one.name for one in found.columns if one.mean.better.interval[0] <= 0]
    if poor:
        yield f"No better than always saying the mean, beyond chance: {', '.join(poor[:10])}."


def _sure(better: Estimate) -> str:
    low, high = better.interval
    words = "the difference is beyond chance" if low > 0 or high < 0 else "the difference may be chance"
    return f"{words} ({low:+.3f} to {high:+.3f})"


def _cards(found: TrainedNumbers) -> Iterator[str]:
    if found.box is not None:
        box = found.box
        yield _card("recommended", "intersection over union", f"{box.overlap.value:.3f}", _between(box.overlap))
        yield _card("best", "above the mean box", f"{box.mean.better.value:+.3f}", _between(box.mean.better))
        if box.average is not None:
            better = box.average.better
            yield _card("default", "above average pooling", f"{better.value:+.3f}", _between(better))
    for one in [] if found.box is not None else found.columns[:6]:
        what = f"error of {one.name}{f' [{one.unit}]' if one.unit else ''}"
        yield _card("recommended", what, f"{one.error.value:.3g}", f"{_between(one.error)}; mean: {one.mean.value:.3g}")


def _card(kind: str, what: str, figure: str, soft: str) -> str:
    return (
        f'<div class="card {kind}"><span class="soft">{escape(what)}</span><br><span class="figure">{figure}</span> '
        f'<span class="soft">{escape(soft)}</span></div>'
    )


def _table(found: TrainedNumbers) -> str:
    average, unit = (any(getattr(one, name) for one in found.columns) for name in ("average", "unit"))
    columns = ["number", *(["unit"] if unit else []), "error", "R²", "the mean's", "larger by"]
    columns += ["average pooling's", "larger by"] if average else []
    rows: list[tuple[str, Sequence[str | tuple[str, float | None]]]] = []
    for one in found.columns:
        cells: list[str | tuple[str, float | None]] = [one.name, *([one.unit] if unit else [])]
        cells += [_cell(_figure(estimate), estimate.value) for estimate in (one.error, one.r2)]
        for other in (one.mean, one.average) if average else (one.mean,):
            if other is not None:
                cells += [_cell(f"{other.value:.3g}", other.value), _cell(_change(other), other.better.value)]
        rows.append(("", cells))
    return table(columns, rows)


def _cell(text: str, value: float) -> tuple[str, float | None]:
    return (text, round(value, 9)) if np.isfinite(value) else ("-", None)


def _charts(found: TrainedNumbers) -> Iterator[str]:
    held, values = np.flatnonzero(found.material.held), found.material.measured.values
    yield "<h2>Said and true</h2>"
    yield paragraph("A point for each held-out photo. On the dashed line what is said is true.", "soft")
    yield '<div class="charts">'
    for place, one in enumerate(found.columns[:_MOST_CHARTS]):
        points = [
            (float(values[row, place]), float(found.said[row, place]),
             f"{found.material.photos[row].name}: {found.said[row, place]:.4g}, true {values[row, place]:.4g}")
            for row in held
        ]  # fmt: skip
        name = f"{one.name}{f' [{one.unit}]' if one.unit else ''}"
        yield f"<figure>{dots(points, 'true', f'{name}, said')}</figure>"
    yield "</div>"


def _worst(found: TrainedNumbers) -> Iterator[str]:
    yield "<h2>The worst photos</h2>"
    text = "Held-out photos, the largest error first. Some may have wrong numbers in the list."
    text += " Green is the true box, orange what is said." if found.box is not None else ""
    yield paragraph(text, "soft")
    shown = []
    for row in found.worst[:_WORST]:
        title = found.material.photos[row].name
        caption = title.rpartition("/")[2]
        if found.box is None:
            caption += "".join(
                f"; {one.name} {found.said[row, place]:.3g}, true {found.material.measured.values[row, place]:.3g}"
                for place, one in enumerate(found.columns[:3])
            )
        shown.append(f"<figure>{_thumbnail(found, int(row), title)}<figcaption>{escape(caption)}</figcaption></figure>")
    yield f'<div class="tiles">{"".join(shown)}</div>'


def _thumbnail(found: TrainedNumbers, row: int, title: str) -> str:
    """Return a small copy of a whole photo, with its boxes."""
    try:
        with Image.open(found.material.photos[row].path) as opened:
            opened.draft("RGB", (2 * _SIDE, 2 * _SIDE))
            image = ImageOps.contain(ImageOps.exif_transpose(opened).convert("RGB"), (_SIDE, _SIDE))
    except (OSError, ValueError, SyntaxError):
        image = Image.new("RGB", (_SIDE, _SIDE), "grey")
    if found.places is not None:
        draw, at = ImageDraw.Draw(image), list(found.places)
        for numbers, colour in ((found.material.measured.values[row], _TRUE), (found.said[row], _SAID)):
            x, y, width, height = numbers[at]
            ends = (x, y, x + max(width, 0), y + max(height, 0))
            scaled = [float(end * side) for end, side in zip(ends, image.size * 2, strict=True)]
            draw.rectangle(scaled, outline=colour, width=2)
    return picture(np.asarray(image), title)


def _curve(found: TrainedNumbers) -> Iterator[str]:
    if len(found.curve) < 2:
        return
    yield "<h2>Would more photos help?</h2>"
    first, last = np.log(found.curve[0][0]), np.log(found.curve[-1][0])
    points = [(float((np.log(count) - first) / max(last - first, 1e-9)), value, f"{count:,} photos: {value:.3f}")
              for count, value in found.curve]  # fmt: skip
    what = "intersection over union" if found.box is not None else "error by that of the mean"
    better = "rises" if found.box is not None else "falls"
    yield paragraph(
        f"The {what} of a head that is trained on a part of the photos. A line that still {better} says yes.", "soft"
    )
    ticks = [(x, f"{count:,}") for (x, _, _), (count, _) in zip(points, found.curve, strict=True)]
    yield lines([(what, points)], "photos to train on", what, ticks=ticks)


def _figure(one: Estimate) -> str:
    return f"{one.value:.3g} [{one.interval[0]:.3g}, {one.interval[1]:.3g}]"


def _between(one: Estimate) -> str:
    return f"{one.interval[0]:.3g} to {one.interval[1]:.3g}" if np.isfinite(one.interval[0]) else "-"


def _change(other: Against) -> str:
    better = other.better
    return f"{better.value:+.3g} [{better.interval[0]:+.3g}, {better.interval[1]:+.3g}]"


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""
