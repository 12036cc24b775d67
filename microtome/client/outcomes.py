"""What came of images: vectors, and who computed them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from microtome.client.errors import MicrotomeError, MixedVersions

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Who answered. Vectors compare when their fingerprints are equal."""

    name: str
    version: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one image.

    Attributes:
        image: what the caller passed.
        vectors: by output, a row [D] each, of the dtype asked for; empty when the image failed.
        error: what is wrong with the image; None when nothing is.
        model: who answered; None when nobody did.
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
class Answer:
    """What one request came to: for each image its vectors by output, or what is wrong with it.

    Attributes:
        model: who answered; None when no image has vectors.
    """

    model: ModelVersion | None
    results: Sequence["Mapping[str, NDArray[Any]] | MicrotomeError"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model, as it is served now.

    Attributes:
        ready: whether it can be asked.
        version: the version in use; None while there is none.
        outputs: the vectors' shapes by output, the default output first.
        manifest: everything the model says about itself, see docs/architecture.md; None while there is no version.
    """

    name: str
    ready: bool
    version: int | None
    fingerprint: str | None
    outputs: Mapping[str, tuple[int, ...]]
    manifest: Mapping[str, Any] | None


def same_version(outcomes: Sequence[Outcome]) -> None:
    """Check that all vectors may be compared.

    Raises:
        MixedVersions: they may not.
    """
    found = {outcome.model for outcome in outcomes if outcome.model}
    if len({model.fingerprint for model in found}) > 1:
        told = ", ".join(f"version {model.version}" for model in sorted(found, key=lambda model: model.version))
        raise MixedVersions(
            f"Expected one version of {next(iter(found)).name!r}, received {told}: it changed in mid-call. "
            "Call again, or ask for one with version=…"
        )
