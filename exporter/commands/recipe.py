"""`microtome recipe schema`: the format of recipes, for editors and tools."""

import argparse
import json

DESCRIPTION = "Print what is known about recipes, for editors and tools."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("what", choices=["schema"], metavar="schema", help="the JSON schema of recipes, on stdout")


def run(arguments: argparse.Namespace) -> int:  # noqa: ARG001 -- there is one thing to print
    """Print the schema."""
    from exporter.recipe.format import recipe_schema  # noqa: PLC0415

    print(json.dumps(recipe_schema(), indent=2))  # noqa: T201
    return 0
