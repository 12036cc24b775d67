"""Read photos with numbers: a CSV file with a photo on each line, and one or more columns of numbers.

All mistakes that can be seen without decoding are found here, before TensorFlow is loaded.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import ImpossibleOption
from exporter.features.photos import (
    LONGEST_LABEL,
    Collection,
    Photo,
    held_out,
    indexed_photo,
    read_columns,
    with_digests,
    with_groups,
)

BOX = ("x", "y", "width", "height")
"""Columns that are a box together: its upper left corner, width and height, in fractions of the photo."""
FEWEST = 10
"""Photos below which nothing is trained."""
_NOT_NUMBERS = frozenset({"path", "group", "split"})
_UNIT = re.compile(r"(.*\S)\s*[\[(]\s*([^\[\]()]*?)\s*[\])]")
"""A column with its unit, such as `weight [kg]`."""
_LARGEST = 1e30
"""Larger numbers overflow in the arithmetic of a graph."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class MeasuredPhotos:
    """Photos and their numbers.

    Attributes:
        collection: The photos.
        columns: Names of the numbers.
        units: Of each column; empty where it has none.
        values: float64 [photos, columns], in the order of the photos.
    """

    collection: Collection
    columns: tuple[str, ...]
    units: tuple[str, ...]
    values: Array

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """Places of x, y, width and height among the columns; None without a box."""
        return box_of(self.columns)


def box_of(columns: tuple[str, ...]) -> tuple[int, int, int, int] | None:
    """Return the places of x, y, width and height among columns; None where one of them is missing."""
    there = {name.casefold(): place for place, name in enumerate(columns)}
    return (there["x"], there["y"], there["width"], there["height"]) if set(BOX) <= set(there) else None


def has_numbers(photos: Path) -> bool:
    """Return whether a file is a list of photos with numbers: it has the column path, and no label."""
    if photos.suffix.lower() != ".csv" or not photos.is_file():
        return False
    names = {name.casefold() for name in read_columns(photos)[0]}
    return "path" in names and "label" not in names


def read_numbers(path: Path, groups: str | None) -> MeasuredPhotos:
    """Read a CSV file with the columns path and others, each of numbers, perhaps with group and split.

    Args:
        path: The file; paths in it start at its folder.
        groups: `folder`, or a regular expression whose first group (or whole match) in a photo's name is its group.

    Raises:
        ImpossibleOption: It has no numbers, text or nothing in their place, a column of one value, or too few photos.
    """
    given, lines = read_columns(path)
    columns = {place: name for place, name in enumerate(given) if name.casefold() not in _NOT_NUMBERS}
    if not columns:
        raise ImpossibleOption(
            f"Expected a column with numbers in {path}, or the column label for classes. Received: {', '.join(given)}."
        )
    names, units = zip(*(_name_and_unit(name) for name in columns.values()), strict=True)
    _check_names(path, names)
    found: dict[str, tuple[Photo, list[float]]] = {}
    for line, cells in lines:
        row = dict(zip((name.casefold() for name in given), cells, strict=False))
        photo = indexed_photo(path, line, row)
        if photo.name in found:
            raise ImpossibleOption(f"Expected each path once in {path}. Received: {photo.name!r} twice, line {line}.")
        texts = [cells[place].strip() if place < len(cells) else "" for place in columns]
        numbers = [_number(path, line, name, text) for name, text in zip(names, texts, strict=True)]
        _check_box(path, line, names, numbers)
        found[photo.name] = photo, numbers
    if any(photo.group for photo, _ in found.values()):
        found = {name: (replace(photo, group=photo.group or name), row) for name, (photo, row) in found.items()}
    collection = Collection("unlabelled", tuple(found[name][0] for name in sorted(found)))
    collection = with_digests(with_groups(collection, groups))
    values = np.array([found[photo.name][1] for photo in collection.photos], np.float64).reshape(-1, len(names))
    measured = _without_copies(MeasuredPhotos(collection, tuple(names), tuple(units), values))
    check_numbers(measured, str(path))
    return measured


def check_numbers(measured: MeasuredPhotos, source: str) -> None:
    """Check that there are enough photos, and that numbers differ among those to train on.

    Raises:
        ImpossibleOption: They are too few, or a column has one value only.
    """
    photos = measured.collection.photos
    if len(photos) < FEWEST:
        raise ImpossibleOption(f"Expected at least {FEWEST} photos with numbers in {source}. Received: {len(photos)}.")
    held = held_out(photos)
    if held.any() and (~held).sum() < FEWEST // 2:
        raise ImpossibleOption(
            f"Expected at least {FEWEST // 2} photos to train on in {source}. Received: {(~held).sum()} that are not "
            "held out."
        )
    for name, column in zip(measured.columns, measured.values[~held].T, strict=True):
        if (column == column[0]).all():
            raise ImpossibleOption(
                f"Expected different numbers in each column of {source}. Received: {column[0]:g} in all photos to "
                f"train on as {name}; take the column out."
            )


def _name_and_unit(text: str) -> tuple[str, str]:
    found = _UNIT.fullmatch(text.strip())
    return (found[1], found[2]) if found else (text.strip(), "")


def _check_names(path: Path, names: tuple[str, ...]) -> None:
    strange = [name for name in names if not name or not name.isprintable() or len(name) > LONGEST_LABEL]
    if strange:
        raise ImpossibleOption(
            f"Expected columns with names of 1 to {LONGEST_LABEL} printable letters in {path}. Received: "
            f"{strange[0][:40]!r}."
        )
    if len({name.casefold() for name in names}) < len(names):
        raise ImpossibleOption(f"Expected columns with different names in {path}. Received: {', '.join(names)}.")


def _number(path: Path, line: int, name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < _LARGEST or "_" in text:
        raise ImpossibleOption(
            f"Expected a number as {name} in {path}, line {line}. Received: {text[:80]!r}. "
            "To train on classes, name the column label."
        )
    return number


def _check_box(path: Path, line: int, names: tuple[str, ...], numbers: list[float]) -> None:
    places = box_of(names)
    if places is None:
        return
    x, y, width, height = (numbers[place] for place in places)
    small = 1e-3  # rounded in the file
    if min(x, y) < -small or min(width, height) <= 0 or max(x + width, y + height) > 1 + small:
        raise ImpossibleOption(
            f"Expected x, y, width and height of a box as fractions of the photo in {path}, line {line}. Received: "
            f"{x:g}, {y:g}, {width:g}, {height:g}. Divide pixels by the photo's size, or name the columns otherwise."
        )


def _without_copies(measured: MeasuredPhotos) -> MeasuredPhotos:
    """Leave out copies of a file: all of them where their numbers differ, all but the first where they agree."""
    copies = defaultdict(list)
    for index, photo in enumerate(measured.collection.photos):
        copies[photo.digest].append(index)
    names = [photo.name for photo in measured.collection.photos]
    left_out, kept = [], []
    for same in copies.values():
        agree = bool((measured.values[same] == measured.values[same[0]]).all())
        kept += same[:1] if agree else []
        for index in same[1:] if agree else same:
            others = ", ".join(names[other] for other in same if other != index)
            left_out.append((names[index], f"a copy of {others}{'' if agree else ', with other numbers'}"))
    return part(measured, sorted(kept), tuple(left_out))


def part(measured: MeasuredPhotos, kept: list[int], left_out: tuple[tuple[str, str], ...]) -> MeasuredPhotos:
    """Return some of the photos, by index, where others are left out for a reason."""
    photos = tuple(measured.collection.photos[index] for index in kept)
    collection = replace(measured.collection, photos=photos, left_out=measured.collection.left_out + left_out)
    return replace(measured, collection=collection, values=measured.values[kept])
