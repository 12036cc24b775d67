"""A YAML file as a tree in which every value knows its line and its path, for messages that lead there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from exporter.errors import RecipeUnreadable


@dataclass(frozen=True, slots=True)
class Located:
    """A value of the file.

    Attributes:
        value: A scalar, a list of `Located`, or a dict of `Located` by key.
        path: Such as `models[0].outputs[1].layer`; empty for the whole file.
        line: Counted from 1.
        repeated: Keys that stand more than once in this mapping: YAML would silently keep the last.
    """

    value: Any
    path: str
    line: int
    repeated: tuple[str, ...] = ()


def read_located(path: Path) -> Located:
    """Read a YAML file.

    Raises:
        RecipeUnreadable: There is no such file, or it is not YAML.
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
    if root is None:
        return Located(None, "", 1)
    return _locate(root, "")


def _locate(node: yaml.Node, path: str) -> Located:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return Located([_locate(item, f"{path}[{index}]") for index, item in enumerate(node.value)], path, line)
    if not isinstance(node, yaml.MappingNode):
        return Located(_scalar(node), path, line)
    found: dict[str, Located] = {}
    repeated = []
    for key_node, value_node in node.value:
        key = str(key_node.value)
        if key in found:
            repeated.append(key)
        found[key] = _locate(value_node, f"{path}.{key}" if path else key)
    return Located(found, path, line, tuple(repeated))


def _scalar(node: yaml.Node) -> object:
    constructor = yaml.constructor.SafeConstructor()
    try:
        value: object = constructor.construct_object(node)
    except (yaml.YAMLError, ValueError):  # an unknown tag, or a date such as 2026-99-99: the text will do
        return node.value
    return value
