"""Results of the client: an outcome for each image, and arrays made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from microtome.client.errors import MicrotomeError, MixedVersions

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """The model that computed a vector.

    Attributes:
        tower: `image` or `text` for a model of images and text; "" for any other.
        space: of such a model, the same for both towers; "" for any other.
    """

    name: str
    version: int
    fingerprint: str
    tower: str = ""
    space: str = ""

    @property
    def frame(self) -> str:
        """Vectors compare where this is equal: the space, or the fingerprint where there is none."""
        return self.space or self.fingerprint


@dataclass(frozen=True, slots=True)
class Label:
    """One class that an image may show.

    Attributes:
        name: such as `tench`.
        id: such as a WordNet id; None where the model has none.
        index: of the class in the output's vector.
        score: a probability, or a logit where these were asked for.
    """

    name: str
    id: str | None
    index: int
    score: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one image shows.

    Attributes:
        labels: the best first.
        rejected: whether the best score is below the model's threshold: the image shows none of its classes.
    """

    labels: tuple[Label, ...]
    rejected: bool

    @property
    def name(self) -> str | None:
        """The name of the best label; None if the image is rejected, or no label has the score asked for."""
        return self.labels[0].name if self.labels and not self.rejected else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one image.

    Attributes:
        image: the image as the caller passed it.
        vectors: by output, a row [D] each, of the dtype asked for; empty when the image failed.
        error: why the image failed; None when it did not.
        model: the model that answered; None when none did.
        predictions: by output, where labels were asked for.
    """

    image: Any
    vectors: Mapping[str, "NDArray[Any]"] = field(default_factory=dict)
    error: MicrotomeError | None = None
    model: ModelVersion | None = None
    predictions: Mapping[str, Prediction] = field(default_factory=dict)

    @property
    def prediction(self) -> Prediction:
        """The prediction of the only output with classes that was asked for.

        Raises:
            MicrotomeError: the image failed: its error.
            ValueError: several such outputs were asked for; see `predictions`.
        """
        if self.error is not None:
            raise self.error
        if len(self.predictions) != 1:
            names = ", ".join(self.predictions) or "none"
            raise ValueError(f"Expected one output of classes, received {names}; take `predictions` by their names.")
        return next(iter(self.predictions.values()))

    @property
    def vector(self) -> "NDArray[Any]":
        """The vector [D] of the only output that was asked for.

        Raises:
            MicrotomeError: the image failed: its error.
            ValueError: several outputs were asked for; see `vectors`.
        """
        if self.error is not None:
            raise self.error
        if len(self.vectors) != 1:
            raise ValueError(f"Expected one output, received {', '.join(self.vectors)}; take `vectors` by their names.")
        return next(iter(self.vectors.values()))


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of one request: for each image its vectors and predictions by output, or its error.

    Attributes:
        models: which model answered each; None for an error.
    """

    models: Sequence[ModelVersion | None]
    results: Sequence["Mapping[str, NDArray[Any] | Prediction] | MicrotomeError"]


def succeeded(image: object, found: "Mapping[str, NDArray[Any] | Prediction]", model: ModelVersion | None) -> Outcome:
    """Return the outcome of an image that has not failed."""
    predictions = {name: one for name, one in found.items() if isinstance(one, Prediction)}
    vectors = {name: one for name, one in found.items() if not isinstance(one, Prediction)} if predictions else found
    return Outcome(image, vectors=vectors, model=model, predictions=predictions)  # type: ignore[arg-type]  # told apart


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as it is served now.

    Attributes:
        ready: whether it takes requests.
        version: the version in use; None while there is none.
        outputs: the vectors' shapes by output, the default output first.
        manifest: the model's own description, see docs/architecture.md; None while there is no version. Of a model of
            images and text it is the image tower's, as version, fingerprint and outputs are.
        towers: of such a model, `image` and `text`; of any other none.
    """

    name: str
    ready: bool
    version: int | None
    fingerprint: str | None
    outputs: Mapping[str, tuple[int, ...]]
    manifest: Mapping[str, Any] | None
    towers: Mapping[str, ModelVersion] = field(default_factory=dict)

    @property
    def takes_text(self) -> bool:
        """Whether texts can be embedded by this name."""
        return "text" in self.towers or (self.manifest or {}).get("tower") == "text"

    @property
    def space(self) -> str:
        """The space of its vectors; "" where it has none."""
        towers = list(self.towers.values())
        return towers[0].space if towers else (self.manifest or {}).get("space") or ""


def family_of(name: str, towers: Sequence[ModelVersion], models: Sequence[ModelInfo], *, ready: bool) -> ModelInfo:
    """Describe a model of images and text, which requests name for both of its towers, by its image tower."""
    named = {tower.tower: tower for tower in towers}
    image = named.get("image")
    known = next((info for info in models if image and info.name == image.name), None)
    return ModelInfo(
        name=name,
        ready=ready,
        version=image.version if image else None,
        fingerprint=image.fingerprint if image else None,
        outputs=known.outputs if known else {},
        manifest=known.manifest if known else None,
        towers=named,
    )


def default_first(outputs: Mapping[str, tuple[int, ...]], default: str | None) -> dict[str, tuple[int, ...]]:
    """Sort outputs so that the default one is first."""
    return dict(sorted(outputs.items(), key=lambda item: item[0] != default))


def predicted(outcomes: Sequence[Outcome]) -> list[Prediction]:
    """Return the predictions of one call.

    Raises:
        MicrotomeError: an image failed, or versions are mixed.
    """
    _all_of_one_version(outcomes)
    return [outcome.prediction for outcome in outcomes]


def stack(outcomes: Sequence[Outcome], *, one: bool, by_name: bool) -> "NDArray[Any] | dict[str, NDArray[Any]]":
    """Stack the outcomes of one call into arrays.

    Args:
        outcomes: of one call.
        one: whether the caller passed one image, and not a list.
        by_name: whether the caller asked for a list of outputs.

    Returns:
        [D] for one image, [N, D] for a list; a dict of these `by_name`.

    Raises:
        MicrotomeError: an image failed, or versions are mixed.
        ValueError: no outcomes, or several outputs where one was expected.
    """
    import numpy as np  # noqa: PLC0415, to keep importing the client cheap

    if not outcomes:
        raise ValueError("Expected at least one image, received an empty list: how long its vectors are is not known.")
    _all_of_one_version(outcomes, one=one)
    if not by_name:
        return outcomes[0].vector if one else np.stack([outcome.vector for outcome in outcomes])
    names = outcomes[0].vectors
    if one:
        return dict(names)
    return {name: np.stack([outcome.vectors[name] for outcome in outcomes]) for name in names}


def _all_of_one_version(outcomes: Sequence[Outcome], *, one: bool = False) -> None:
    """Raise what is wrong with an image, or with all of them together.

    Raises:
        MicrotomeError: an image failed, or versions are mixed.
    """
    for place, outcome in enumerate(outcomes):
        if outcome.error is not None:
            if not one:
                outcome.error.add_note(f"It was image {place} of {len(outcomes)}.")
            raise outcome.error
    found = {outcome.model for outcome in outcomes if outcome.model}
    if len({model.frame for model in found}) > 1:
        ordered = sorted(found, key=lambda model: (model.version, model.tower))
        versions = ", ".join(f"{model.tower} version {model.version}".strip() for model in ordered)
        raise MixedVersions(
            f"Expected one version of {next(iter(found)).name!r}, received {versions}: it changed in mid-call. "
            "Call again, or ask for one with version=…"
        )
