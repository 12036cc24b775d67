"""Write docs/reference/ from the code: settings, metrics, problems, commands, recipes.

`make docs` writes the pages; tests/unit/test_documentation.py fails when a page differs.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from exporter import cli as exporter_cli
from exporter.recipe.format import recipe_schema
from microtome import errors
from microtome.commands import manifests, verify
from microtome.commands.doctor import command as doctor
from microtome.commands.embed import command as embed
from microtome.commands.rollout import command as rollout
from microtome.commands.search import command as search
from microtome.commands.up import command as up
from microtome.errors import slug
from modelserver.config.options import usage
from service import cache_command
from service.grpc.errors import STATUS as CODE
from service.http.problems import STATUS
from service.settings import PREFIX, Settings
from service.telemetry.metrics import Metrics

REFERENCE = Path(__file__).parent / "reference"


_INLINE = 2
"""Number of keys up to which a mapping is shown within its own row."""


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """Lay out a Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def settings() -> str:
    """The page of the gateway's settings."""

    def rows() -> Iterator[tuple[str, ...]]:
        for name, field in Settings.model_fields.items():
            default = field.get_default()
            if field.default_factory is not None and isinstance(field.json_schema_extra, dict):
                default = field.json_schema_extra["default"]
            if isinstance(default, tuple) and default:
                default = ",".join(default)
            shown = "**required**" if default is PydanticUndefined else "unset" if default is None else f"`{default}`"
            yield f"`{PREFIX}{name.upper()}`", shown, field.description or ""

    return (
        "# Settings of the gateway\n\nRead from the environment, once, at start. A variable that begins with "
        f"`{PREFIX}` and is none of these is an error; a former setting that is a constant now is ignored, with a line "
        "in the log.\n\n" + table(("variable", "default", "meaning"), rows())
    )


def metrics() -> str:
    """The page of the gateway's metrics."""

    def rows() -> Iterator[tuple[str, ...]]:
        for family in Metrics().described():
            yield f"`{family.name}`", family.kind, ", ".join(family.labels), family.help

    return (
        "# Metrics of the gateway\n\nAt `GET /metrics`, with those of the process (`process_*`) and of Python "
        "(`python_*`). Durations are in seconds.\n\n" + table(("metric", "type", "labels", "meaning"), rows())
    )


def problems() -> str:
    """The page of the errors that callers can get."""

    def rows() -> Iterator[tuple[str, ...]]:
        for error, status in STATUS.items():
            again = "yes, see Retry-After" if issubclass(error, errors.TemporarilyUnable) else "no"
            yield f"`{slug(error)}`", str(status.value), CODE[error].name, (error.__doc__ or "").splitlines()[0], again

    return (
        "# Problems\n\nErrors are `application/problem+json` (RFC 9457). `type` is `urn:microtome:problem:` and a name "
        "from this table; it is stable, switch on it. `detail` says what was expected, what was received, what to do. "
        "An unexpected error is `internal-error`, 500, with a `request_id`; the log has the cause under it.\n\n"
        "gRPC calls end with the code here and a `google.rpc.ErrorInfo` whose `reason` is the name in capitals, such "
        "as `IMAGE_TOO_LARGE`, see [grpc.md](../grpc.md).\n\n"
        + table(("name", "HTTP", "gRPC", "meaning", "try again?"), rows())
    )


def commands() -> str:
    """The page of the commands and their options."""
    parts = [
        "# Commands\n\nAll of them are instant until they have work to do, and `--help` says the same as this page.\n"
    ]
    parsers = {"up": up.build_parser(), **subcommands(exporter_cli.build_parser())}
    parsers |= {"verify --server": verify.build_parser()}
    parsers |= {"manifests": manifests.build_parser()}
    parsers |= {"doctor": doctor.build_parser(), "rollout": rollout.build_parser(), "embed": embed.build_parser()}
    parsers |= {"classify": embed.build_parser("classify"), "search": search.build_parser()}
    for name, parser in parsers.items():
        parts.append(f"## microtome {name}\n\n{parser.description}\n\n{options(parser)}")
        parts.append(f"{parser.epilog}\n" if parser.epilog else "")
    for name, parser in subcommands(cache_command.build_parser()).items():
        parts.append(f"## microtome cache {name}\n\n{parser.description}\n\n{options(parser)}")
    parts += [
        "## python -m service\n\nThe gateway alone. It has no options: see [settings.md](settings.md).\n",
        f"## python -m modelserver\n\n```\n{usage()}\n```\n",
    ]
    return "\n".join(part for part in parts if part)


def recipe() -> str:
    """The page of recipes."""
    model = recipe_schema()["properties"]["models"]["items"]
    output = model["properties"]["outputs"]["items"]
    _, calibration = model["properties"]["calibration"]["anyOf"]
    head = (
        "# Recipes\n\nA YAML file with one key, `models`, and a list of models under it. Unknown keys are errors, and "
        "all errors are reported together, each with its line. Paths start at the recipe's folder. "
        "[recipe.yaml](../../recipe.yaml) has examples; `microtome recipe schema` prints this page as a JSON schema.\n"
    )
    cut = "Either `layer` or `layers`; of [classes](../guides/classify.md) neither is the last layer."
    parts = [
        head,
        f"## A model\n\n{keys(model)}",
        f"## `input`\n\n{keys(model['properties']['input'])}",
        f"## One of the `outputs`\n\n{cut}\n\n{keys(output)}",
        f"## `calibration`\n\nA folder, or a mapping:\n\n{keys(calibration)}",
    ]
    return "\n".join(parts)


def keys(schema: dict[str, Any]) -> str:
    """A table of a mapping's keys."""

    def rows() -> Iterator[tuple[str, ...]]:
        for name, value in schema["properties"].items():
            default = "**required**" if name in schema["required"] else str(value.get("default", ""))
            yield f"`{name}`", kind(value), default, value.get("description", "")

    return table(("key", "value", "default", "meaning"), rows())


def kind(schema: dict[str, Any]) -> str:
    """The values that a schema allows, in words."""
    for union in ("anyOf", "oneOf"):
        if union in schema and "properties" not in schema:
            return " or ".join(kind(one) for one in schema[union])
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if schema.get("type") == "object" and len(schema["properties"]) > _INLINE:
        return "a mapping, see below"
    if schema.get("type") == "object":
        return "{" + ", ".join(f"{name}: {kind(value)}" for name, value in schema["properties"].items()) + "}"
    if schema.get("type") == "array":
        items = kind(schema["items"])
        return items.replace("a mapping", "a list of mappings") if "see below" in items else f"[{items}, ...]"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " or ".join(words[one] for one in types)


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """A command's subcommands by name."""
    (action,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001
    return dict(action.choices)


def options(parser: argparse.ArgumentParser) -> str:
    """A table of a parser's options."""

    def rows() -> Iterator[tuple[str, ...]]:
        for action in parser._actions:  # noqa: SLF001, argparse has no other list
            if action.dest != "help":
                words = ", ".join(action.option_strings) or str(action.metavar)
                yield f"`{words}`", (action.help or "") % {"default": action.default}

    return table(("option", "meaning"), rows())


PAGES = {
    "commands.md": commands,
    "settings.md": settings,
    "metrics.md": metrics,
    "problems.md": problems,
    "recipe.md": recipe,
}


def main() -> int:
    """Write every page."""
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
