"""Checks on located values that note every problem instead of stopping at the first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from exporter.errors import RecipeInvalid, nearest
from exporter.located import Located

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Checker:
    """Reads typed values out of a located tree; what is wrong is collected, and raised by `finish`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._problems: list[tuple[int, str]] = []

    def note(self, at: Located, message: str) -> None:
        """Note that something is wrong there."""
        path = f" {at.path}:" if at.path else ""
        self._problems.append((at.line, f"{self._file}:{at.line}:{path} {message}"))

    def finish(self) -> None:
        """Raise what has been noted, if anything.

        Raises:
            RecipeInvalid: With every problem, in the order of the file.
        """
        if self._problems:
            raise RecipeInvalid([message for _, message in sorted(self._problems, key=lambda problem: problem[0])])

    def note_error(self, at: Located, error: Exception) -> None:
        """Note what an error says, as the rest of a sentence."""
        said = str(error)
        self.note(at, f"{said[:1].lower()}{said[1:]}")

    def mapping(
        self,
        at: Located,
        *,
        required: Sequence[str],
        optional: Sequence[str] = (),
        instead: Mapping[str, str] | None = None,
    ) -> dict[str, Located]:
        """Return the known keys of a mapping; note unknown, repeated and missing ones.

        Args:
            at: What ought to be a mapping.
            required: Keys that must be there.
            optional: Keys that may.
            instead: What to do instead of giving some unknown key that people may well expect to be known.
        """
        known = (*required, *optional)
        if not isinstance(at.value, dict):
            self.note(at, f"expected a mapping with {', '.join(known)}. Received: {shown(at)}.")
            return {}
        for key in at.repeated:
            self.note(at.value[key], f"expected {key} once. Received: it again.")
        for key, value in at.value.items():
            if key not in known:
                way_on = (instead or {}).get(key) or nearest(key, known)
                self.note(value, f"unknown key. Expected: {', '.join(known)}. Received: {key!r}. {way_on}")
        for key in required:
            if key not in at.value:
                self.note(at, f"expected the key {key}. Received: only {', '.join(at.value) or 'nothing'}.")
        return {key: value for key, value in at.value.items() if key in known}

    def refuse_twins(self, items: Sequence[Located], names: Sequence[str]) -> None:
        """Note names that stand more than once; `names` are those of `items`."""
        for index, (item, name) in enumerate(zip(items, names, strict=True)):
            if name and name in names[:index]:
                self.note(item, f"expected names that differ. Received: {name!r} twice.")

    def items(self, at: Located | None) -> list[Located]:
        """Return the items of a list that must not be empty."""
        if at is None:
            return []
        if not isinstance(at.value, list) or not at.value:
            self.note(at, f"expected a list with at least one item. Received: {shown(at)}.")
            return []
        return at.value

    def text(self, at: Located | None) -> str:
        """Return a string that is not empty."""
        if at is None:
            return ""
        if not isinstance(at.value, str) or not at.value:
            self.note(at, f"expected text. Received: {shown(at)}.")
            return ""
        return at.value

    def name(self, at: Located | None) -> str:
        """Return a string that can be a directory, a URL segment and a graph node."""
        text = self.text(at)
        if at is not None and text and not NAME.fullmatch(text):
            self.note(at, f"expected up to 64 letters, digits, _ . or -, a letter or digit first. Received: {text!r}.")
        return text

    def choice(self, at: Located | None, choices: Sequence[str], default: str) -> str:
        """Return one of the choices."""
        if at is None:
            return default
        if at.value not in choices:
            received = f"{shown(at)}. {nearest(str(at.value), choices)}"
            self.note(at, f"expected one of {', '.join(choices)}. Received: {received}")
            return default
        return str(at.value)

    def integer(self, at: Located | None, default: int, *, least: int = 1) -> int:
        """Return a whole number of at least `least`."""
        if at is None:
            return default
        if isinstance(at.value, bool) or not isinstance(at.value, int) or at.value < least:
            self.note(at, f"expected a whole number of at least {least}. Received: {shown(at)}.")
            return default
        return at.value

    def layer(self, at: Located) -> str:
        """Return what names a layer: text, or its index such as -2, as text."""
        if isinstance(at.value, int) and not isinstance(at.value, bool):
            return str(at.value)
        return self.text(at)

    def file(self, at: Located) -> str:
        """Return the absolute path of a file that is there; a relative one starts at the recipe."""
        path = self._path(at)
        if not path.is_file():
            self.note(at, f"expected a file. Received: {path}, which is not there.")
        return str(path)

    def preset(self, text: str) -> str:
        """Return a preset as it is, or the absolute path of its directory if there is one; it starts at the recipe."""
        path = (self._file.parent / Path(text).expanduser()).absolute()
        return str(path) if path.is_dir() else text

    def folder(self, at: Located) -> Path | None:
        """Return the absolute path of a folder, or None when it is not there."""
        if not self.text(at):
            return None
        path = self._path(at)
        if not path.is_dir():
            self.note(at, f"expected a folder. Received: {path}, which is not there.")
            return None
        return path

    def _path(self, at: Located) -> Path:
        return (self._file.parent / Path(str(at.value)).expanduser()).absolute()

    def boolean(self, at: Located, default: bool) -> bool:
        """Return true or false."""
        if not isinstance(at.value, bool):
            self.note(at, f"expected true or false. Received: {shown(at)}.")
            return default
        return at.value


def shown(at: Located) -> str:
    """Say what a value is, short enough for a message."""
    if isinstance(at.value, dict):
        return "a mapping"
    if isinstance(at.value, list):
        return "a list" if at.value else "an empty list"
    return "nothing" if at.value is None else repr(at.value)
