"""Clients of Jina's API: litellm, llama-index-embeddings-jinaai, langchain-community, jina-haystack."""

from collections.abc import Callable
from pathlib import Path

import litellm
import numpy as np
import pytest
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.embedders.jina import JinaDocumentImageEmbedder
from langchain_community.embeddings import jina as langchain_jina
from llama_index.embeddings.jinaai.base import _JinaAPICaller
from numpy.typing import NDArray

from tests.clients.conftest import KEY
from tests.e2e.processes import Gateway


def test_litellm_embeds_by_its_jina_provider(
    gateway: Gateway, uris: list[str], unit_vectors: NDArray[np.float32], tried: Callable[[str], None]
) -> None:
    """`jina_ai/MODEL` with an api_base of ours: data URIs, of which it sends the base64."""
    tried("litellm")
    answer = litellm.embedding("jina_ai/lite0", input=uris, api_base=f"{gateway.url}/v1", api_key=KEY)
    np.testing.assert_allclose([one["embedding"] for one in answer.data], unit_vectors, rtol=1e-6)
    assert len(uris) == answer.usage.total_tokens
    layer = litellm.embedding("jina_ai/lite0/middle", input=uris[:1], api_base=f"{gateway.url}/v1", api_key=KEY)
    assert len(answer.data[0]["embedding"]) != len(layer.data[0]["embedding"])


def test_litellm_raises_what_is_wrong(gateway: Gateway, uris: list[str]) -> None:
    """Its exceptions are those of the status; the words are ours."""
    with pytest.raises(litellm.AuthenticationError, match="not known here"):
        litellm.embedding("jina_ai/lite0", input=uris, api_base=f"{gateway.url}/v1", api_key="wrong")
    with pytest.raises(litellm.BadRequestError, match="embeds images only"):
        litellm.embedding("jina_ai/lite0", input=["a cat"], api_base=f"{gateway.url}/v1", api_key=KEY)


@pytest.fixture
def llama_index(gateway: Gateway) -> _JinaAPICaller:
    """What LlamaIndex's JinaEmbedding calls; that class has no address of its own to set."""
    return _JinaAPICaller(model="lite0", base_url=f"{gateway.url}/v1", api_key=KEY)


def test_llama_index_embeds_bytes(
    llama_index: _JinaAPICaller, uris: list[str], unit_vectors: NDArray[np.float32], tried: Callable[[str], None]
) -> None:
    """As numbers, and as bits in both of Jina's ways, which it unpacks."""
    tried("llama-index-embeddings-jinaai")
    images = [{"bytes": uri.partition(",")[2]} for uri in uris]
    np.testing.assert_allclose(llama_index.get_embeddings(images), unit_vectors, rtol=1e-6)
    for kind in ("binary", "ubinary"):
        np.testing.assert_array_equal(llama_index.get_embeddings(images, encoding_type=kind), unit_vectors > 0)
    assert (len(uris), 7) == np.shape(llama_index.get_embeddings(images, dimensions=7))


async def test_llama_index_embeds_asynchronously(
    llama_index: _JinaAPICaller, uris: list[str], unit_vectors: NDArray[np.float32]
) -> None:
    """The same, over aiohttp."""
    images = [{"bytes": uri.partition(",")[2]} for uri in uris]
    np.testing.assert_allclose(await llama_index.aget_embeddings(images), unit_vectors, rtol=1e-6)


def test_llama_index_raises_what_is_wrong(llama_index: _JinaAPICaller) -> None:
    """It reads `detail`."""
    with pytest.raises(RuntimeError, match="embeds images only"):
        llama_index.get_embeddings(["a cat"])


@pytest.fixture
def langchain(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> langchain_jina.JinaEmbeddings:
    """LangChain's embeddings over Jina's API, whose address is a constant of its module."""
    monkeypatch.setattr(langchain_jina, "JINA_API_URL", f"{gateway.url}/v1/embeddings")
    return langchain_jina.JinaEmbeddings(jina_api_key=KEY, model_name="lite0")


def test_langchain_community_embeds_files(
    langchain: langchain_jina.JinaEmbeddings,
    photos: list[Path],
    unit_vectors: NDArray[np.float32],
    tried: Callable[[str], None],
) -> None:
    """Paths of files; it sends their base64 as `bytes`."""
    tried("langchain-community")
    np.testing.assert_allclose(langchain.embed_images([str(photo) for photo in photos]), unit_vectors, rtol=1e-6)


def test_langchain_community_raises_what_is_wrong(langchain: langchain_jina.JinaEmbeddings) -> None:
    """Texts, and addresses where none are fetched from."""
    with pytest.raises(RuntimeError, match="embeds images only"):
        langchain.embed_query("a cat")
    with pytest.raises(RuntimeError, match="fetches none"):
        langchain.embed_images(["https://example.com/cat.jpg"])


def test_haystack_embeds_documents(
    gateway: Gateway, photos: list[Path], unit_vectors: NDArray[np.float32], tried: Callable[[str], None]
) -> None:
    """Documents that name files; it sends plain data URIs."""
    tried("jina-haystack")
    embedder = JinaDocumentImageEmbedder(
        api_key=Secret.from_token(KEY), model="lite0", base_url=f"{gateway.url}/v1/embeddings"
    )
    documents = [Document(meta={"file_path": str(photo)}) for photo in photos]
    embedded = embedder.run(documents)["documents"]
    np.testing.assert_allclose([document.embedding for document in embedded], unit_vectors, rtol=1e-6)


def test_haystack_raises_what_is_wrong(gateway: Gateway, photos: list[Path]) -> None:
    """A key that is not known here."""
    embedder = JinaDocumentImageEmbedder(
        api_key=Secret.from_token("wrong"), model="lite0", base_url=f"{gateway.url}/v1/embeddings"
    )
    with pytest.raises(RuntimeError, match="not known here"):
        embedder.run([Document(meta={"file_path": str(photos[0])})])
