"""Make the small vocabularies of tests/assets/tokens: python tests/assets/make_tokens.py.

Byte pairs as CLIP has them, SentencePiece's likeliest division as SigLIP has it, and its merges with bytes as Gemma
has them for SigLIP 2; with the files that KerasHub saves beside them.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.odd_sentences import odd_sentences  # noqa: E402

VOCABULARY = 600
LENGTH = 16
TEXTS = [text[:500] for text in odd_sentences()[12:]] + ["a photo of a cat", "a photo of a dog"] * 20


def clip(folder: Path) -> None:
    """Train byte pairs on words in small letters; ids are in CLIP's order, the two special tokens last."""
    tokenizer = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in trained["merges"]]
    names = [*sorted(alphabet), *(f"{letter}</w>" for letter in sorted(alphabet))]
    merges = merges[: VOCABULARY - len(names) - 2]
    names += ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    assets = _begun(folder, "clip", "CLIP", {"pad_with_end_token": False}, {"sequence_length": LENGTH})
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    (assets / "vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (assets / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def siglip(folder: Path, *, second: bool) -> None:
    """Train SentencePiece, as for SigLIP or for SigLIP 2."""
    written = io.BytesIO()
    kind: dict[str, Any] = {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    if second:
        kind = {
            "model_type": "bpe", "pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "pad_piece": "<pad>",
            "byte_fallback": True, "normalization_rule_name": "identity", "add_dummy_prefix": False,
            "remove_extra_whitespaces": False, "split_digits": True, "user_defined_symbols": ["<mask>", "▁▁", "\n"],
        }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=written,
        vocab_size=VOCABULARY,
        hard_vocab_limit=False,
        character_coverage=0.98,
        num_threads=1,
        minloglevel=2,
        **kind,
    )
    asked = {"sequence_length": LENGTH, "canonicalize_text": not second}
    name = "siglip2" if second else "siglip"
    assets = _begun(folder, name, "SigLIP", {}, asked)
    (assets / "vocabulary.spm").write_bytes(written.getvalue())


def _begun(folder: Path, name: str, kind: str, own: dict[str, Any], asked: dict[str, Any]) -> Path:
    module = f"keras_hub.src.models.{kind.lower()}.{kind.lower()}"
    tokenizer = {
        "module": f"{module}_tokenizer",
        "class_name": f"{kind}Tokenizer",
        "config": {
            "name": f"{name}_tokenizer",
            "trainable": True,
            "dtype": "int32",
            "config_file": "tokenizer.json",
            **own,
        },
        "registered_name": f"keras_hub>{kind}Tokenizer",
    }
    preprocessor = {
        "module": f"{module}_preprocessor",
        "class_name": f"{kind}Preprocessor",
        "config": {"name": f"{name}_preprocessor", "trainable": True, "config_file": "preprocessor.json", **asked,
                   "tokenizer": tokenizer},
        "registered_name": f"keras_hub>{kind}Preprocessor",
    }  # fmt: skip
    assets = folder / name / "assets" / "tokenizer"
    assets.mkdir(parents=True, exist_ok=True)
    for file, content in (("tokenizer.json", tokenizer), ("preprocessor.json", preprocessor)):
        (folder / name / file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return assets


if __name__ == "__main__":
    clip(HERE / "tokens")
    siglip(HERE / "tokens", second=False)
    siglip(HERE / "tokens", second=True)
