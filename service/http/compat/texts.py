"""Texts in other systems' contracts: which models take them, how many tokens they have, and whether they are cut."""

from collections.abc import Sequence

import numpy as np

from microtome.errors import BadRequest, UnsupportedModality
from microtome.manifest import ModelCard, TokensSpec
from service.core.ports import Towers
from service.core.remote_images import Image, Text
from service.core.requests import Embedded
from service.errors import shown
from service.http.json_images import from_text

NO_TEXT = (
    "This model embeds images only, and received text. Send an image as a data URI (data:image/jpeg;base64,…) or as "
    "an https:// address. For queries in words take a model that was trained on both, such as CLIP."
)


def text_of(text: object) -> Image:
    """Read one text; an error is returned, it concerns this text only."""
    return from_text(text) if isinstance(text, str) else BadRequest(f"Expected a text; received {shown(text)}.")


def require_text(towers: Towers, items: Sequence[Image], *, whole: bool) -> None:
    """Refuse texts that a model does not take, before any work.

    Args:
        towers: of the model.
        items: of the request.
        whole: whether a text may not be cut.

    Raises:
        UnsupportedModality: it has no text tower.
        BadRequest: a text would be cut.
    """
    texts = [item.text for item in items if isinstance(item, Text)]
    if not texts:
        return
    if towers.text is None:
        raise UnsupportedModality(NO_TEXT)
    for text in texts if whole else ():
        if (read := tokens(towers.text, text)) >= towers.text.manifest.input.shape[0]:
            raise BadRequest(
                f"Expected texts that are not cut; {shown(text)} has more than {read - 1} tokens. Shorten it, or let "
                "its end be cut."
            )


def tokens_of(embedded: Embedded, items: Sequence[Image]) -> int:
    """Count the tokens of an answered request's texts; takes as long as their tokenising."""
    card = embedded.text or embedded.card
    return sum(tokens(card, item.text) for item in items if isinstance(item, Text))


def tokens(card: ModelCard, text: str) -> int:
    """Count the tokens that a text tower reads of a text, those for begin and end included."""
    spec, tokenizer = card.manifest.input, card.tokenizer
    if not isinstance(spec, TokensSpec) or tokenizer is None:
        return 0
    kept = np.flatnonzero(tokenizer(text) != spec.pad)
    read = int(kept[-1]) + 1 if len(kept) else 0
    # Where a text ends with the token that fills up, as in CLIP, one of these is its own.
    own = tokenizer("a " * spec.length)[-1] == spec.pad
    return min(read + bool(own), spec.length)
