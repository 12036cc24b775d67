"""Classes in words: labels become vectors of a model's text tower, and each image is compared with them.

An image's cosines with the labels, times the model's own scale, are logits as those of any output of classes are. So
they are passed on as such, and `classes` makes scores of them.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from microtome.errors import BadRequest, ModelNotReady, UnsupportedModality
from microtome.manifest import Label, ModelCard, Similarity
from service.core.ports import Towers
from service.core.remote_images import Image, Text
from service.core.requests import Candidates, Embedded, EmbedRequest

JOINT = "projection"
"""The output in which towers meet, where they have several in common."""

_KEPT = 8
"""Sets of labels whose vectors are kept beside the cache: of 1,000 labels, 4 MB each."""

_ATTEMPTS = 3

_CLIP = Similarity(100.0, 0.0, "softmax")
"""Of models that do not say: CLIP's after training, where a cosine counts a hundred times."""

Embed = Callable[[EmbedRequest], Awaitable[Embedded]]
EmbedTexts = Callable[[EmbedRequest, Sequence[Text]], Awaitable[Embedded]]


@dataclass(frozen=True, slots=True)
class _Labels:
    """Labels with their vectors, float32 [D, labels] of length 1, and the text tower that made them."""

    card: ModelCard
    names: tuple[Label, ...]
    columns: NDArray[np.float32]


def require_towers(request: EmbedRequest, towers: Towers) -> str:
    """Refuse labels for a model that does not have both towers, before any work; return the output of both.

    Raises:
        BadRequest: an output is named, or the towers have none in common.
        UnsupportedModality: a tower is missing.
    """
    if request.outputs:
        raise BadRequest("Expected `labels` without an output: they are compared in the space of both towers.")
    image, text = towers.image, towers.text
    if image is None or text is None:
        raise UnsupportedModality(
            f"Expected a model of images and text, which `labels` need; received {request.model[:80]!r}."
        )
    names = [name for name in (JOINT, text.manifest.default_output) if name in image.outputs and name in text.outputs]
    if not names:
        raise BadRequest(
            f"Expected an output of both towers, which `labels` need; {image.name!r} has {', '.join(image.outputs)}, "
            f"{text.name!r} has {', '.join(text.outputs)}."
        )
    return names[0]


class ZeroShot:
    """Compares images with labels. The vectors of the labels come from the cache as those of any text do."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, Candidates], _Labels] = OrderedDict()

    def texts(self, request: EmbedRequest) -> int:
        """Return how many texts a request brings that count as its images do: none where the labels are kept."""
        wanted = request.candidates
        return 0 if wanted is None or (request.model, request.tenant, wanted) in self._kept else len(wanted.texts)

    async def classified(
        self,
        request: EmbedRequest,
        images: Sequence[Image],
        towers: Callable[[], Towers],
        embed: Embed,
        embed_texts: EmbedTexts,
    ) -> Embedded:
        """Return each image's logits of the labels, as vectors of an output of classes.

        Args:
            request: with the labels; its model, cache use, priority and tenant are those of the labels too.
            images: of the request.
            towers: returns the pair in use.
            embed: embeds the images; called again when a tower has changed meanwhile.
            embed_texts: embeds any number of texts.

        Raises:
            ServiceError: any leaf of the tree.
        """
        assert request.candidates is not None  # noqa: S101, for mypy
        if any(isinstance(image, Text) for image in images):
            raise UnsupportedModality("Expected images to be compared with `labels`; received a text.")
        for _ in range(_ATTEMPTS):
            asked = replace(request, candidates=None, outputs=(require_towers(request, towers()),))
            embedded = await embed(asked)
            space = embedded.card.manifest.space
            labels = await self._labels(request.candidates, asked, space, embed_texts)
            if labels.card.manifest.space == space:
                return _compared(embedded, labels)
        raise ModelNotReady(f"The towers of model {request.model!r} are being replaced. Try again in a moment.")

    async def _labels(
        self, wanted: Candidates, asked: EmbedRequest, space: str | None, embed_texts: EmbedTexts
    ) -> _Labels:
        key = (asked.model, asked.tenant, wanted)
        kept = self._kept.get(key) if asked.cache == "use" else None
        if kept and kept.card.manifest.space == space:
            self._kept.move_to_end(key)
            return kept
        found = await embed_texts(replace(asked, on_error="fail"), [Text(text) for text in wanted.texts])
        rows = np.stack([embedding.vector for embedding in found.embeddings])
        names = tuple(Label(name) for name in wanted.labels)
        labels = _Labels(found.card, names, _columns(rows, len(wanted.templates)))
        if asked.cache == "use":
            self._kept[key] = labels
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
    card = embedded.card
    output = embedded.output(embedded.embeddings[0])
    rows = _units(np.stack([embedding.vector for embedding in embedded.embeddings]))
    # In float32: of a thousand labels the columns would be converted for each request.
    cosines = rows.astype(np.float32) @ labels.columns
    similarity = card.manifest.similarity or _CLIP
    logits = (cosines * similarity.scale + similarity.bias).astype(np.float32)
    classes = replace(
        output,
        kind="classes",
        shape=(len(labels.names),),
        labels=labels.names,
        activation=similarity.activation,
        temperature=None,
        threshold=None,
        quantization=None,
    )
    manifest = replace(card.manifest, outputs=(classes,), default_output=classes.name)
    return replace(
        embedded,
        card=ModelCard(card.name, card.version, manifest),
        embeddings=[replace(e, vector=row) for e, row in zip(embedded.embeddings, logits, strict=True)],
        text=labels.card,
    )
