"""Token ids of a thousand odd sentences against KerasHub's preprocessors, from presets that KerasHub saved."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from exporter.recipe.preset_tokens import preset_tokens
from microtome.tokenization import Tokenizer, unpacked
from tests.exported_models import REPOSITORY
from tests.odd_sentences import odd_sentences

ADDED = REPOSITORY / ".venv" / "tokens"
RECORDED = REPOSITORY / "tests" / "assets" / "tokens" / "ids.npz"
NAMES = ("clip", "siglip", "siglip2", "open_clip")


@pytest.fixture(scope="module")
def kerashub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with KerasHub's presets and ids, by a process that has tensorflow-text as well."""
    folder = tmp_path_factory.mktemp("kerashub")
    command = [sys.executable, "-m", "tests.tokens.keras_ids", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ADDED)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if os.environ.get("RECORD"):  # for make test, which has no tensorflow-text
        np.savez_compressed(RECORDED, **{name: np.load(folder / name / "ids.npy") for name in NAMES[:3]})
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_equal(name: str, kerashub: Path) -> None:
    """Of every sentence, and of the recorded ones."""
    found = preset_tokens(str(kerashub / name))
    tokenizer = Tokenizer.load(unpacked(found.packed, found.spec.tokenizer), found.spec)
    sentences, wanted = odd_sentences(), np.load(kerashub / name / "ids.npy")
    assert wanted.shape == (len(sentences), found.spec.length)
    differing = [
        (text[:200], ids.tolist(), one.tolist())
        for text, one in zip(sentences, wanted, strict=True)
        if not np.array_equal(ids := tokenizer.ids(text), one)
    ]
    assert differing == []
    if name != "open_clip":
        assert np.array_equal(np.load(RECORDED)[name], wanted)


def test_a_sentence_takes_microseconds(kerashub: Path, record_property: Callable[[str, object], None]) -> None:
    """The figure is noted, not held."""
    found = preset_tokens(str(kerashub / "open_clip"))
    tokenizer = Tokenizer.load(unpacked(found.packed, found.spec.tokenizer), found.spec)
    begun = time.process_time()
    for _ in range(2_000):
        tokenizer.ids("a photo of a cat")
    took = (time.process_time() - begun) / 2_000
    record_property(
        "drill", f"CLIP's tokenizer: {took * 1e6:.0f} µs for 'a photo of a cat', {len(found.packed) / 1e6:.1f} MB"
    )
    assert tokenizer.ids("a photo of a cat")[:7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
