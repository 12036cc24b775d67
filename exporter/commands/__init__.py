"""The exporter's commands, one module each, and the table that other packages list them by.

A command's module has the command's name. Its `DESCRIPTION` and `add_arguments(parser)` describe the command line and
import nothing heavy; its `run(arguments) -> int` imports TensorFlow, rich and the rest late.
"""

COMMANDS = {
    "export": "export the models of a recipe",
    "layers": "list where a backbone can be cut",
    "graph": "draw a backbone with the cuts in it",
    "split": "cut a backbone into blocks and prove that their chain equals it",
    "verify": "prove that a version, or a running server, computes what Keras computes",
    "inspect": "say what a version is, what it returns and what it costs",
    "bench": "time a version against plain model.export()",
    "sweep": "find the layer, pooling and preprocessing that suit your photos",
    "train": "train a classifier on your photos, on top of a recipe's output",
    "look": "show what a layer sees: photos that excite its channels, reconstructions, heat maps",
    "recipe": "print the JSON schema of recipes",
}
