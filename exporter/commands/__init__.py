"""The exporter's commands, one module each; this table is all that other parts need to know of them.

A command's module is named like the command. It has `add_to(subparsers)`, which describes its arguments and imports
nothing heavy, and `run(arguments) -> int`, which imports what it needs when it is needed.
"""

COMMANDS = {
    "export": "export the models of a recipe",
    "layers": "list where a backbone can be cut",
    "graph": "draw a backbone with the cuts in it",
    "split": "cut a backbone into blocks and prove that their chain equals it",
    "verify": "prove that a version computes what Keras computes",
    "inspect": "say what a version is, what it returns and what it costs",
    "bench": "time a version against plain model.export()",
    "recipe": "print the JSON schema of recipes",
}
