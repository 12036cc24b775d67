"""Where one cuts who wants to know an image as a whole, and does not say where."""

from __future__ import annotations

from collections.abc import Sequence

from exporter.anatomy.facts import CutPoint


def default_cut(points: Sequence[CutPoint]) -> CutPoint | None:
    """Return the deepest feature map that a single tensor carries; None when a network has none.

    What comes after space has been pooled away is the classifier's, also where its authors wrote it as convolutions on
    a map of one position: `conv_preds` of MobileNet and `logits` of MobileNetV3 are the scores of 1000 classes.

    Args:
        points: All of a network's, in the order of its layers.
    """
    maps = [point for point in points if point.block_end and point.crossing == 1 and _is_map(point)]
    return maps[-1] if maps else None


def _is_map(point: CutPoint) -> bool:
    """Say whether the tensor has positions; by its shape, where it is not known what they see."""
    return len(point.shape) == 4 and (point.field.spans is not None or not point.field.known)
