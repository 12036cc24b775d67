"""A YAML file's data with the place of every value, and the problems that are found in it."""

from pathlib import Path
from typing import Any

import yaml

from exporter.errors import RecipeInvalid, RecipeUnreadable

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
        self._problems: list[tuple[int, str]] = []

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
        if (line, line_text) not in self._problems:
            self._problems.append((line, line_text))

    def finish(self) -> None:
        """Raise the noted problems, if any.

        Raises:
            RecipeInvalid: With every problem, in the order of the file.
        """
        if self._problems:
            raise RecipeInvalid([text for _, text in sorted(self._problems, key=lambda problem: problem[0])])


def read_yaml(path: Path) -> YamlTree:
    """Read a YAML file; repeated keys, of which YAML keeps the last, are noted as problems.

    Raises:
        RecipeUnreadable: The file does not exist, or is not YAML.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
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


def _add(tree: YamlTree, node: yaml.Node, loc: Loc, path: str) -> Any:  # noqa: ANN401, any YAML
    tree.places[loc] = (path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_add(tree, item, (*loc, index), f"{path}[{index}]") for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            repeated = key in found
            found[key] = _add(tree, value_node, (*loc, key), f"{path}.{key}" if path else key)
            if repeated:
                tree.note((*loc, key), f"expected {key} once. Received: it again.")
        return found
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.YAMLError, ValueError):  # an unknown tag, or a date such as 2026-99-99
        return node.value


def shown(value: object) -> str:
    """Return a value as messages show it."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "nothing" if value is None else repr(value)
