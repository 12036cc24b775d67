"""openai, sync and async, with and without `encoding_format`; langchain-openai."""

from collections.abc import Callable

import numpy as np
import openai
import pytest
import tiktoken
import tiktoken.registry
from langchain_openai import OpenAIEmbeddings
from numpy.typing import NDArray

from tests.clients.conftest import KEY
from tests.e2e.processes import Gateway


@pytest.fixture
def langchain(gateway: Gateway) -> OpenAIEmbeddings:
    """LangChain's embeddings over OpenAI's contract, as docs/guides/langchain.md constructs them."""
    return OpenAIEmbeddings(base_url=f"{gateway.url}/v1", api_key=KEY, model="lite0", check_embedding_ctx_length=False)


def test_langchain_openai_embeds_documents(
    langchain: OpenAIEmbeddings,
    uris: list[str],
    unit_vectors: NDArray[np.float32],
    tried: Callable[[str], None],
) -> None:
    """Documents are data URIs."""
    tried("langchain-openai")
    np.testing.assert_allclose(langchain.embed_documents(uris), unit_vectors, rtol=1e-6)
    np.testing.assert_allclose(langchain.embed_query(uris[0]), unit_vectors[0], rtol=1e-6)


def test_langchain_openai_without_the_switch_is_told_of_it(
    gateway: Gateway, uris: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends token ids by default; the error says how to construct it."""
    # A vocabulary of bytes, for the one that it would download.
    vocabulary = tiktoken.Encoding(
        "cl100k_base",
        pat_str=r"[\s\S]",
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={},
    )
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "cl100k_base", vocabulary)
    embeddings = OpenAIEmbeddings(base_url=f"{gateway.url}/v1", api_key=KEY, model="lite0")
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        embeddings.embed_documents(uris)
