"""From a text to the token ids that a text tower takes, by the tokenizer that travels with the model.

The file is JSON of the library `tokenizers`, compressed, in parts that fit into messages of gRPC. What it leaves to the
manifest (small letters, length, padding) is done here, so that all who tokenise do the same.
"""

import base64
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from microtome.manifest import TokenizerSpec, TokensSpec

FILE = "tokenizer.json.gz"
"""In a version's `assets.extra`."""
SIGNATURE = "tokenizer"
"""Answers with the file's parts: input `query`, their numbers; output of the signature's own name."""

_PART_BYTES = 2 << 20
MOST_BYTES = 256 << 20
"""Of a tokenizer's JSON; that of Gemma's 256,000 tokens has 34 MB."""


def packed(document: bytes) -> bytes:
    """Compress a tokenizer's JSON; equal JSON gives equal bytes."""
    return gzip.compress(document, 6, mtime=0)


def parts(compressed: bytes) -> list[bytes]:
    """Cut a compressed tokenizer into the parts that the signature answers with."""
    return [compressed[start : start + _PART_BYTES] for start in range(0, len(compressed), _PART_BYTES)]


def described(document: bytes, compressed: bytes) -> TokenizerSpec:
    """Return what the manifest says of a tokenizer."""
    return TokenizerSpec(hashlib.sha256(document).hexdigest(), len(document), len(parts(compressed)))


def unpacked(compressed: bytes, spec: TokenizerSpec) -> bytes:
    """Return a tokenizer's JSON, which must be the one that the manifest names.

    Args:
        compressed: the file, or all its parts in their order, joined.
        spec: of the manifest.

    Raises:
        ValueError: it is damaged, or another one.
    """
    if spec.size > MOST_BYTES:
        raise ValueError(f"Expected a tokenizer of at most {MOST_BYTES} bytes. Received: {spec.size}.")
    inflating = zlib.decompressobj(wbits=31)
    try:
        document = inflating.decompress(compressed, spec.size + 1)
    except zlib.error as error:
        raise ValueError(f"Expected a tokenizer that is compressed by gzip. Received: {error}.") from error
    found = hashlib.sha256(document).hexdigest()
    if found != spec.sha256:
        raise ValueError(f"Expected the tokenizer of sha256 {spec.sha256}. Received: {found}, {len(document)} bytes.")
    return document


class _Replacements:
    """SentencePiece's table of replaced characters: at each place, the longest sequence that it has.

    The library replaces sequences by their first match and only within what is one letter on paper, and so loses marks
    or leaves letters apart: of a thousand odd sentences, 98 had other token ids than by SentencePiece.

    Args:
        compiled: A trie as Darts has it, https://github.com/s-yata/darts-clone, behind its size, and then the texts.
    """

    def __init__(self, compiled: bytes) -> None:
        size = int.from_bytes(compiled[:4], "little")
        self._units: list[int] = np.frombuffer(compiled, "<u4", size // 4, 4).tolist()
        self._texts = compiled[4 + size :]
        ascii_ = "".join(map(chr, range(32, 127)))
        self._keeps_ascii = self._replaced(ascii_) == ascii_

    def __call__(self, text: str) -> str:
        """Return a text with its replacements."""
        return text if self._keeps_ascii and text.isascii() and text.isprintable() else self._replaced(text)

    def _replaced(self, text: str) -> str:
        raw, at, found = text.encode(), 0, bytearray()
        while at < len(raw):
            end, place = self._longest(raw, at)
            if end > at:
                found += self._texts[place : self._texts.index(0, place)]
            else:
                end = at + 1
                while end < len(raw) and raw[end] & 0xC0 == 0x80:
                    end += 1
                found += raw[at:end]
            at = end
        return found.decode()

    def _longest(self, raw: bytes, at: int) -> tuple[int, int]:
        """Return where the longest sequence from here ends, and where the text for it begins."""
        units, end, place = self._units, at, 0
        node = _offset(units[0])
        for index in range(at, len(raw)):
            node ^= raw[index]
            unit = units[node]
            if unit & 0x800000FF != raw[index]:
                break
            node ^= _offset(unit)
            if unit >> 8 & 1:
                end, place = index + 1, units[node] & 0x7FFFFFFF
        return end, place


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 0x200) >> 6)


class Tokenizer:
    """The tokenizer of a text tower. May be used from any thread."""

    def __init__(self, found: Any, spec: TokensSpec, prepared: Callable[[str], str] | None = None) -> None:  # noqa: ANN401, of a library that is imported when needed
        """Use `load` instead."""
        # Of a batch, since the library then lets other threads run meanwhile.
        self._encode, self._prepared = found.encode_batch_fast, prepared
        self.spec = spec

    @classmethod
    def load(cls, document: bytes, spec: TokensSpec) -> Self:
        """Read a tokenizer.

        Args:
            document: its JSON, see `unpacked`.
            spec: of the manifest.

        Raises:
            ImportError: the package `tokenizers` is not installed.
            ValueError: it is no tokenizer, or has more token ids than the text tower.
        """
        import tokenizers  # noqa: PLC0415, only where a model has a text tower

        try:
            read, prepared = json.loads(document), None
            steps = (read["normalizer"] or {}).get("normalizers") or []
            for place, step in enumerate(steps):
                if step["type"] == "Precompiled":
                    before = tokenizers.Tokenizer.from_str(json.dumps({**read, "normalizer": _sequence(steps[:place])}))
                    prepared = _prepared(
                        before.normalizer, _Replacements(base64.b64decode(step["precompiled_charsmap"]))
                    )
                    read["normalizer"] = _sequence(steps[place + 1 :])
            found = tokenizers.Tokenizer.from_str(json.dumps(read) if prepared else document.decode())
        except Exception as error:  # the library raises Exception itself
            raise ValueError(f"Expected JSON of the library tokenizers. Received: {str(error)[:200]}.") from error
        found.no_padding()
        found.no_truncation()
        if found.get_vocab_size() > spec.vocabulary:
            raise ValueError(
                f"Expected a tokenizer of at most {spec.vocabulary} token ids. Received: {found.get_vocab_size()}."
            )
        return cls(found, spec, prepared)

    def ids(self, text: str) -> NDArray[np.int32]:
        """Return a text's token ids, int32 [length].

        Small letters are those of A to Z, as TensorFlow's `strings.lower` has them; what a model does to others is in
        its tokenizer. A half of a surrogate pair, which is no character, counts as a question mark.
        """
        raw = text.encode("utf-8", "replace")
        text = (raw.lower() if self.spec.lowercase else raw).decode()
        (encoded,) = self._encode([self._prepared(text) if self._prepared else text])
        found: Sequence[int] = encoded.ids
        length = self.spec.length
        ids = np.full(length, self.spec.pad, np.int32)
        if len(found) > length:
            ids[:] = [*found[: length - 1], found[-1]]
        else:
            ids[: len(found)] = found
        return ids


def _sequence(steps: Sequence[Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def _prepared(before: Any, replacements: _Replacements) -> Callable[[str], str]:  # noqa: ANN401, of the library
    """Return what is done to a text before the library: its own steps before the replacements, and those."""
    return lambda text: replacements(before.normalize_str(text))
