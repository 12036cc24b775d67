"""What a recipe says, once it has been read and every default filled in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from exporter.errors import UnknownModel, nearest
from exporter.preprocessing import Preprocessing

POOLINGS = ("avg", "max", "none")
WEIGHTS = ("imagenet", "random")
DEFAULT_MAX_BATCH_SIZE = 32


@dataclass(frozen=True, slots=True)
class OutputRecipe:
    """One named embedding: which layer, and how its feature map becomes a vector."""

    name: str
    layer: str
    pooling: str = "avg"


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """One SavedModel: a backbone, its weights, and the layers it is cut at."""

    name: str
    backbone: str
    weights: str
    input: Preprocessing
    outputs: tuple[OutputRecipe, ...]
    default_output: str
    max_batch_size: int = DEFAULT_MAX_BATCH_SIZE

    def canonical(self) -> str:
        """Return this entry as JSON that is equal exactly when the entries are.

        Defaults are filled in, so saying one aloud, and comments, order and file name change nothing.
        """
        return json.dumps(asdict(self), indent=1, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All models of one recipe file."""

    path: Path
    models: tuple[ModelRecipe, ...]

    def select(self, name: str | None) -> tuple[ModelRecipe, ...]:
        """Return the model of that name, or all of them for None.

        Raises:
            UnknownModel: The recipe has no such model.
        """
        if name is None:
            return self.models
        chosen = tuple(model for model in self.models if model.name == name)
        if not chosen:
            names = [model.name for model in self.models]
            raise UnknownModel(
                f"Expected one of the models of {self.path}: {', '.join(names)}. "
                f"Received: {name!r}. {nearest(name, names)}"
            )
        return chosen
