"""The `openai` package, unmodified, against the gateway as it runs. Other packages: `make test-clients`."""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from tests.e2e.photos import NAMES, example
from tests.e2e.processes import Gateway, serving

KEY = "a-key-for-openai"
URIS = [f"data:image/jpeg;base64,{b64encode(example(name)).decode()}" for name in NAMES]


@pytest.fixture(scope="module")
def gateway(directory: Path, models: Path) -> Iterator[Gateway]:
    """The gateway, serving; it knows one key."""
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    with serving(directory, models, api_keys=f"openai sha256:{digest}") as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past any proxy: the client obeys the environment's."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    """OpenAI's own client."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY) as client:
        yield client


@pytest.fixture
def expected(gateway: Gateway) -> NDArray[np.float32]:
    """What POST /embed says of the same photos."""
    body = {"images": [{"data_uri": uri} for uri in URIS], "normalize": True}
    with gateway.client() as own:
        answer = own.post("/embed", json=body, headers={"Authorization": f"Bearer {KEY}"}).json()
    return np.array([one["vector"] for one in answer["embeddings"]], np.float32)


@pytest.mark.parametrize("path", ["/v1", ""])
def test_openai_embeds_images(
    gateway: Gateway, path: str, expected: NDArray[np.float32], tried: Callable[[str], None]
) -> None:
    """By default, which is base64 on the wire, with and without /v1 in its address; usage is counted."""
    tried("openai")
    with openai.OpenAI(base_url=gateway.url + path, api_key=KEY) as client:
        answer = client.embeddings.create(model="lite0", input=URIS)
    np.testing.assert_allclose([one.embedding for one in answer.data], expected, rtol=1e-6)
    assert ("lite0", 3) == (answer.model, answer.usage.total_tokens)


def test_openai_gets_the_encoding_that_it_names(client: openai.OpenAI, expected: NDArray[np.float32]) -> None:
    """Numbers as numbers; base64 stays a string."""
    numbers = client.embeddings.create(model="lite0", input=URIS[0], encoding_format="float")
    np.testing.assert_allclose(numbers.data[0].embedding, expected[0], rtol=1e-6)
    letters = client.embeddings.create(model="lite0", input=URIS[0], encoding_format="base64")
    decoded = np.frombuffer(b64decode(str(letters.data[0].embedding)), "<f4")
    np.testing.assert_array_equal(decoded, expected[0])


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}])
async def test_openai_embeds_asynchronously(
    gateway: Gateway, encoding: dict[str, str], expected: NDArray[np.float32]
) -> None:
    """With and without an encoding."""
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY) as client:
        answer = await client.embeddings.create(model="lite0", input=URIS, **encoding)  # type: ignore[arg-type]
    np.testing.assert_allclose([one.embedding for one in answer.data], expected, rtol=1e-6)


def test_openai_chooses_the_layer_by_the_models_name(client: openai.OpenAI) -> None:
    """Every output is in the list of models, and embeds under its name, also cut to some dimensions."""
    listed = [model.id for model in client.models.list()]
    assert ["lite0", "lite0/early", "lite0/middle", "lite0/top", "lite0/classes"] == listed
    sizes = [len(client.embeddings.create(model=name, input=URIS[0]).data[0].embedding) for name in listed]
    assert [1280, 40, 112, 1280, 1000] == sizes
    assert "lite0/middle" == client.models.retrieve("lite0/middle").id
    cut = client.embeddings.create(model="lite0/middle", input=URIS[0], dimensions=16).data[0].embedding
    assert 16 == len(cut)
    assert float(np.linalg.norm(cut)) == pytest.approx(1.0)


def test_openai_sends_messages_and_extra_fields(client: openai.OpenAI, expected: NDArray[np.float32]) -> None:
    """An extra field, such as infinity wants; vLLM's messages, in the way that its documentation shows."""
    by_infinity = client.embeddings.create(model="lite0", input=URIS[:1], extra_body={"modality": "image"})
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": URIS[0]}}]}
    body = {"messages": [message], "model": "lite0", "encoding_format": "float"}
    by_vllm = client.post("/embeddings", cast_to=openai.types.CreateEmbeddingResponse, body=body)
    for answer in (by_infinity, by_vllm):
        np.testing.assert_allclose(answer.data[0].embedding, expected[0], rtol=1e-6)


def test_openai_raises_what_is_wrong(client: openai.OpenAI, gateway: Gateway) -> None:
    """Its exceptions are those of the status, their code and words are ours, and nothing of it is tried again."""
    with pytest.raises(openai.BadRequestError, match="embeds images only") as text:
        client.embeddings.create(model="lite0", input="a cat")
    assert "unsupported_modality" == text.value.code
    with pytest.raises(openai.BadRequestError, match="Image 0: "):
        client.embeddings.create(model="lite0", input=["data:image/png;base64,AAAA"])
    with pytest.raises(openai.NotFoundError, match="Unknown model 'lite9'"):
        client.embeddings.create(model="lite9", input=URIS)
    stranger = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="wrong")
    with stranger, pytest.raises(openai.AuthenticationError, match="not known here"):
        stranger.embeddings.create(model="lite0", input=URIS)
