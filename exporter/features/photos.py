"""Read photos with classes, pairs that are the same or not, or photos without labels.

All mistakes that can be seen without decoding are found here, before TensorFlow is loaded.
"""

import csv
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from exporter.errors import ImpossibleOption
from exporter.recipe.files import SUFFIXES, photo_digest
from exporter.runtime.terminal import counted

Kind = Literal["classes", "pairs", "unlabelled"]
Use = Literal["search", "classify", "duplicates"]

FEW = 10
"""Photos of a class below which a warning is due."""
LONGEST_LABEL = 200
FOLDER = "folder"
"""The value of `--groups` that takes the folder of a photo for its group."""

_NOT_CLASSES = frozenset({"__macosx"})
"""Folders that an archive brings along; folders whose name begins with a dot are not entered either."""
_PATHS = frozenset({"path", "a", "b"})
_TEST, _VALIDATION = "test", frozenset({"val", "valid", "validation"})
_SPLITS = frozenset({"train", "training", "test", "val", "valid", "validation"})
_YES = frozenset({"1", "true", "yes", "same"})
_NO = frozenset({"0", "false", "no", "different"})


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo.

    Attributes:
        path: Its file.
        name: Its path from the folder or list that it was found in.
        digest: SHA-256 of the file.
        label: Its class; None without labels.
        group: What it shows; photos of a group are never compared with each other. None without groups.
        split: `train`, `test` or the like, where the folder or list says so.
    """

    path: Path
    name: str
    digest: str
    label: str | None = None
    group: str | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Collection:
    """Photos that were found.

    Attributes:
        kind: What is known about them.
        photos: By name.
        pairs: Indices of two photos, and whether they show the same; for `kind` pairs.
        left_out: Names of photos that do not take part, with the reason.
        warnings: Sentences for the user.
    """

    kind: Kind
    photos: tuple[Photo, ...]
    pairs: tuple[tuple[int, int, bool], ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = field(default=())


def read_collection(photos: Path, use: Use, groups: str | None) -> Collection:
    """Read a folder or a list of photos.

    Args:
        photos: A folder with a folder for each class, with `pairs.csv`, or with photos alone; or a CSV file with the
            columns a, b, same, or path, label and perhaps group. Links are followed; what is hidden is passed over.
        use: What the vectors are for.
        groups: `folder`, or a regular expression whose first group (or whole match) in a photo's name is its group.

    Raises:
        ImpossibleOption: There are too few photos, labels or classes for this use, or a list is malformed.
    """
    _pattern(groups)
    if photos.is_dir():
        listed = photos / "pairs.csv"
        found = _from_pairs(listed) if listed.is_file() else _from_folder(photos)
    elif photos.is_file() and photos.suffix.lower() == ".csv":
        found = _from_pairs(photos) if _lists_pairs(photos) else _from_index(photos)
    else:
        raise ImpossibleOption(
            f"Expected a folder of photos, or a CSV file with the columns a, b, same or path, label. "
            f"Received: {photos}, which is {'another file' if photos.exists() else 'not there'}."
        )
    if not found.photos:
        raise ImpossibleOption(
            f"Expected photos in {photos}, which end in {', '.join(sorted(SUFFIXES))}. Received: none. "
            + " ".join(found.warnings)
        )
    found = with_digests(with_groups(found, groups))
    return _checked(found if found.kind == "pairs" else without_copies(found), photos, use)


def read_classes(photos: Path, groups: str | None) -> Collection:
    """Read photos that have classes, as `read_collection` does.

    Raises:
        ImpossibleOption: They have none, or there are too few.
    """
    listed = photos / "pairs.csv" if photos.is_dir() else photos
    if listed.is_file() and _lists_pairs(listed):
        raise ImpossibleOption(f"Expected photos with classes. Received: {listed}, which lists pairs.")
    found = read_collection(photos, "classify", groups)
    sizes = Counter(str(photo.label) for photo in found.photos)
    strange = [label for label in sizes if not label.strip() or not label.isprintable() or len(label) > LONGEST_LABEL]
    if strange:
        raise ImpossibleOption(
            f"Expected classes with names of 1 to {LONGEST_LABEL} printable letters. Received: {strange[0][:40]!r}."
        )
    alone = sorted(label for label, size in sizes.items() if size < 2)
    if alone:
        raise ImpossibleOption(
            f"Expected at least two photos of each class in {photos}. Received: one of {', '.join(alone[:5])}. "
            "Add photos, or take the class out."
        )
    check_splits(found)
    return found


def check_splits(collection: Collection) -> None:
    """Check what `test` and `train` of a folder or list hold.

    Raises:
        ImpossibleOption: A class is only among the photos that are held out, or nothing is left to train on.
    """
    held = held_out(collection.photos)
    if not held.any():
        return
    known = {photo.label for photo, out in zip(collection.photos, held, strict=True) if not out}
    strange = sorted({str(photo.label) for photo in collection.photos} - {str(label) for label in known})
    if strange:
        raise ImpossibleOption(
            f"Expected photos to train on of each class that is held out. Received: none of {', '.join(strange[:5])}. "
            "Put photos of it into train, or leave the class out."
        )


def held_out(photos: Sequence[Photo]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return whether a folder or list holds each photo out, bool [photos]: those of `test`, or else of `val`."""
    splits = [photo.split for photo in photos]
    tests = {_TEST} if _TEST in splits else _VALIDATION
    return np.array([split in tests for split in splits])


def without_copies(found: Collection) -> Collection:
    """Leave out copies of a file: all of them where their classes differ, all but the first where they agree."""
    copies = defaultdict(list)
    for photo in found.photos:
        copies[photo.digest].append(photo)
    left_out, kept = list(found.left_out), []
    for same in copies.values():
        labels = {photo.label for photo in same}
        kept += same[:1] if len(labels) == 1 else []
        for photo in same[1:] if len(labels) == 1 else same:
            others = ", ".join(other.name for other in same if other is not photo)
            why = "a copy of" if len(labels) == 1 else "in another class also, as"
            left_out.append((photo.name, f"{why} {others}"))
    return replace(found, photos=tuple(sorted(kept, key=lambda photo: photo.name)), left_out=tuple(left_out))


def check_classes(found: Collection, source: object) -> None:
    """Check that classes can be told apart.

    Raises:
        ImpossibleOption: There are fewer than two classes, or no class has two photos.
    """
    sizes = Counter(photo.label for photo in found.photos)
    left = f" {len(found.left_out)} are left out, such as {' '.join(found.left_out[0])}." if found.left_out else ""
    if len(sizes) < 2:
        only = f"only {next(iter(sizes))!r}" if sizes else "none"
        raise ImpossibleOption(
            f"Expected photos of at least two classes in {source}. Received: {only}.{left}{_deeper(found, source)}"
        )
    if max(sizes.values()) < 2:
        raise ImpossibleOption(
            f"Expected classes with two photos or more in {source}, to find one by the other. Received: "
            f"{len(sizes)} classes of one photo each.{left}"
        )


def _deeper(found: Collection, source: object) -> str:
    """Return a hint where the classes, or photos without any, seem to be a folder further down."""
    if not isinstance(source, Path) or not source.is_dir() or not found.photos:
        return ""
    folders = {_folder_of(photo) for photo in found.photos}
    shared = source / os.path.commonpath(folders)
    if len(folders) > 1:
        return f" If the folders in {shared} are the classes, give that one."
    return f" To sweep photos without labels, give {shared}."


def _checked(found: Collection, source: Path, use: Use) -> Collection:
    if found.kind == "pairs":
        if use != "duplicates":
            raise ImpossibleOption(f"Expected --for duplicates with pairs. Received: --for {use}.")
        if len({same for *_, same in found.pairs}) < 2:
            raise ImpossibleOption(
                f"Expected pairs that are the same and pairs that are not in {source}. Received: {len(found.pairs)} "
                "pairs of one kind."
            )
        return found
    if found.kind == "unlabelled":
        if use == "classify":
            raise ImpossibleOption(
                f"Expected a folder for each class, or a CSV file with path and label, to tell classes apart. "
                f"Received: {source}, whose photos have no labels."
            )
        if len(found.photos) < 2:
            raise ImpossibleOption(f"Expected at least two photos in {source}. Received: {len(found.photos)}.")
        return found
    check_classes(found, source)
    sizes = Counter(str(photo.label) for photo in found.photos)
    few = sorted(label for label, size in sizes.items() if size < FEW)
    if few:
        shown = ", ".join(few[:5]) + (", …" if len(few) > 5 else "")
        said = f"{len(few)} of {len(sizes)} classes have fewer than {FEW} photos ({shown}): expect wide intervals."
        found = replace(found, warnings=(*found.warnings, said))
    alike = defaultdict(list)
    for label in sizes:
        alike[unicodedata.normalize("NFC", label).casefold()].append(label)
    same = [", ".join(map(repr, labels)) for labels in alike.values() if len(labels) > 1]
    if same:
        said = f"Classes whose names differ in case or encoding only are taken for different ones: {'; '.join(same)}."
        found = replace(found, warnings=(*found.warnings, said))
    return found


def with_groups(found: Collection, groups: str | None) -> Collection:
    """Return photos with the groups that `--groups` gives them.

    Raises:
        ImpossibleOption: It is no regular expression.
    """
    if groups is None:
        return found
    pattern = _pattern(groups)
    group = _folder_of if pattern is None else lambda photo: _group(pattern, photo.name)
    return replace(found, photos=tuple(replace(one, group=group(one)) for one in found.photos))


def with_digests(found: Collection) -> Collection:
    """Return photos with the digests of their files."""
    photos = counted(found.photos, len(found.photos), "Reading the photos", delay=1)
    try:
        return replace(found, photos=tuple(replace(photo, digest=photo_digest(photo.path)) for photo in photos))
    except OSError as error:
        raise ImpossibleOption(f"Expected photos that can be read. Received: {error}.") from error


def _from_folder(folder: Path) -> Collection:
    """Take the first folder below for the class, below folders such as `train` and `test`, which count as one."""
    files, broken, others, empty = _walk(folder)
    warnings = []
    if others:
        shown = ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in others.most_common(5))
        warnings.append(
            f"Files that do not end as photos do are passed over: {shown}{', …' if len(others) > 5 else ''}."
        )
    if empty:
        shown = ", ".join(sorted(_name(path, folder) for path in empty)[:5]) + (", …" if len(empty) > 5 else "")
        warnings.append(f"Folders without photos: {shown}.")
    parts = {path: path.relative_to(folder).parts[:-1] for path in files}
    tops = {above[0] for above in parts.values() if above}
    below = 1 if tops and {top.casefold() for top in tops} <= _SPLITS and all(parts.values()) else 0
    labelled = [path for path in files if len(parts[path]) > below]
    left_out = [(_name(path, folder), "a link to no file") for path in broken]
    if not labelled:
        photos = tuple(Photo(path, _name(path, folder), "") for path in files)
        return Collection("unlabelled", photos, left_out=tuple(left_out), warnings=tuple(warnings))
    photos = tuple(
        Photo(
            path,
            _name(path, folder),
            "",
            _printable(parts[path][below]),
            split=parts[path][0].casefold() if below else None,
        )
        for path in labelled
    )
    left_out += [(_name(path, folder), "in no class's folder") for path in files if len(parts[path]) <= below]
    return Collection("classes", photos, left_out=tuple(left_out), warnings=tuple(warnings))


def _walk(folder: Path) -> tuple[list[Path], list[Path], Counter[str], list[Path]]:
    """Look through a folder, by path.

    Returns:
        Photos, links to none, how many other files have which ending, and folders that hold nothing of all that.
    """
    files: list[Path] = []
    broken: list[Path] = []
    others: Counter[str] = Counter()
    empty: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        here = Path(place)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and name.casefold() not in _NOT_CLASSES and not _above(here, name, folder)
        ]
        paths = [here / name for name in names if not name.startswith(".")]
        photos = [path for path in paths if path.suffix.lower() in SUFFIXES]
        files += [path for path in photos if path.is_file()]
        broken += [path for path in photos if not path.is_file()]
        others.update(path.suffix.lower() for path in paths if path.suffix.lower() not in SUFFIXES)
        if not photos and not folders and here != folder:
            empty.append(here)
    files, broken = (sorted(some, key=lambda path: path.relative_to(folder).as_posix()) for some in (files, broken))
    return files, broken, others, empty


def _above(here: Path, name: str, folder: Path) -> bool:
    """Whether a folder is a link to one that it is in, which would go round for ever."""
    inside = [here, *here.parents][: len(here.relative_to(folder).parts) + 1]
    return (here / name).is_symlink() and os.path.realpath(here / name) in map(os.path.realpath, inside)


def _refuse(error: OSError) -> None:
    raise ImpossibleOption(f"Expected folders that can be read. Received: {error}.") from error


def _name(path: Path, folder: Path) -> str:
    return _printable(path.relative_to(folder).as_posix())


def _printable(name: str) -> str:
    r"""Return a file's name as text that any file takes: bytes that are no UTF-8 as in `\udcff`."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _folder_of(photo: Photo) -> str:
    return photo.name.rpartition("/")[0]


def _lists_pairs(path: Path) -> bool:
    return path.suffix.lower() == ".csv" and {"a", "b", "same"} <= {name.casefold() for name in read_columns(path)[0]}


def _from_index(path: Path) -> Collection:
    rows = list(_rows(path, ("path", "label"), optional=("group", "split")))
    grouped = any(row["group"] for _, row in rows)
    photos = {}
    for line, row in rows:
        if row["path"] in photos:
            raise ImpossibleOption(f"Expected each path once in {path}. Received: {row['path']!r} twice, line {line}.")
        photo = indexed_photo(path, line, row)
        photos[photo.name] = replace(photo, group=photo.group or photo.name) if grouped else photo
    return Collection("classes", tuple(sorted(photos.values(), key=lambda photo: photo.name)))


def indexed_photo(list_: Path, line: int, row: Mapping[str, str]) -> Photo:
    """Return the photo of a line: its path, and perhaps label, group and split.

    Raises:
        ImpossibleOption: It is not there, or its split is none.
    """
    name = row.get("path", "")
    name = name if _there(list_.parent / name) else name.strip()
    if not name:
        raise ImpossibleOption(f"Expected path in each line of {list_}. Received: line {line} without one.")
    said = row.get("split", "").strip()
    split = said.casefold() or None
    if split not in {None, *_SPLITS}:
        raise ImpossibleOption(
            f"Expected {', '.join(sorted(_SPLITS))} or nothing as split in {list_}, line {line}. Received: {said!r}."
        )
    group, label = row.get("group", "").strip() or None, row.get("label")
    return Photo(_existing(list_, line, name), name, "", label, group, split)


def _from_pairs(path: Path) -> Collection:
    rows = list(_rows(path, ("a", "b", "same")))
    names = sorted({row[side] for _, row in rows for side in ("a", "b")})
    places = {name: index for index, name in enumerate(names)}
    first = {row[side]: line for line, row in reversed(rows) for side in ("a", "b")}
    pairs: dict[tuple[int, int], bool] = {}
    for line, row in rows:
        word = row["same"].casefold()
        if word not in _YES | _NO:
            raise ImpossibleOption(f"Expected 1 or 0 as same in {path}, line {line}. Received: {row['same']!r}.")
        one, other = sorted((places[row["a"]], places[row["b"]]))
        if one == other:
            raise ImpossibleOption(
                f"Expected two photos in each line of {path}. Received: {row['a']} twice, line {line}."
            )
        if pairs.setdefault((one, other), word in _YES) != (word in _YES):
            raise ImpossibleOption(
                f"Expected one answer for each pair in {path}. Received: {row['a']} and {row['b']} as same and as "
                f"different, line {line}."
            )
    photos = tuple(Photo(_existing(path, first[name], name), name, "") for name in names)
    return Collection("pairs", photos, tuple((one, other, same) for (one, other), same in pairs.items()))


def read_columns(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the columns of a CSV file, and its lines with their numbers.

    Raises:
        ImpossibleOption: It cannot be read, or is no text in UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, line) for line in reader if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImpossibleOption(f"Expected a CSV file in UTF-8. Received: {path}: {error}.") from error
    return [name.strip() for name in lines[0][1]] if lines else [], lines[1:]


def _rows(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    given, lines = read_columns(path)
    given = [name.casefold() for name in given]
    if not set(columns) <= set(given):
        raise ImpossibleOption(
            f"Expected the columns {', '.join(columns)} in {path}, separated by commas. Received: "
            f"{', '.join(given) or 'none'}."
        )
    for line, cells in lines:
        row = {
            name: cell if name in _PATHS and _there(path.parent / cell) else cell.strip()
            for name, cell in zip(given, cells, strict=False)
        }
        if any(not row.get(column) for column in columns):
            raise ImpossibleOption(
                f"Expected {', '.join(columns)} in each line of {path}. Received: line {line} without one of them."
            )
        yield line, {column: row.get(column, "") for column in (*columns, *optional)}


def _existing(list_: Path, line: int, name: str) -> Path:
    found = list_.parent / (os.path.expanduser(name) if name.startswith("~") else name)  # noqa: PTH111 -- an unknown user's stays
    if not _there(found):
        raise ImpossibleOption(f"Expected photos that are there in {list_}. Received: {name[:200]}, line {line}.")
    return found


def _there(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _pattern(groups: str | None) -> re.Pattern[str] | None:
    if groups is None or groups == FOLDER:
        return None
    try:
        return re.compile(groups)
    except re.error as error:
        raise ImpossibleOption(
            f"Expected --groups {FOLDER}, or a regular expression. Received: {groups!r}: {error}."
        ) from error


def _group(pattern: re.Pattern[str], name: str) -> str:
    """Return the group of a photo; one that the pattern does not match is a group of its own."""
    found = pattern.search(name)
    if found is None:
        return f"/{name}"
    return found[1] if pattern.groups and found[1] is not None else found[0]
