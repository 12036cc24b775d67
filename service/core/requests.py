"""Requests to the core and its answers, as types that all transports use."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from microtome.errors import BadRequest, MicrotomeError, ServiceError, UnsupportedModality
from microtome.manifest import ModelCard, OutputSpec
from service.core.ports import Vectors
from service.errors import restated, shown

E = TypeVar("E", bound=MicrotomeError)

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


TEMPLATE = "a photo of a {}"

MOST_TEXTS = 1000
"""Labels times templates of a request."""

MOST_BYTES = 256
"""Of one label, and of one template, in UTF-8."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The labels that an image may get.

    Attributes:
        labels: in words, no two equal.
        templates: each label stands in them for `{}`; a label's vector is the mean over all of them, as in CLIP.
    """

    labels: tuple[str, ...]
    templates: tuple[str, ...] = (TEMPLATE,)

    def __post_init__(self) -> None:
        """Check them.

        Raises:
            BadRequest: too many, too long or empty ones, two equal ones, or a template without `{}`.
        """
        for name, given in (("labels", self.labels), ("template", self.templates)):
            for text in given:
                if not text.strip() or len(text.encode("utf-8", "replace")) > MOST_BYTES:
                    raise BadRequest(f"Expected `{name}` of 1 to {MOST_BYTES} bytes each; received {shown(text)}.")
        if len(self.labels) * len(self.templates) > MOST_TEXTS:
            raise BadRequest(
                f"Expected at most {MOST_TEXTS} labels times templates; received {len(self.labels)} labels and "
                f"{len(self.templates)} templates."
            )
        if len(set(self.labels)) < len(self.labels):
            twice = next(label for label in self.labels if self.labels.count(label) > 1)
            raise BadRequest(f"Expected labels that differ; received {shown(twice)} twice.")
        for template in self.templates:
            if "{}" not in template:
                raise BadRequest(f"Expected `template` to have {{}} where the label goes; received {shown(template)}.")

    @classmethod
    def read(cls, labels: Sequence[str], templates: Sequence[str]) -> "Candidates | None":
        """Return what a request brings; None where it has no labels.

        Raises:
            BadRequest: it cannot be used, or there is a template without labels.
        """
        if not labels and templates:
            raise BadRequest("Expected `template` with `labels`, received none of these.")
        return cls(tuple(labels), tuple(templates) or (TEMPLATE,)) if labels else None

    @property
    def texts(self) -> list[str]:
        """What is embedded: every label in every template, label by label."""
        return [template.replace("{}", label) for label in self.labels for template in self.templates]


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """The options of one request.

    Attributes:
        model: its name, or a family's.
        version: exactly this version, or None for the one in use.
        outputs: names of its outputs; none means its default output, `("all",)` all of them, `("",)` the one that
            classifies.
        cache: `use` it; `refresh` computes and stores again; `bypass` neither reads nor writes it; `private` uses
            only what requests of the same tenant have computed, and becomes `use` with a tenant.
        on_error: whether one bad image fails the request, or is skipped and reported with the good ones' vectors.
        tenant: whose vectors are used, found, joined in flight and stored; empty for those that all share.
        priority: `bulk` lets `interactive` requests pass: what it has to compute waits behind theirs.
        candidates: labels that images are compared with, whose logits are answered in place of vectors.
    """

    model: str
    version: int | None = None
    outputs: tuple[str, ...] = ()
    cache: CacheUse = "use"
    on_error: OnError = "fail"
    tenant: str = ""
    priority: Priority = "interactive"
    candidates: Candidates | None = None

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
    """One image's or text's vector from one output.

    Attributes:
        index: of the item, in the order of the request.
        vector: float32 [D], read-only.
        cache: `hit` when it came from the cache, `coalesced` when another request was computing it already.
    """

    index: int
    output: str
    vector: Vectors
    cache: Source


@dataclass(frozen=True, slots=True)
class ImageError:
    """What is wrong with one image or text of a request that skips bad ones."""

    index: int
    error: ServiceError


@dataclass(frozen=True, slots=True)
class Embedded:
    """The answer to one request: every vector from the same version of the same model, or of two towers of one space.

    Attributes:
        card: the version that has answered; of both towers the image tower's.
        embeddings: in the order of the items, and for one item in the order of the outputs.
        errors: in the order of the items; empty unless bad ones are skipped.
        text: the text tower's version, of a request with images and texts.
        texts: the indexes of the texts, where `text` is there.
    """

    card: ModelCard
    embeddings: list[Embedding]
    errors: list[ImageError] = field(default_factory=list)
    text: ModelCard | None = None
    texts: frozenset[int] = frozenset()

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The versions that have answered."""
        return (self.card,) if self.text is None else (self.card, self.text)

    def card_of(self, embedding: Embedding) -> ModelCard:
        """Return the version that a vector comes from."""
        return self.card if self.text is None or embedding.index not in self.texts else self.text

    def output(self, embedding: Embedding) -> OutputSpec:
        """Return the output that a vector comes from."""
        return self.card_of(embedding).outputs[embedding.output]


def takes_no_texts(card: ModelCard) -> UnsupportedModality:
    """Return the error of a text that is given to a model without a text tower."""
    family = card.manifest.family
    advice = f"Name its family, {family!r}, to embed both." if family else "Name a model that has a text tower."
    return UnsupportedModality(f"Expected an image for model {card.name!r}; received a text. {advice}")


Kind = Literal["Image", "Text"]
"""Of an item, as messages name it."""

_PLACE = re.compile(r"\A(?:Image|Text) \d+: ")


def placed(error: E, index: int, kind: Kind = "Image") -> E:
    """Return an error of one item that says which one it is, such as "Image 3: "."""
    return restated(error, f"{kind} {index}: {unplaced(error)}")


def unplaced(error: MicrotomeError) -> str:
    """Return the message of an item's error without its place."""
    return _PLACE.sub("", str(error))
