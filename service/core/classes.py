"""From logits to labels: the best few classes of an output, with their scores.

Logits are cached as every vector is; all of this happens after, so another `top_k` or `function` costs no inference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from microtome.errors import BadRequest, UnknownOutput
from microtome.manifest import Label, ModelCard, OutputSpec
from service.core.requests import ALL, CLASSES, Embedded, Embedding, Source

Function = Literal["softmax", "sigmoid", "none"]
"""What is done to logits; `none` answers the logits themselves, which have no temperature."""

TOP_K = 5


@dataclass(frozen=True, slots=True)
class ClassOptions:
    """Which labels an answer has.

    Attributes:
        top_k: the most labels of an image and output.
        min_score: labels with a lower score are left out; None leaves none out.
        function: from logits to scores; None for the output's own.
    """

    top_k: int = TOP_K
    min_score: float | None = None
    function: Function | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """One label of an image: its name and id, its index in the vector, and its score."""

    label: str
    id: str | None
    index: int
    score: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The best labels of one image from one output.

    Attributes:
        index: of the image, in the order of the request.
        labels: the best first.
        rejected: whether the best score, by the output's own function, is below its threshold: the image shows none of
            its classes.
        cache: where the logits came from.
    """

    index: int
    output: str
    labels: Sequence[Score]
    rejected: bool
    cache: Source


def predictions(embedded: Embedded, options: ClassOptions) -> list[Prediction]:
    """Return the predictions of all outputs of classes, in the order of the answer."""
    return [predicted(e, output, options) for e in embedded.embeddings if (output := embedded.output(e)).classes]


def predicted(embedding: Embedding, output: OutputSpec, options: ClassOptions) -> Prediction:
    """Return the best labels by one vector of logits."""
    labels: Sequence[Label] = output.classes
    logits, own = embedding.vector, output.activation or "softmax"
    values = scores(logits, output, options.function or own)
    # None of the functions changes the order.
    most = min(options.top_k, len(values))
    best = np.argpartition(logits, -most)[-most:]
    best = best[np.lexsort((best, -logits[best]))]
    found = [
        Score(labels[index].name, labels[index].id, index, score)
        for index, score in zip(best.tolist(), values[best].tolist(), strict=True)
        if options.min_score is None or score >= options.min_score
    ]
    rejected = False
    if output.threshold is not None:
        certain = values if options.function in {None, own} else scores(logits, output, own)
        rejected = bool(certain[best[0]] < output.threshold)
    return Prediction(embedding.index, embedding.output, found, rejected, embedding.cache)


def scores(logits: NDArray[np.float32], output: OutputSpec, function: Function) -> NDArray[np.float64]:
    """Return the score of each class.

    Args:
        logits: float32 [N].
        output: whose temperature divides the logits, unless they are answered themselves.
        function: from logits to scores.

    Returns:
        float64 [N].
    """
    wide = logits.astype(np.float64)
    if function == "none":
        return wide
    wide /= output.temperature or 1.0
    if function == "sigmoid":
        # Of large negative numbers the exponential of their opposite overflows.
        small = np.exp(-np.abs(wide))
        return np.where(wide >= 0, 1.0, small) / (1.0 + small)
    wide = np.exp(wide - wide.max())
    return np.asarray(wide / wide.sum())


def default_classes(card: ModelCard) -> str:
    """Return the output that classifies where a request names none: the default output, or the last with classes.

    Raises:
        UnknownOutput: the model has no classes.
    """
    if card.outputs[card.manifest.default_output].classes:
        return card.manifest.default_output
    for output in reversed(card.manifest.outputs):
        if output.classes:
            return output.name
    advice = "Give `labels` in words." if card.manifest.family else "Add one with `kind: classes` to its recipe."
    raise UnknownOutput(
        f"Expected a model with an output of classes; received {card.name!r}, whose outputs are "
        f"{', '.join(card.outputs)}. {advice}"
    )


def require_classes(card: ModelCard, outputs: Sequence[str]) -> None:
    """Refuse a request for classes whose outputs have none, before any work.

    Raises:
        BadRequest: none of the outputs that it names has classes.
        UnknownOutput: the model has no classes.
    """
    if tuple(outputs) in {(), (CLASSES,), (ALL,)}:
        default_classes(card)
    elif not any(card.outputs[name].classes for name in outputs if name in card.outputs) and all(
        name in card.outputs for name in outputs
    ):
        raise BadRequest(
            f"Expected an output of classes among those named; received {', '.join(outputs)[:200]}. "
            f"Model {card.name!r} has {default_classes(card)!r}; POST /embed answers with vectors."
        )
