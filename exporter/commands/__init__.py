"""The exporter's commands, one module each; this table is all that other parts need to know of them.

A command's module is named like the command. It has `add_to(subparsers)`, which describes its arguments and imports
nothing heavy, and `run(arguments) -> int`, which imports what it needs when it is needed.
"""

COMMANDS = {
    "export": "export the models of a recipe",
    "layers": "list the layers of a backbone",
    "recipe": "print the JSON schema of recipes",
}
