"""Token ids of presets' tokenizers, equal to those that KerasHub gave for a thousand odd sentences."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from exporter.recipe.preset_tokens import PresetTokens, preset_tokens
from microtome.tokenization import Tokenizer, packed, parts, unpacked
from tests.exported_models import REPOSITORY
from tests.odd_sentences import odd_sentences

TOKENIZERS = REPOSITORY / "tests" / "assets" / "tokens"


@pytest.fixture
def presets(tmp_path: Path) -> Path:
    """Return a folder with the small vocabularies as presets without weights."""
    tower = {"config": {"max_sequence_length": 16, "vocabulary_size": 600}}
    for name in ("clip", "siglip", "siglip2"):
        shutil.copytree(TOKENIZERS / name, tmp_path / name)
        config = {"class_name": "Dual", "config": {"text_encoder": tower}}
        (tmp_path / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


def loaded(found: PresetTokens) -> Tokenizer:
    """Return the tokenizer as it arrives in a gateway."""
    return Tokenizer.load(unpacked(b"".join(parts(found.packed)), found.spec.tokenizer), found.spec)


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])
def test_ids_are_those_of_kerashub(name: str, presets: Path) -> None:
    """Recorded by `make test-tokens ARGS=--record`, which compares them as well."""
    tokenizer = loaded(preset_tokens(str(presets / name)))
    recorded = np.load(TOKENIZERS / "ids.npz")[name]
    sentences = odd_sentences()
    differing = [
        (text, list(ids), list(wanted))
        for text, wanted in zip(sentences, recorded, strict=True)
        if (ids := tokenizer.ids(text)).tolist() != wanted.tolist()
    ]
    assert differing == []
    assert len(sentences) == 1000
    assert len({ids.tobytes() for ids in recorded}) > 700


def test_longer_texts_keep_their_last_token_and_shorter_ones_are_filled(presets: Path) -> None:
    """As KerasHub packs them, in int32."""
    tokenizer = loaded(preset_tokens(str(presets / "clip")))
    end = 599
    short, long = tokenizer.ids("a"), tokenizer.ids("a " * 100)
    assert short.dtype == np.int32
    assert (short[0], *short[2:]) == (598, end, *[0] * 13)
    assert (long.shape, long[0], long[-1]) == ((16,), 598, end)
    assert np.array_equal(tokenizer.ids("A\ud800"), tokenizer.ids("a?"))


def test_another_tokenizer_than_the_manifests_is_refused(presets: Path) -> None:
    """Damaged, another one, too long, no tokenizer, or one of more ids than the tower has."""
    found, other = (preset_tokens(str(presets / name)) for name in ("clip", "siglip"))
    with pytest.raises(ValueError, match="Expected the tokenizer of sha256"):
        unpacked(other.packed, found.spec.tokenizer)
    with pytest.raises(ValueError, match="compressed by gzip"):
        unpacked(b"{}", found.spec.tokenizer)
    bomb = packed(b"\0" * 10_000_000)
    with pytest.raises(ValueError, match=f"{found.spec.tokenizer.size + 1} bytes"):
        unpacked(bomb, found.spec.tokenizer)
    with pytest.raises(ValueError, match="JSON of the library tokenizers"):
        Tokenizer.load(b"{}", found.spec)
