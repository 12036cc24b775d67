"""A YAML file's data with the place of every value, and the problems that are found in it.

A recipe may come from elsewhere. So bytes, levels and values are bounded while it is read, with what aliases stand for.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from exporter.errors import RecipeInvalid, RecipeUnreadable

_MOST_BYTES = 1 << 20
_MOST_LEVELS = 16
_MOST_VALUES = 20_000
_MOST_PROBLEMS = 100
_MOST_KEYS = 20
_LONGEST_NUMBER = 40
_LONGEST_SHOWN = 200

Loc = tuple[str | int, ...]
"""A value's keys and indices from the root, as pydantic's `loc`: `("models", 0, "outputs", 1, "layer")`."""


class YamlTree:
    """The data of a YAML file, and the problems noted so far.

    Attributes:
        file: The file.
        data: Mappings, lists and scalars.
        places: Path, such as `models[0].outputs[1].layer`, and line of each value, by location.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.data: Any = None
        self.places: dict[Loc, tuple[str, int]] = {(): ("", 1)}
        self._problems: dict[str, int] = {}

    def place(self, loc: Loc) -> tuple[str, int]:
        """Return the path and line of a value, or of the nearest enclosing one that the file has."""
        while loc not in self.places:
            loc = loc[:-1]
        return self.places[loc]

    def value(self, loc: Loc) -> Any:  # noqa: ANN401, any YAML
        """Return the value at a location; None if there is none."""
        found = self.data
        for key in loc:
            try:
                found = found[key]
            except (TypeError, LookupError):
                return None
        return found

    def keys(self, loc: Loc) -> list[str]:
        """Return the keys of the mapping at a location; none if there is no mapping."""
        found = self.value(loc)
        return list(found) if isinstance(found, dict) else []

    def note(self, loc: Loc, problem: str | Exception) -> None:
        """Note a problem with the value at a location."""
        path, line = self.place(loc)
        text = str(problem)
        text = f"{text[:1].lower()}{text[1:]}" if isinstance(problem, Exception) else text
        line_text = f"{self.file}:{line}:{f' {path}:' if path else ''} {text}"
        self._problems.setdefault(line_text, line)

    def finish(self) -> None:
        """Raise the noted problems, if any.

        Raises:
            RecipeInvalid: With every problem, or the first hundred, in the order of the file.
        """
        if self._problems:
            found = sorted(self._problems, key=self._problems.__getitem__)
            more = [f"{self.file}: and {len(found) - _MOST_PROBLEMS} more."] if len(found) > _MOST_PROBLEMS else []
            raise RecipeInvalid([*found[:_MOST_PROBLEMS], *more])


def read_yaml(path: Path) -> YamlTree:
    """Read a YAML file; repeated keys, of which YAML keeps the last, are noted as problems.

    Raises:
        RecipeUnreadable: The file does not exist, is not YAML, or has more bytes, levels or values than a recipe needs.
    """
    try:
        if path.exists() and not path.is_file():
            raise RecipeUnreadable(f"Expected a recipe file. Received: {path}, which is not a regular file.")
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise RecipeUnreadable(
                f"Expected a recipe file of at most {_MOST_BYTES} bytes. Received: {path}, with more."
            )
        root = yaml.compose(content.decode("utf-8"), Loader=_BoundedLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise RecipeUnreadable(f"Expected a recipe file. Received: {path}: {reason}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeUnreadable(f"{where}: not YAML: {getattr(error, 'problem', error)}.") from error
    tree = YamlTree(path)
    if root is not None:
        tree.data = _add(tree, root, (), "")
    return tree


class _BoundedLoader(yaml.SafeLoader):
    """PyYAML's loader, which stops at more values or levels than a recipe can need."""

    _levels = _values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401, as PyYAML has it
        self._levels += 1
        self._values += 1
        if self._levels > _MOST_LEVELS or self._values > 2 * _MOST_VALUES:  # keys count here, too
            raise yaml.MarkedYAMLError(problem=_TOO_MUCH, problem_mark=self.get_mark())
        try:
            return super().compose_node(parent, index)
        finally:
            self._levels -= 1


_TOO_MUCH = f"expected at most {_MOST_LEVELS} levels and {_MOST_VALUES} values, with those that aliases repeat"


def _add(tree: YamlTree, node: yaml.Node, loc: Loc, path: str) -> Any:  # noqa: ANN401, any YAML
    line = node.start_mark.line + 1
    if len(loc) > _MOST_LEVELS or len(tree.places) > _MOST_VALUES:
        raise RecipeUnreadable(f"{tree.file}:{line}: {_TOO_MUCH}. Received: more.")
    tree.places[loc] = (path, line)
    if isinstance(node, yaml.SequenceNode):
        return [_add(tree, item, (*loc, index), f"{path}[{index}]") for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                tree.note(loc, "expected names as keys. Received: a list or a mapping as a key.")
                continue
            key = _printable(key_node.value)
            repeated = key in found
            found[key] = _add(tree, value_node, (*loc, key), f"{path}.{key}" if path else key)
            if repeated:
                tree.note((*loc, key), f"expected {key} once. Received: it again.")
        return found
    if len(node.value) > _LONGEST_NUMBER:  # Python reads numbers of thousands of digits slowly, or not at all
        return node.value
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.YAMLError, ValueError):  # an unknown tag, or a date such as 2026-99-99
        return node.value


def _printable(key: str) -> str:
    """Return a key as paths and messages show it: cut, and without control characters."""
    key = key if len(key) <= _LONGEST_SHOWN else f"{key[:_LONGEST_SHOWN]}…"
    return key if key.isprintable() else repr(key)


def listed(names: Sequence[str]) -> str:
    """Return names as messages list them: some, if there are many."""
    more = f" and {len(names) - _MOST_KEYS} more" if len(names) > _MOST_KEYS else ""
    return ", ".join(islice(names, _MOST_KEYS)) + more


def shown(value: object) -> str:
    """Return a value as messages show it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
