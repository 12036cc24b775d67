"""What a recipe says, once it has been read and every default filled in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from exporter.errors import UnknownModel, nearest
from exporter.located import Located
from exporter.preprocessing import Preprocessing
from exporter.recorded_paths import found_again, recorded

WEIGHTS = ("imagenet", "random")
OWN_WEIGHTS = "own"
"""The weights that come with a `.keras` file or out of the user's function."""
NORMALIZATIONS = ("none", "l2")
QUANTIZATIONS = ("none", "int8")
PRECISIONS = ("float32", "bfloat16", "float16")
DEFAULT_MAX_BATCH_SIZE = 32
DEFAULT_CALIBRATION_IMAGES = 2000


@dataclass(frozen=True, slots=True)
class Projection:
    """How a long vector becomes a short one.

    Attributes:
        kind: `pca` or `random`.
        dim: Numbers in the short vector.
        whiten: Whether PCA components are scaled to variance one.
        seed: Of the random matrix.
    """

    kind: str
    dim: int
    whiten: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True)
class OutputRecipe:
    """One named embedding: which layers, and how their feature maps become a vector.

    Attributes:
        name: What clients ask for.
        layer: The layer it is cut at, or the first of several.
        pooling: As `exporter.pooling_names` writes it.
        more_layers: Further layers whose pooled vectors are appended, each normalised first.
        projection: To fewer dimensions; None keeps them all.
        normalize: One of `NORMALIZATIONS`; the last step.
        quantization: One of `QUANTIZATIONS`: whether the manifest tells int8 ranges.
    """

    name: str
    layer: str
    pooling: str = "avg"
    more_layers: tuple[str, ...] = ()
    projection: Projection | None = None
    normalize: str = "none"
    quantization: str = "none"

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers, in the order of their vectors."""
        return (self.layer, *self.more_layers)

    @property
    def needs_calibration(self) -> bool:
        """Whether images must be looked at to make this output."""
        return self.quantization != "none" or (self.projection is not None and self.projection.kind == "pca")


@dataclass(frozen=True, slots=True)
class Calibration:
    """The images that projections and ranges are fitted on.

    Attributes:
        folder: Where they are; every image below it counts, in the order of their names.
        images: How many are used at most.
        digest: SHA-256 over the used files' contents, so that other images make another version.
    """

    folder: str
    images: int
    digest: str


@dataclass(frozen=True, slots=True)
class ModelRecipe:
    """One SavedModel: a backbone, its weights, and the layers it is cut at.

    Attributes:
        name: Of the model, and of its directory.
        backbone: A row of the table, or an own model: an absolute path ending in `.keras`, or `module:function`.
        weights: `imagenet`, `random`, `own`, or the absolute path of a weights file.
        input: From an image to pixels.
        outputs: The embeddings.
        default_output: For requests that do not name one.
        max_batch_size: The largest batch that a model server runs.
        precision: Of the arithmetic; vectors are float32 all the same.
        version: The number to publish as; None for the next free one.
        scaling: What the graph does to 0..255 pixels; None for the row's own.
        include_top: Whether the classifier is there; None for where the weights allow it.
        calibration: What projections and ranges are fitted on.
        files: SHA-256 by path, of the user's own files among backbone and weights.
        folder: Absolute path of the recipe's folder, from which recorded paths are written; empty when unknown.
    """

    name: str
    backbone: str
    weights: str
    input: Preprocessing
    outputs: tuple[OutputRecipe, ...]
    default_output: str
    max_batch_size: int = DEFAULT_MAX_BATCH_SIZE
    precision: str = "float32"
    version: int | None = None
    scaling: str | None = None
    include_top: bool | None = None
    calibration: Calibration | None = None
    files: tuple[tuple[str, str], ...] = ()
    folder: str = field(default="", compare=False)

    def canonical(self) -> str:
        """Return this entry as JSON that is equal exactly when the entries are.

        Defaults are filled in, so saying one aloud, and comments, order and file name change nothing. Neither does it
        matter on which machine and where the recipe lies, with its files beside it.
        """
        entry = asdict(self)
        del entry["folder"]
        return json.dumps(recorded(entry, self.folder), indent=1, sort_keys=True)

    @classmethod
    def from_canonical(cls, text: str, folder: Path = Path()) -> Self:
        """Return the entry that `canonical` wrote.

        Args:
            text: What it wrote.
            folder: Where the files that it names start.

        Raises:
            ValueError: The text is not such an entry.
        """
        try:
            start = str(folder.absolute())
            found: dict[str, Any] = {**found_again(json.loads(text), start), "folder": start}
            found["input"] = Preprocessing(**found["input"])
            found["outputs"] = tuple(_output(output) for output in found["outputs"])
            found["calibration"] = found["calibration"] and Calibration(**found["calibration"])
            found["files"] = tuple((path, digest) for path, digest in found["files"])
            return cls(**found)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a recipe entry: {error}") from error


@dataclass(frozen=True, slots=True)
class Recipe:
    """All models of one recipe file.

    Attributes:
        path: The file.
        models: Its models.
        tree: What the file says, with the line of everything.
    """

    path: Path
    models: tuple[ModelRecipe, ...]
    tree: Located = field(repr=False)

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


def _output(found: Mapping[str, Any]) -> OutputRecipe:
    projection = found["projection"] and Projection(**found["projection"])
    return OutputRecipe(**{**found, "more_layers": tuple(found["more_layers"]), "projection": projection})
