"""What a user asks of a sweep: backbones with their weights and preprocessings, a use, and what to try."""

from dataclasses import dataclass
from pathlib import Path

from exporter.features.photos import Use
from exporter.recipe.backbones import Backbone
from microtome.manifest import InputSpec


@dataclass(frozen=True, slots=True)
class Variant:
    """A backbone with weights and a preprocessing.

    Attributes:
        row: The backbone; its scaling is what the graph does.
        weights: As in a recipe.
        resize: `crop`, `squash` or `letterbox`.
        pixels: The preprocessing.
    """

    row: Backbone
    weights: str
    resize: str
    pixels: InputSpec

    @property
    def name(self) -> str:
        """What tells it from the others."""
        return f"{Path(self.row.name).name}, {self.resize}"


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks for.

    Attributes:
        use: What the vectors are for.
        measure: What decides.
        variants: Backbones and preprocessings; the first one's usual cut is the default.
        poolings: In the notation of recipes.
        layers: Names of the only layers to try; empty for all.
        out: The folder of the results.
        seed: Of all that is drawn.
    """

    use: Use
    measure: str
    variants: tuple[Variant, ...]
    poolings: tuple[str, ...]
    layers: tuple[str, ...]
    out: Path
    seed: int
