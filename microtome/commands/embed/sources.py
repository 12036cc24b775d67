"""List images one by one: folders, globs, files, tars, Parquet columns, and lists of files from standard input.

Texts stand in Parquet columns and in files of lines.

Only the names of one folder and those around it, or of one pattern, are held at a time, so memory does not grow with
the images. An image is listed by its place and read when it is needed.
"""

import glob
import io
import os
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import TextIO

from microtome.client.errors import UnreadableImage
from microtome.commands.embed.archives import TARS, column_images, is_image, rows, tar_images
from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.keyed_images import (
    DEFAULT_RULES,
    ImageFile,
    KeyedImage,
    KeyedText,
    Rules,
    is_within,
    regular,
)

_LONGEST_LINE = 1 << 15

TEXTS = ".txt"
"""Ending of a file of texts, one a line."""


def images(words: Iterable[str], stdin: TextIO, rules: Rules = DEFAULT_RULES) -> Iterator[KeyedImage]:
    """List all images.

    Args:
        words: paths of files and folders, patterns, tars, files of lines, `FILE.parquet::COLUMN`, or `-` for a list of
            files from `stdin`.
        stdin: one path a line.
        rules: what may be read.

    Raises:
        EmbedError: a word names nothing, or something that cannot be listed.
    """
    for word in words:
        if word == "-":
            yield from (ImageFile(line, max_bytes=rules.max_bytes) for _, line in _lines(stdin, "standard input"))
            continue
        for path, column, folder in _places(word, rules):
            yield from _below(path, folder, rules) if column is None else column_images(path, column, rules)


def count(words: Iterable[str], rules: Rules = DEFAULT_RULES) -> int | None:
    """Count images; None where counting is slow, as in a tar, or impossible, as in a list on standard input."""
    total = 0
    for word in words:
        if word == "-":
            return None
        for path, column, folder in _places(word, rules):
            if column is None and path.lower().endswith(TARS):
                return None
            total += sum(1 for _ in _below(path, folder, rules)) if column is None else rows(path)
    return total


def _lines(file: TextIO, name: str) -> Iterator[tuple[int, str]]:
    """Read lines that are not empty, each with its number from 1."""
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            raise EmbedError(
                f"Expected lines of less than {_LONGEST_LINE} characters in {name}, received a longer one."
            )
        if line.strip():
            yield number, line.rstrip("\r\n")


def _texts(path: str) -> Iterator[KeyedText]:
    """List the texts of a file; a line that is no UTF-8 is listed too, and cannot be sent."""
    try:
        with regular(path) as file, io.TextIOWrapper(file, "utf-8", "surrogateescape") as lines:
            for number, line in _lines(lines, path):
                yield KeyedText(line, f"{path}:{number}")
    except (OSError, UnreadableImage) as error:
        raise EmbedError(f"{path} cannot be read as lines of text: {error}") from error


def _places(word: str, rules: Rules) -> Iterator[tuple[str, str | None, str]]:
    """Find the files and folders of a word, each with a Parquet file's column and the folder of a pattern, if any."""
    column: str | None = None
    pattern = word
    if "::" in word and not Path(word).exists():
        pattern, column = word.rsplit("::", 1)
    # A file may have brackets in its name.
    named = Path(pattern).exists()
    found = [pattern] if named else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207, which has no absolute patterns
    if not found:
        raise EmbedError(f"Expected images at {pattern!r}, found nothing there. The working directory is {Path.cwd()}.")
    fixed = Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    folder = "" if named or rules.follow_links else os.path.realpath(fixed)
    return ((path, column, folder) for path in found)


def _below(path: str, folder: str, rules: Rules) -> Iterator[KeyedImage]:
    archive = path.lower().endswith((*TARS, ".parquet"))
    if folder and not is_within(path, folder) and (archive or Path(path).is_dir()):
        raise EmbedError(f"{path} is a link out of {folder}. Name it itself, or give --follow-links.")
    if Path(path).is_dir():
        yield from _folder(path, folder, rules)
    elif path.lower().endswith(TARS):
        yield from tar_images(path, rules)
    elif archive:
        raise EmbedError(f"Expected FILE.parquet::COLUMN, received {path!r}. Say which column holds the images.")
    elif path.lower().endswith(TEXTS):
        yield from _texts(path)
    else:
        yield ImageFile(path, folder=folder, max_bytes=rules.max_bytes)


def _folder(path: str, folder: str, rules: Rules) -> Iterator[KeyedImage]:
    folder = folder or ("" if rules.follow_links else os.path.realpath(path))
    # Not by recursion, which has an end before that of paths.
    ahead = [_names(path)]
    while ahead:
        name = next(ahead[-1], None)
        if name is None:
            ahead.pop()
        elif name[1]:
            ahead.append(_names(name[0]))
        elif is_image(name[0]):
            yield ImageFile(name[0], folder=folder, max_bytes=rules.max_bytes)


def _names(path: str) -> Iterator[tuple[str, bool]]:
    """Return the paths in a folder, sorted, each with whether it is a folder."""
    try:
        with os.scandir(path) as entries:
            # Links to folders are not followed: they may form cycles.
            return iter(sorted((entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries))
    except OSError as error:
        raise EmbedError(f"The folder {path} cannot be listed: {error.strerror or error}.") from error
