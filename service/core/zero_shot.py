"""Classes in words: labels become vectors of a model's text tower, and each image is compared with them.

An image's cosines with the labels, times the model's own scale, are logits as those of any output of classes are. So
they are passed on as such, and `classes` makes scores of them.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from microtome.errors import BadRequest, ModelNotReady, UnsupportedModality
from microtome.manifest import Label, ModelCard
from service.core.admission import Budget
from service.core.embedder import Intake
from service.core.remote_images import Text
from service.core.requests import Embedded, EmbedRequest
from service.core.timings import Timings
from service.errors import shown

TEMPLATE = "a photo of a {}"

MOST_TEXTS = 1000
"""Labels times templates of a request."""

MOST_BYTES = 256
"""Of one label, and of one template, in UTF-8."""

_KEPT = 8
"""Sets of labels whose vectors are kept beside the cache: of 1,000 labels, 4 MB each."""

_ATTEMPTS = 3


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

    @property
    def texts(self) -> list[str]:
        """What is embedded: every label in every template, label by label."""
        return [template.replace("{}", label) for label in self.labels for template in self.templates]


@dataclass(frozen=True, slots=True)
class _Labels:
    """Labels with their vectors, float32 [D, labels] of length 1, and the space in which these are."""

    space: str
    names: tuple[Label, ...]
    columns: NDArray[np.float32]


class ZeroShot:
    """Compares images with labels. The vectors of the labels come from the cache as those of any text do."""

    def __init__(self, intake: Intake, at_a_time: int) -> None:
        """Embed the labels by `intake`, so many at a time as a request may have."""
        self._intake = intake
        self._at_a_time = at_a_time
        self._kept: OrderedDict[tuple[str, str, Candidates], _Labels] = OrderedDict()

    def check(self, request: EmbedRequest) -> None:
        """Refuse labels for a model that does not have both towers, before any work.

        Raises:
            BadRequest: an output is named.
            UnsupportedModality: a tower is missing.
            ServiceError: the model cannot be asked now.
        """
        if request.outputs:
            raise BadRequest("Expected `labels` without an output: they are compared in the space of both towers.")
        towers = self._intake.models.towers(request.model)
        if towers.image is None or towers.text is None:
            raise UnsupportedModality(
                f"Expected a model of images and text, which `labels` need; received {request.model[:80]!r}."
            )

    async def classified(
        self,
        request: EmbedRequest,
        wanted: Candidates,
        embed: Callable[[], Awaitable[Embedded]],
        timings: Timings,
        own: Budget | None = None,
    ) -> Embedded:
        """Return each image's logits of the labels, as vectors of an output of classes.

        Args:
            request: of the images; its model, cache use, priority and tenant are the labels' too.
            wanted: the labels.
            embed: embeds the images; called again when a tower has changed meanwhile.
            timings: told how long the stages took.
            own: the budget of the caller's key, in images.

        Raises:
            ServiceError: any leaf of the tree.
        """
        for _ in range(_ATTEMPTS):
            embedded = await embed()
            space = embedded.card.manifest.space
            labels = await self._labels(request, wanted, space or "", timings, own)
            if labels.space == space:
                return _compared(embedded, labels)
        raise ModelNotReady(f"The towers of model {request.model!r} change just now. Try again in a moment.")

    async def _labels(
        self, request: EmbedRequest, wanted: Candidates, space: str, timings: Timings, own: Budget | None
    ) -> _Labels:
        key = (space, request.tenant, wanted)
        if request.cache == "use" and (kept := self._kept.get(key)):
            self._kept.move_to_end(key)
            return kept
        asked = replace(request, outputs=(), on_error="fail")
        texts = [Text(text) for text in wanted.texts]
        rows: list[NDArray[np.float32]] = []
        spaces: set[str] = set()
        for start in range(0, len(texts), self._at_a_time):
            some = texts[start : start + self._at_a_time]
            found = await self._intake.embed(asked, some, timings, own=own)
            rows += [embedding.vector for embedding in found.embeddings]
            spaces.add(found.card.manifest.space or "")
        labels = _Labels(
            # Of several spaces none is right.
            spaces.pop() if len(spaces) == 1 else "",
            tuple(Label(name, None) for name in wanted.labels),
            _columns(np.stack(rows), len(wanted.templates)),
        )
        if labels.space and request.cache == "use":
            self._kept[labels.space, request.tenant, wanted] = labels
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return labels


def _columns(rows: NDArray[np.float32], templates: int) -> NDArray[np.float32]:
    """Return the labels' vectors, float32 [D, labels]: means of unit vectors over the templates, of length 1."""
    means = _units(rows).reshape(-1, templates, rows.shape[1]).mean(axis=1)
    return np.ascontiguousarray(_units(means).T, np.float32)


def _units(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(lengths > 0, lengths, 1.0)


def _compared(embedded: Embedded, labels: _Labels) -> Embedded:
    if not embedded.embeddings:
        return embedded
    card = embedded.card
    output = card.outputs[embedded.embeddings[0].output]
    vectors = _units(np.stack([embedding.vector for embedding in embedded.embeddings]))
    logits = (vectors @ labels.columns / (output.temperature or _TEMPERATURE) + (output.bias or 0.0)).astype(np.float32)
    classes = replace(
        output,
        kind="classes",
        shape=(len(labels.names),),
        labels=labels.names,
        activation=output.activation or "softmax",
        temperature=None,
        bias=None,
        quantization=None,
    )
    manifest = replace(card.manifest, outputs=(classes,), default_output=classes.name)
    return replace(
        embedded,
        card=ModelCard(card.name, card.version, manifest),
        embeddings=[replace(e, vector=row) for e, row in zip(embedded.embeddings, logits, strict=True)],
    )


_TEMPERATURE = 0.01
"""Of models that do not name their own: CLIP's after training, where a cosine counts a hundred times."""
