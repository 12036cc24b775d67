"""Save presets with KerasHub's preprocessors, and the token ids that those give: python keras_ids.py FOLDER.

For the small vocabularies of tests/assets/tokens, and for CLIP's own, which open_clip carries.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import tensorflow_text  # type: ignore[import-not-found] # noqa: F401 -- KerasHub finds it, or this says that it is not there

from tests.exported_models import REPOSITORY
from tests.odd_sentences import odd_sentences

TOKENIZERS = REPOSITORY / "tests" / "assets" / "tokens"
HUB = keras_hub.models
LENGTHS = {"clip": 16, "siglip": 16, "siglip2": 16, "open_clip": 77}
SIZES = {"open_clip": 49408}


def open_clip() -> tuple[dict[str, int], list[str]]:
    """Return CLIP's vocabulary and merges, as open_clip's SimpleTokenizer makes them of its file."""
    found = importlib.util.find_spec("open_clip")
    assert found is not None
    assert found.submodule_search_locations
    with gzip.open(
        Path(found.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8"
    ) as file:
        merges = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(code) for code in printable] + [chr(256 + place) for place in range(256 - len(printable))]
    names = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    return {name: number for number, name in enumerate(names)}, merges


def preprocessor(name: str) -> Any:
    """Return KerasHub's preprocessor for a vocabulary."""
    if name == "open_clip":
        return HUB.CLIPPreprocessor(HUB.CLIPTokenizer(*open_clip()))
    assets, length = TOKENIZERS / name / "assets" / "tokenizer", LENGTHS[name]
    if name == "clip":
        vocabulary = json.loads((assets / "vocabulary.json").read_text(encoding="utf-8"))
        merges = (assets / "merges.txt").read_text(encoding="utf-8").splitlines()
        return HUB.CLIPPreprocessor(HUB.CLIPTokenizer(vocabulary, merges), sequence_length=length)
    tokenizer = HUB.SigLIPTokenizer((assets / "vocabulary.spm").read_bytes())
    return HUB.SigLIPPreprocessor(tokenizer, sequence_length=length, canonicalize_text=name == "siglip")


def main(folder: Path) -> None:
    """Write a preset and `ids.npy`, int32 [sentences, length], for each vocabulary."""
    for name, length in LENGTHS.items():
        preset = folder / name
        made = preprocessor(name)
        made.save_to_preset(str(preset))
        tower = {"config": {"max_sequence_length": length, "vocabulary_size": SIZES.get(name, 600)}}
        config = {"class_name": "Dual", "config": {"text_encoder": tower}}
        (preset / "config.json").write_text(json.dumps(config), encoding="utf-8")
        ids = np.asarray(made({"prompts": odd_sentences(), "images": None})["token_ids"])
        np.save(preset / "ids.npy", ids.astype(np.int32))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
