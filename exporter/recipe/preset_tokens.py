"""The text side of a KerasHub preset: how a text becomes token ids, as JSON of the library `tokenizers`.

KerasHub's own tokenizers need tensorflow-text or the package sentencepiece, which no server has. So the JSON is written
from the preset's files, without a package: byte pairs as CLIP has them, and what SentencePiece computes, as SigLIP has
it. Steps of KerasHub's preprocessors (small letters apart, which the manifest has) are in its normaliser.
"""

import base64
import importlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from exporter.errors import ImpossibleModel, first_line
from exporter.runtime.tensorflow_ready import tensorflow_ready
from microtome.manifest import TokensSpec
from microtome.protobuf import BYTES, VARINT, fields, read_varint
from microtome.tokenization import described, packed

_ASSETS = "assets/tokenizer"
_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_ENDS = {"SigLIPTokenizer": ("</s>", "</s>"), "GemmaTokenizer": ("<eos>", "<pad>")}
"""The last piece of a text and the one that pads it, by KerasHub's class."""
_SPACE = "▁"
_NORMAL, _UNKNOWN, _USER_DEFINED, _BYTE = 1, 2, 4, 6
"""Kinds of pieces of SentencePiece."""
_BPE, _UNIGRAM = 2, 1

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PresetTokens:
    """The text side of a preset.

    Attributes:
        spec: What the manifest says.
        packed: The tokenizer, compressed.
    """

    spec: TokensSpec
    packed: bytes


@cache
def preset_tokens(preset: str) -> PresetTokens:
    """Return how a preset's text tower wants its token ids.

    Args:
        preset: A directory, a name that KerasHub knows, or a handle such as `kaggle://…`, whose files are downloaded.

    Raises:
        ImpossibleModel: It has no text tower, or its tokenizer is not there or of a kind that is not known here.
    """
    config = _json(preset, "config.json")
    tower = config.get("config", {}).get("text_encoder")
    if not isinstance(tower, dict):
        raise ImpossibleModel(
            f"Expected a KerasHub preset of images and text, such as CLIP or SigLIP, for tower: text. Received: "
            f"{preset!r}, a {config.get('class_name')}. Leave tower out, or say image."
        )
    tokenizer = _json(preset, "tokenizer.json")
    try:
        asked = _json(preset, "preprocessor.json").get("config", {})
    except ImpossibleModel:
        asked = {}  # saved without; KerasHub's defaults then
    write = _TOKENIZERS.get(tokenizer.get("class_name", ""))
    if write is None:
        raise ImpossibleModel(
            f"Expected a tokenizer of CLIP or SigLIP for tower: text ({', '.join(_TOKENIZERS)}). Received: "
            f"{tokenizer.get('class_name')} in the preset {preset!r}."
        )
    try:
        document, pad, lowercase = write(_Preset(preset, tokenizer["class_name"], tokenizer.get("config", {}), asked))
        encoder = tower["config"]
        length = min(asked.get("sequence_length") or encoder["max_sequence_length"], encoder["max_sequence_length"])
        vocabulary = int(encoder["vocabulary_size"])
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ImpossibleModel(
            f"Expected a tokenizer as KerasHub saves it in the preset {preset!r}. Received: {_ASSETS} with what cannot "
            f"be read: {first_line(error)}"
        ) from error
    raw = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    compressed = packed(raw)
    return PresetTokens(TokensSpec(int(length), vocabulary, pad, lowercase, described(raw, compressed)), compressed)


@dataclass(frozen=True, slots=True)
class _Preset:
    name: str
    kind: str
    config: Mapping[str, Any]
    asked: Mapping[str, Any]

    def asset(self, name: str) -> bytes:
        return _file(self.name, f"{_ASSETS}/{name}").read_bytes()


def _file(preset: str, path: str) -> Path:
    try:
        if Path(preset).is_dir():
            found = Path(preset, path)
            found.stat()
            return found
        with tensorflow_ready():
            return Path(importlib.import_module("keras_hub.src.utils.preset_utils").get_file(preset, path))
    except Exception as error:  # not installed, unknown, not downloadable, not there
        raise ImpossibleModel(
            f"Expected {path} in the KerasHub preset {preset!r}, for tower: text. Received: {first_line(error)} Save "
            f"the preset with its tokenizer: keras_hub.models.Preprocessor.from_preset({preset!r})"
            '.save_to_preset("FOLDER").'
        ) from error


def _json(preset: str, path: str) -> Json:
    try:
        return cast("Json", json.loads(_file(preset, path).read_text(encoding="utf-8")))
    except ValueError as error:
        raise ImpossibleModel(f"Expected JSON in {path} of the preset {preset!r}. Received: {error}.") from error


def _clip(preset: _Preset) -> tuple[Json, int, bool]:
    """Return CLIP's byte pairs, its padding, and whether A to Z become small letters first."""
    vocabulary: dict[str, int] = json.loads(preset.asset("vocabulary.json"))
    lines = [line.rstrip() for line in preset.asset("merges.txt").decode().split("\n")]
    merges = [line.split(" ") for line in lines if line and "#version:" not in line]
    start, end = "<|startoftext|>", "<|endoftext|>"
    model = {
        "type": "BPE", "dropout": None, "unk_token": end, "continuing_subword_prefix": "", "end_of_word_suffix": "</w>",
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocabulary, "merges": merges,
    }  # fmt: skip
    words = [
        {"type": "Split", "pattern": {"Regex": _CLIP_WORDS}, "behavior": "Removed", "invert": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ]
    special = {name: vocabulary[name] for name in (start, end)}
    document = _document(
        model,
        [{"type": "NFC"}, _replaced(r"\s+", " "), {"type": "Lowercase"}],
        {"type": "Sequence", "pretokenizers": words},
        special,
        [_added(name, number, special=True) for name, number in sorted(special.items(), key=lambda one: one[1])],
    )
    pad = vocabulary[end] if preset.config.get("pad_with_end_token") else 0
    return document, pad, bool(preset.asked.get("to_lower", True))


def _sentence_pieces(preset: _Preset) -> tuple[Json, int, bool]:
    """Return what SentencePiece computes, its padding, and whether A to Z become small letters first."""
    pieces = _Pieces.read(preset.asset("vocabulary.spm"))
    canonical = bool(preset.asked.get("canonicalize_text", True))
    # KerasHub's regular expressions are RE2's, whose \s is ASCII's without the vertical tab.
    normalized = (
        [_replaced(r"[!-/:-@\[-`{-~]+", ""), _replaced(r"[\t\n\f\r ]+", " "), _replaced(r"\A[\t-\r ]+|[\t-\r ]+\z", "")]
        if canonical
        else []
    )
    end, padding = _ENDS[preset.kind]
    document = _document(
        pieces.model(), [*normalized, *pieces.normalizers()], None, {end: pieces.number(end)}, pieces.added()
    )
    return document, pieces.number(padding), canonical


_TOKENIZERS: Mapping[str, Callable[[_Preset], tuple[Json, int, bool]]] = {
    "CLIPTokenizer": _clip,
    "SigLIPTokenizer": _sentence_pieces,
    "GemmaTokenizer": _sentence_pieces,
}


def _replaced(pattern: str, by: str) -> Json:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": by}


def _added(name: str, number: int, *, special: bool) -> Json:
    plain = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"id": number, "content": name, **plain, "normalized": not special, "special": special}


def _document(
    model: Json, normalizers: list[Json], words: Json | None, around: Mapping[str, int], added: list[Json]
) -> Json:
    """Return the whole JSON; `around` are the tokens for begin and end, or for the end alone."""
    names = [{"SpecialToken": {"id": name, "type_id": 0}} for name in around]
    text: Json = {"Sequence": {"id": "A", "type_id": 0}}
    single = [*names[:-1], text, names[-1]]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": words,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {name: {"id": name, "ids": [one], "tokens": [name]} for name, one in around.items()},
        },
        "decoder": None,
        "model": model,
    }


@dataclass(frozen=True, slots=True)
class _Pieces:
    """A model of SentencePiece, as its file has it.

    Attributes:
        pieces: Text, score and kind of each.
        bpe: Whether pairs are merged by score; else the likeliest division is looked for.
        byte_fallback: Whether unknown characters become bytes.
        charsmap: What characters are replaced before, compiled; empty for none.
        prefix: Whether a text begins with a space.
        squeezed: Whether spaces at both ends, and all but one within, are dropped.
    """

    pieces: Sequence[tuple[str, float, int]]
    bpe: bool
    byte_fallback: bool
    charsmap: bytes
    prefix: bool
    squeezed: bool

    @classmethod
    def read(cls, raw: bytes) -> "_Pieces":
        """Read sentencepiece_model.proto's ModelProto.

        Raises:
            ValueError: It is none, or of a kind that is not known here.
        """
        model = _message(raw)
        trainer, normalizer = _message(*model.get(2, [b""])), _message(*model.get(3, [b""]))
        kind, suffix, escaped = _last(trainer, 3, _UNIGRAM), _last(trainer, 24, 0), _last(normalizer, 5, 1)
        pieces = []
        for one in model.get(1, []):
            piece = _message(one)
            (score,) = struct.unpack("<f", _last(piece, 2, b"\0\0\0\0"))
            pieces.append((_last(piece, 1, b"").decode(), score, _last(piece, 3, _NORMAL)))
        found = cls(
            pieces,
            kind == _BPE,
            bool(_last(trainer, 35, 0)),
            _last(normalizer, 2, b""),
            bool(_last(normalizer, 3, 1)),
            bool(_last(normalizer, 4, 1)),
        )
        known = kind in (_UNIGRAM, _BPE) and any(kind == _UNKNOWN for _, _, kind in pieces)
        if not known or suffix or not escaped or (found.prefix and found.added()):
            raise ValueError("a SentencePiece model of a kind that is not known here.")
        return found

    def number(self, name: str) -> int:
        """Return a piece's id; that of unknown ones if there is none, as SentencePiece does."""
        places = [place for place, (text, _, kind) in enumerate(self.pieces) if text == name or kind == _UNKNOWN]
        return next((place for place in places if self.pieces[place][0] == name), places[0])

    def normalizers(self) -> Iterator[Json]:
        """Yield the steps from a text to what is divided into pieces, in which a space is a character of its own."""
        if self.charsmap:
            yield {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(self.charsmap).decode()}
        if self.squeezed:
            yield _replaced(r"\A +", "")
            yield _replaced(" {2,}", " ")
        if self.prefix:
            yield {"type": "Prepend", "prepend": _SPACE}
        yield {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
        if self.squeezed:
            yield _replaced(rf"{_SPACE}+\z", "")

    def added(self) -> list[Json]:
        """Return the pieces that are found before all others, where pairs are merged."""
        return [
            _added(text, number, special=False)
            for number, (text, _, kind) in enumerate(self.pieces)
            if self.bpe and kind == _USER_DEFINED
        ]

    def model(self) -> Json:
        """Return the pieces with their scores, or with the order in which pairs are merged."""
        names = [
            # What no text becomes has a name that no text has.
            text if kind in (_NORMAL, _USER_DEFINED, _BYTE) else f"\0{text}"
            for text, _, kind in self.pieces
        ]
        unknown = next(number for number, (_, _, kind) in enumerate(self.pieces) if kind == _UNKNOWN)
        if not self.bpe:
            best = max((score for _, score, kind in self.pieces if kind == _NORMAL), default=0.0)
            scores = [
                len(text.encode()) * best - 0.1 if kind == _USER_DEFINED else score for text, score, kind in self.pieces
            ]
            vocabulary = [[name, score] for name, score in zip(names, scores, strict=True)]
            return {"type": "Unigram", "unk_id": unknown, "vocab": vocabulary, "byte_fallback": self.byte_fallback}
        return {
            "type": "BPE", "dropout": None, "unk_token": names[unknown], "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": self.byte_fallback, "ignore_merges": False,
            "vocab": {name: number for number, name in enumerate(names)}, "merges": self._merges(),
        }  # fmt: skip

    def _merges(self) -> list[list[str]]:
        """Return the pairs of pieces that are pieces together, the best score first."""
        normal = {text: (-score, number) for number, (text, score, kind) in enumerate(self.pieces) if kind == _NORMAL}
        found = [
            (*rank, end, [text[:end], text[end:]])
            for text, rank in normal.items()
            for end in range(1, len(text))
            if text[:end] in normal and text[end:] in normal
        ]
        return [pair for *_, pair in sorted(found)]


def _message(raw: bytes) -> dict[int, list[Any]]:
    """Read a message of protobuf: numbers, and the bytes of all else, by the number of the field."""
    found: dict[int, list[Any]] = {}
    for number, form, begin, end in fields(raw, 0, len(raw)):
        if form == VARINT:
            found.setdefault(number, []).append(read_varint(raw, begin)[0])
        elif form == BYTES or end > begin:
            found.setdefault(number, []).append(raw[begin:end])
    return found


def _last(message: Mapping[int, list[Any]], number: int, default: Any) -> Any:  # noqa: ANN401, of a field
    return message.get(number, [default])[-1]
