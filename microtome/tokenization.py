"""From a text to the token ids that a text tower takes, by the tokenizer that travels with the model.

The file is JSON of the library `tokenizers`, compressed, in parts that fit into messages of gRPC. What it leaves to the
manifest (small letters, length, padding) is done here, so that all who tokenise do the same.
"""

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from microtome.manifest import TokenizerSpec, TokensSpec

FILE = "tokenizer.json.gz"
"""In a version's `assets.extra`."""
SIGNATURE = "tokenizer"
"""Answers with the file's parts: input `query`, their numbers; output of the signature's own name."""

_PART_BYTES = 2 << 20
_MOST_BYTES = 256 << 20
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
    if spec.size > _MOST_BYTES:
        raise ValueError(f"Expected a tokenizer of at most {_MOST_BYTES} bytes. Received: {spec.size}.")
    inflating = zlib.decompressobj(wbits=31)
    try:
        document = inflating.decompress(compressed, spec.size + 1)
    except zlib.error as error:
        raise ValueError(f"Expected a tokenizer that is compressed by gzip. Received: {error}.") from error
    found = hashlib.sha256(document).hexdigest()
    if found != spec.sha256:
        raise ValueError(f"Expected the tokenizer of sha256 {spec.sha256}. Received: {found}, {len(document)} bytes.")
    return document


class Tokenizer:
    """The tokenizer of a text tower. May be used from any thread."""

    def __init__(self, found: Any, spec: TokensSpec) -> None:  # noqa: ANN401, of a library that is imported when needed
        """Use `load` instead."""
        self._encode = found.encode
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
            found = tokenizers.Tokenizer.from_str(document.decode())
        except Exception as error:  # the library raises Exception itself
            raise ValueError(f"Expected JSON of the library tokenizers. Received: {str(error)[:200]}.") from error
        found.no_padding()
        found.no_truncation()
        if found.get_vocab_size() > spec.vocabulary:
            raise ValueError(
                f"Expected a tokenizer of at most {spec.vocabulary} token ids. Received: {found.get_vocab_size()}."
            )
        return cls(found, spec)

    def ids(self, text: str) -> NDArray[np.int32]:
        """Return a text's token ids, int32 [length].

        Small letters are those of A to Z, as TensorFlow's `strings.lower` has them; what a model does to others is in
        its tokenizer. A half of a surrogate pair, which is no character, counts as a question mark.
        """
        raw = text.encode("utf-8", "replace")
        found: Sequence[int] = self._encode((raw.lower() if self.spec.lowercase else raw).decode()).ids
        length = self.spec.length
        ids = np.full(length, self.spec.pad, np.int32)
        if len(found) > length:
            ids[:] = [*found[: length - 1], found[-1]]
        else:
            ids[: len(found)] = found
        return ids
