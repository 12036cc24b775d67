"""List images one by one: folders, globs, files, tars, Parquet columns, and lists of files from standard input.

Texts stand in Parquet columns and in files of lines. All but the list may be in an object store.

Only the names of one folder and those around it, or of one pattern, are held at a time, so memory does not grow with
the images. An image is listed by its place and read when it is needed.
"""

import glob
import os
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import TextIO

from microtome.commands.embed import stores
from microtome.commands.embed.archives import TARS, TEXTS, Archive, is_image, lines
from microtome.commands.embed.errors import EmbedError
from microtome.commands.embed.keyed_images import DEFAULT_RULES, ImageFile, KeyedImage, Rules, is_within


def images(words: Iterable[str], stdin: TextIO, rules: Rules = DEFAULT_RULES) -> Iterator[KeyedImage]:
    """List all images.

    Args:
        words: paths or addresses of files and folders, patterns, tars, files of lines, `FILE.parquet::COLUMN`, or `-`
            for a list of files from `stdin`.
        stdin: one path a line.
        rules: what may be read.

    Raises:
        EmbedError: a word names nothing, or something that cannot be listed.
    """
    return _opened(listed(words, stdin, rules), rules)


def _opened(found: Iterable[ImageFile | Archive], rules: Rules) -> Iterator[KeyedImage]:
    for one in found:
        if isinstance(one, Archive):
            yield from one.images(rules)
        else:
            yield one


def listed(words: Iterable[str], stdin: TextIO, rules: Rules = DEFAULT_RULES) -> Iterator[ImageFile | Archive]:
    """List all files, and the archives unread; see `images`."""
    for word in words:
        if word == "-":
            yield from (ImageFile(line, max_bytes=rules.max_bytes) for _, line in lines(stdin, "standard input"))
            continue
        for path, column, folder in _places(word, rules):
            yield from _below(path, folder, rules) if column is None else [Archive(path, column)]


def count(words: Iterable[str], rules: Rules = DEFAULT_RULES) -> int | None:
    """Count images; None where that is slow, as in a tar or a store, or impossible, as in a list on standard input."""
    total = 0
    for word in words:
        if word == "-" or stores.is_address(word):
            return None
        for path, column, folder in _places(word, rules):
            if column is None and path.lower().endswith(TARS):
                return None
            if column:
                total += sum(part.count for part in Archive(path, column).parts())
            else:
                total += sum(1 for _ in _opened(_below(path, folder, rules), rules))
    return total


def _places(word: str, rules: Rules) -> Iterator[tuple[str, str | None, str]]:
    """Find the files and folders of a word, each with a Parquet file's column and the folder of a pattern, if any."""
    column: str | None = None
    pattern = word
    if "::" in word and (stores.is_address(word) or not Path(word).exists()):
        pattern, column = word.rsplit("::", 1)
    if stores.is_address(pattern):
        return ((path, column, "") for path in _remote(pattern))
    # A file may have brackets in its name.
    named = Path(pattern).exists()
    found = [pattern] if named else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207, which has no absolute patterns
    if not found:
        raise EmbedError(f"Expected images at {pattern!r}, found nothing there. The working directory is {Path.cwd()}.")
    fixed = Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    folder = "" if named or rules.follow_links else os.path.realpath(fixed)
    return ((path, column, folder) for path in found)


def _remote(pattern: str) -> list[str]:
    try:
        if glob.has_magic(pattern):
            found = stores.matches(pattern)
        else:
            found = [pattern] if stores.size(pattern) >= 0 or stores.names(pattern) else []
    except OSError as error:
        raise EmbedError(f"{pattern} cannot be listed: {error}") from error
    if not found:
        raise EmbedError(f"Expected images at {pattern!r}, found nothing there.")
    return found


def _is_folder(path: str) -> bool:
    if not stores.is_address(path):
        return Path(path).is_dir()
    # What has an ending is no folder, which saves a request for each object.
    return not (is_image(path) or path.lower().endswith((*TARS, TEXTS, ".parquet"))) and bool(_names(path))


def _below(path: str, folder: str, rules: Rules) -> Iterator[ImageFile | Archive]:
    archive = path.lower().endswith((*TARS, TEXTS, ".parquet"))
    is_folder = _is_folder(path)
    if folder and not is_within(path, folder) and (archive or is_folder):
        raise EmbedError(f"{path} is a link out of {folder}. Name it itself, or give --follow-links.")
    if is_folder:
        yield from _folder(path, folder, rules)
    elif path.lower().endswith((*TARS, TEXTS)):
        yield Archive(path)
    elif archive:
        raise EmbedError(f"Expected FILE.parquet::COLUMN, received {path!r}. Say which column holds the images.")
    else:
        yield ImageFile(path, folder=folder, max_bytes=rules.max_bytes)


def _folder(path: str, folder: str, rules: Rules) -> Iterator[ImageFile]:
    folder = folder or ("" if rules.follow_links or stores.is_address(path) else os.path.realpath(path))
    # Not by recursion, which has an end before that of paths.
    ahead = [iter(_names(path))]
    while ahead:
        name = next(ahead[-1], None)
        if name is None:
            ahead.pop()
        elif name[1]:
            ahead.append(iter(_names(name[0])))
        elif is_image(name[0]):
            yield ImageFile(name[0], folder=folder, max_bytes=rules.max_bytes)


def _names(path: str) -> list[tuple[str, bool]]:
    """Return the paths in a folder, sorted, each with whether it is a folder."""
    try:
        return stores.names(path)
    except OSError as error:
        raise EmbedError(f"The folder {path} cannot be listed: {error.strerror or error}.") from error
