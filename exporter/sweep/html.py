"""The report of a sweep: a paragraph, charts, confusions, queries with their neighbours, and a table of everything."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from exporter.report.page import Point, confusion, lines, page, paragraph, photo, scatter, short, table
from exporter.sweep.measures import NEIGHBOURS, Neighbours
from exporter.sweep.pipeline import Sweep
from exporter.sweep.probe import NAME as PROBE
from exporter.sweep.statistics import SPLITS
from exporter.sweep.tasks import VIEWS

_QUERIES, _SHOWN = 6, 4
_MOST_CLASSES = 20

Array = np.ndarray[Any, Any]


def report(found: Sweep) -> str:
    """Return the report as one HTML file."""
    names = " and ".join(dict.fromkeys(variant.row.name.rpartition("/")[2] for variant in found.request.variants))
    title = f"Which layer of {names} for {_purpose(found)}?"
    return page(title, [part for part in _parts(found) if part])


def _purpose(found: Sweep) -> str:
    return {"search": "search", "classify": "classification", "duplicates": "finding duplicates"}[found.request.use]


def _parts(found: Sweep) -> Iterator[str]:
    yield f"<p>{' '.join(_words(found))}</p>"
    yield f'<div class="cards">{"".join(_cards(found))}</div>'
    yield f"<h2>{_escaped(found.request.measure)} and cost</h2>"
    yield paragraph(
        "A point is a layer with a pooling; its size is the bytes of a vector. Points of the front, to which nothing "
        "cheaper is as good, are strong and have bars: 95 % intervals. Point at one for its name.",
        "soft",
    )  # fmt: skip
    points = [_point(found, index) for index in range(len(found.candidates))]
    yield scatter(points, "operations for one photo", found.request.measure, found.setting.task.chance)
    yield "<h2>By depth</h2>"
    yield from _depths(found)
    yield from _confusions(found)
    yield from _neighbours(found)
    yield from _shorter(found)
    yield "<h2>All candidates</h2>"
    yield paragraph(
        "Click a heading to sort. The change is against the default, with its paired 95 % interval. Tied: the paired "
        "interval against the best holds 0.", "soft",
    )  # fmt: skip
    yield _table(found)
    yield from _left_out(found)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _name(found: Sweep, index: int) -> str:
    one = found.candidates[index]
    several = len(found.request.variants) > 1
    return f"{one.output.name} ({found.request.variants[one.variant].name})" if several else one.output.name


def _roles(found: Sweep, index: int) -> list[str]:
    return [role for role in ("recommended", "best", "default") if getattr(found, role) == index]


def _kind(found: Sweep, index: int) -> str:
    # One that is several things at once is shown as the first of these.
    return next(iter(_roles(found, index)), "front" if index in found.front else "dot")


def _words(found: Sweep) -> Iterator[str]:
    place = found.comparison.best
    low, high = found.comparison.against_default[place]
    default, best, recommended = (
        _escaped(_name(found, index)) for index in (found.default, found.best, found.recommended)
    )
    measured = f"{len(found.setting.rows):,} images"
    if found.setting.classes:
        measured += f" in {len(found.setting.classes)} classes"
    yield f"{len(found.candidates)} candidates were compared on {measured} by {_escaped(found.measure)}."
    if found.decision.verdict == "default":
        yield f"<strong>The default stands: {default}.</strong> {_escaped(found.decision.why).capitalize()}"
    else:
        yield f"<strong>Recommended: {recommended}.</strong> {_escaped(found.decision.why).capitalize()}"
    if found.best != found.default:
        gain = found.decisive[place].estimate - found.decisive[found.deciding.index(found.default)].estimate
        yield f"The highest figure is that of {best}: {gain:+.3f} against the default"
        yield f"(95 % interval {low:+.3f} to {high:+.3f})."
    if found.optimism is not None:
        yield (
            f"Choosing the best of {len(found.deciding)} flatters it: the winner on half of the photos gains "
            f"{found.optimism.held_out:+.3f} on the other half, where it beats the default in "
            f"{found.optimism.share:.0%} of {SPLITS} splits."
        )
    if found.choice:
        yield found.choice
    tied = sum(found.comparison.tied)
    yield f"{tied} of {len(found.deciding)} are tied with the best: these photos cannot tell them apart."
    widths = [(high - low) / 2 for low, high in found.comparison.against_default if high > low]
    if widths:
        yield f"A difference of less than about {float(np.median(widths)):.3f} cannot be seen with so few photos."


def _cards(found: Sweep) -> Iterator[str]:
    for index in dict.fromkeys((found.recommended, found.best, found.default)):
        roles = _roles(found, index)
        one, place = found.candidates[index], found.deciding.index(index)
        low, high = found.comparison.intervals[place]
        took = found.timing.get("milliseconds", {}).get(index)
        cost = f"{short(one.flops) if one.flops else '?'}FLOP, {4 * one.dimension:,} bytes a vector"
        cost += f", {took[0]:.1f} ms a photo ({took[1]:.1f} ms of processor time)" if took else ""
        yield (
            f'<div class="card {roles[0]}"><span class="soft">{", ".join(roles)}</span>'
            f"<b>{_escaped(_name(found, index))}</b>"
            f'<span class="figure">{found.decisive[place].estimate:.3f}</span> '
            f'<span class="soft">{low:.3f} to {high:.3f}</span><br><span class="soft">{cost}</span></div>'
        )


def _point(found: Sweep, index: int) -> Point:
    one, scores = found.candidates[index], found.scores[index]
    low, high = found.general.intervals[index]
    kind = _kind(found, index)
    title = (
        f"{_name(found, index)}: {scores.estimate:.3f} [{low:.3f}, {high:.3f}], {short(one.flops or 0)}FLOP, "
        f"{4 * one.dimension:,} bytes"
    )
    radius = min(10.0, max(2.2, 0.18 * math.sqrt(one.dimension)))
    return Point(
        float(one.flops or 0), scores.estimate, (low, high), radius, title, kind, ", ".join(_roles(found, index))
    )


def _depths(found: Sweep) -> Iterator[str]:
    for at, variant in enumerate(found.request.variants):
        series: dict[str, list[tuple[float, float, str]]] = {}
        for index, one in enumerate(found.candidates):
            if one.variant == at and not one.output.more_layers and one.output.pooling != "none":
                title = f"{one.output.name}: {found.scores[index].estimate:.3f}"
                series.setdefault(one.output.pooling, []).append((one.depth, found.scores[index].estimate, title))
        if len(found.request.variants) > 1:
            yield paragraph(variant.name)
        yield lines(list(series.items()), "layer", found.request.measure, found.setting.task.chance)


def _confusions(found: Sweep) -> Iterator[str]:
    task, classes = found.setting.task, found.setting.classes
    if not isinstance(task, Neighbours) or not 1 < len(classes) <= _MOST_CLASSES:
        return
    yield "<h2>What is taken for what</h2>"
    who = {PROBE: "linear probe says", f"{NEIGHBOURS}-NN": f"{NEIGHBOURS} nearest photos say"}
    said = who.get(found.measure, "nearest photo says")
    yield paragraph(f"A row for each true class, a column for the class that the {said}.", "soft")
    yield '<div class="matrices">'
    for role, index in {found.best: "best", found.default: "default"}.items():
        scores = found.decisive[found.deciding.index(role)]
        if scores.predicted is None:
            continue
        wanted = task.labels if len(scores.predicted) == len(task.labels) else task.labels[task.queries]
        counts = np.zeros((len(classes), len(classes)), np.int64)
        np.add.at(counts, (wanted, scores.predicted), 1)
        yield confusion(f"{index.capitalize()}: {_name(found, role)}", classes, counts.tolist())
    yield "</div>"


def _neighbours(found: Sweep) -> Iterator[str]:
    task = found.setting.task
    if not isinstance(task, Neighbours):
        return
    numbers = np.random.default_rng(found.request.seed)
    rows = {index: found.vectors(index) for index in dict.fromkeys((found.best, found.default, found.recommended))}
    queries = _telling(task, rows, found, numbers)
    yield "<h2>Queries and their nearest photos</h2>"
    yield paragraph("First those on which the candidates differ. Green: of the query's class; red: of another.", "soft")
    for query in queries:
        lists = []
        for index, wide in rows.items():
            near = task.nearest(wide, query, min(_SHOWN, len(task.gallery) - 1))
            shown = "".join(
                _photo(found, other, "right" if task.labels[other] == task.labels[query] else "wrong") for other in near
            )
            roles = _roles(found, index)
            lists.append(f'<div class="row"><span>{", ".join(roles)}</span>{shown}</div>')
        yield f'<div class="query">{_photo(found, query, "")}<div class="rows">{"".join(lists)}</div></div>'


def _telling(task: Neighbours, rows: dict[int, Array], found: Sweep, numbers: np.random.Generator) -> list[int]:
    """Return queries on which the candidates' nearest photos differ, then others, at random."""
    order = numbers.permutation(len(task.queries))
    right = []
    for index in rows:
        predicted = found.scores[index].predicted
        right.append(np.zeros(len(order), bool) if predicted is None else predicted == task.labels[task.queries])
    differ = np.any([one != right[0] for one in right], axis=0)
    chosen = [*order[differ[order]][: _QUERIES - 2], *order[~differ[order]]][:_QUERIES]
    return [int(task.queries[place]) for place in chosen]


def _photo(found: Sweep, image: int, kind: str) -> str:
    one = found.collection.photos[int(found.setting.of[image])]
    made = int(found.setting.kinds[image])
    return photo(one.path, VIEWS[made] if made else one.label or one.name, kind)


def _shorter(found: Sweep) -> Iterator[str]:
    chosen = [index for index in dict.fromkeys((found.recommended, found.best, found.default)) if index in found.losses]
    sizes = sorted(
        {size for index in chosen for kind in ("pca", "random") for size in getattr(found.losses[index], kind)}
    )
    if not chosen:
        return
    yield "<h2>Shorter and coarser vectors</h2>"
    yield paragraph(
        f"Change of {found.request.measure}. pca is fitted on half of the photos and measured on the other, both ways. "
        "int8 takes a quarter of the bytes, binary a thirty-second. sweep.json has the others of the front.", "soft",
    )  # fmt: skip

    def cell(change: float | None) -> tuple[str, float | None]:
        return ("", None) if change is None else (f"{change:+.3f}", change)

    rows: list[tuple[str, list[str | tuple[str, float | None]]]] = []
    for index in chosen:
        lost = found.losses[index]
        for kind, by_size in (("pca", lost.pca), ("random", lost.random)):
            if by_size:
                rows.append(
                    ("", [f"{_name(found, index)}, {kind}", *(cell(by_size.get(size)) for size in sizes), "", ""])
                )
        rows.append(("", [f"{_name(found, index)}, whole", *("" for _ in sizes), cell(lost.int8), cell(lost.binary)]))
    yield table(["vector", *(f"{size}-d" for size in sizes), "int8", "binary"], rows)


def _table(found: Sweep) -> str:
    others = list(found.scores[0].others)
    probed = found.decisive is not found.scores
    places = {index: place for place, index in enumerate(found.deciding)}
    columns = ["candidate", found.request.measure, "from", "to", "change", "change from", "change to"]
    columns += [found.measure] if probed else []
    columns += ["tied", *others, "FLOP", "weights", "bytes", "front", "ms"]

    def row(index: int) -> Sequence[str | tuple[str, float | None]]:
        one, scores, place = found.candidates[index], found.scores[index], places.get(index)
        base = found.scores[found.default].estimate
        figures = [scores.estimate, *found.general.intervals[index]]
        changes = [scores.estimate - base, *found.general.against_default[index]]
        took = found.timing.get("milliseconds", {}).get(index)
        cells: list[str | tuple[str, float | None]] = [_name(found, index)]
        cells += [(f"{number:.3f}", round(number, 6)) for number in figures]
        cells += [(f"{number:+.3f}", round(number, 6)) for number in changes]
        if probed:
            value = None if place is None else found.decisive[place].estimate
            cells.append(("" if value is None else f"{value:.3f}", value))
        cells.append("yes" if place is not None and found.comparison.tied[place] else "")
        cells += [(f"{scores.others[name]:.3f}", round(scores.others[name], 6)) for name in others]
        cells.append((short(one.flops) if one.flops else "?", one.flops))
        cells += [(short(one.params), one.params), (f"{4 * one.dimension:,}", 4 * one.dimension)]
        cells += ["yes" if index in found.front else "", (f"{took[0]:.1f}" if took else "", took[0] if took else None)]
        return cells

    order = sorted(range(len(found.candidates)), key=lambda index: -found.scores[index].estimate)
    return table(columns, [(_kind(found, index), row(index)) for index in order])


def _left_out(found: Sweep) -> Iterator[str]:
    if found.notes or found.collection.left_out:
        yield "<h2>Notes</h2>"
    for note in found.notes:
        yield paragraph(note)
    if found.collection.left_out:
        yield paragraph(f"{len(found.collection.left_out)} photos were left out:")
        yield table(["photo", "why"], [("", list(pair)) for pair in found.collection.left_out])
