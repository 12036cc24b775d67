"""Requests to the core and its answers, as types that all transports use."""

from dataclasses import dataclass, field, replace
from typing import Literal

from microtome.errors import BadRequest, ServiceError
from microtome.manifest import ModelCard
from service.core.ports import Vectors

CacheUse = Literal["use", "refresh", "bypass", "private"]
OnError = Literal["fail", "skip"]
Priority = Literal["interactive", "bulk"]
Source = Literal["hit", "miss", "coalesced"]

MOST_OUTPUTS = 1000
"""Outputs that one request may name; no backbone has so many layers to cut at."""

ALL = "all"
"""As the only output: every output of the model, unless one of them bears this name."""


CLASSES = ""
"""As the only output: the one that classifies by default; no output bears this name."""


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """The options of one request.

    Attributes:
        model: its name.
        version: exactly this version, or None for the one in use.
        outputs: names of its outputs; none means its default output, `("all",)` all of them, `("",)` the one that
            classifies.
        cache: `use` it; `refresh` computes and stores again; `bypass` neither reads nor writes it; `private` uses
            only what requests of the same tenant have computed, and becomes `use` with a tenant.
        on_error: whether one bad image fails the request, or is skipped and reported with the good ones' vectors.
        tenant: whose vectors are used, found, joined in flight and stored; empty for those that all share.
        priority: `bulk` lets `interactive` requests pass: what it has to compute waits behind theirs.
    """

    model: str
    version: int | None = None
    outputs: tuple[str, ...] = ()
    cache: CacheUse = "use"
    on_error: OnError = "fail"
    tenant: str = ""
    priority: Priority = "interactive"

    @property
    def bulk(self) -> bool:
        """Whether interactive requests go first."""
        return self.priority == "bulk"

    def of_tenant(self, name: str, *, always: bool) -> "EmbedRequest":
        """Return this request with a tenant, if it is `private` or if all requests of this tenant are."""
        if not always and self.cache != "private":
            return self
        return replace(self, tenant=name, cache="use" if self.cache == "private" else self.cache)

    def require_tenant(self) -> None:
        """Refuse a private request of which it is not known whose it is.

        Raises:
            BadRequest: it has no tenant.
        """
        if self.cache == "private":
            raise BadRequest(
                "Expected an API key with `cache=private`, which says whose vectors are used; there is none."
            )


@dataclass(frozen=True, slots=True)
class Embedding:
    """One image's vector from one output.

    Attributes:
        index: of the image, in the order of the request.
        vector: float32 [D], read-only.
        cache: `hit` when it came from the cache, `coalesced` when another request was computing it already.
    """

    index: int
    output: str
    vector: Vectors
    cache: Source


@dataclass(frozen=True, slots=True)
class ImageError:
    """What is wrong with one image of a request that skips bad ones."""

    index: int
    error: ServiceError


@dataclass(frozen=True, slots=True)
class Embedded:
    """The answer to one request: every vector from the same version of the same model.

    Attributes:
        embeddings: in the order of the images, and for one image in the order of the outputs.
        errors: in the order of the images; empty unless bad images are skipped.
    """

    card: ModelCard
    embeddings: list[Embedding]
    errors: list[ImageError] = field(default_factory=list)
