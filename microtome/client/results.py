"""Results of the client: an outcome for each image, and arrays made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from microtome.client.errors import MicrotomeError, MixedVersions

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """The model that computed a vector. Vectors are comparable when their fingerprints are equal."""

    name: str
    version: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one image.

    Attributes:
        image: the image as the caller passed it.
        vectors: by output, a row [D] each, of the dtype asked for; empty when the image failed.
        error: why the image failed; None when it did not.
        model: the model that answered; None when none did.
    """

    image: Any
    vectors: Mapping[str, "NDArray[Any]"] = field(default_factory=dict)
    error: MicrotomeError | None = None
    model: ModelVersion | None = None

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
    """The result of one request: for each image its vectors by output, or its error.

    Attributes:
        model: the model that answered; None when no image has vectors.
    """

    model: ModelVersion | None
    results: Sequence["Mapping[str, NDArray[Any]] | MicrotomeError"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as it is served now.

    Attributes:
        ready: whether it takes requests.
        version: the version in use; None while there is none.
        outputs: the vectors' shapes by output, the default output first.
        manifest: the model's own description, see docs/architecture.md; None while there is no version.
    """

    name: str
    ready: bool
    version: int | None
    fingerprint: str | None
    outputs: Mapping[str, tuple[int, ...]]
    manifest: Mapping[str, Any] | None


def default_first(outputs: Mapping[str, tuple[int, ...]], default: str | None) -> dict[str, tuple[int, ...]]:
    """Sort outputs so that the default one is first."""
    return dict(sorted(outputs.items(), key=lambda item: item[0] != default))


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
    for place, outcome in enumerate(outcomes):
        if outcome.error is not None:
            if not one:
                outcome.error.add_note(f"It was image {place} of {len(outcomes)}.")
            raise outcome.error
    found = {outcome.model for outcome in outcomes if outcome.model}
    if len({model.fingerprint for model in found}) > 1:
        versions = ", ".join(f"version {model.version}" for model in sorted(found, key=lambda model: model.version))
        raise MixedVersions(
            f"Expected one version of {next(iter(found)).name!r}, received {versions}: it changed in mid-call. "
            "Call again, or ask for one with version=…"
        )
    if not by_name:
        return outcomes[0].vector if one else np.stack([outcome.vector for outcome in outcomes])
    names = outcomes[0].vectors
    if one:
        return dict(names)
    return {name: np.stack([outcome.vectors[name] for outcome in outcomes]) for name in names}
