"""From a text to the token ids that a text tower takes, by the tokenizer that its manifest names.

The library `tokenizers` is imported with the first tokenizer: a process without text models does not need it.
"""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from microtome.manifest import TokensSpec


class Tokenizer:
    """Turns texts into token ids. Safe to use from several threads."""

    def __init__(self, encoder: Any, spec: TokensSpec) -> None:  # noqa: ANN401, its stubs name no type
        """Use an encoder of the library `tokenizers`; see `load`."""
        self._encoder = encoder
        self._spec = spec

    @classmethod
    def load(cls, document: bytes, spec: TokensSpec) -> Self:
        """Build the tokenizer that a JSON document of the library describes.

        Args:
            document: the JSON, not compressed.
            spec: length, padding and case.

        Raises:
            ImportError: the library is not installed.
            ValueError: it is no such document.
        """
        from tokenizers import Tokenizer as Encoder  # noqa: PLC0415, see above

        try:
            encoder = Encoder.from_str(document.decode())
        except Exception as error:
            raise ValueError(f"Expected a JSON file of the library tokenizers: {error}") from error
        encoder.no_padding()
        encoder.no_truncation()
        return cls(encoder, spec)

    def ids(self, text: str) -> NDArray[np.int32]:
        """Return the ids of one text, int32 [length]. One that is longer is cut so that its last token stays."""
        spec = self._spec
        # The batch lets other threads run meanwhile.
        (encoded,) = self._encoder.encode_batch([text.lower() if spec.lowercase else text])
        ids = encoded.ids
        if len(ids) > spec.length:
            ids = [*ids[: spec.length - 1], ids[-1]]
        found = np.full(spec.length, spec.pad, np.int32)
        found[: len(ids)] = ids
        return found
