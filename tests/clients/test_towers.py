"""Images and texts of a tiny CLIP and a tiny SigLIP: what unmodified clients get equals what KerasHub computes."""

import io
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cohere
import httpx
import litellm
import numpy as np
import openai
import pytest
import voyageai
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.embedders.jina import JinaDocumentImageEmbedder, JinaTextEmbedder
from huggingface_hub import InferenceClient
from infinity_client.vision_client import InfinityVisionAPI
from langchain_community.embeddings import jina as langchain_jina
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.jinaai.base import _JinaAPICaller
from numpy.typing import NDArray
from PIL import Image

import microtome
from microtome.client.images import ImageLike
from tests.clients.conftest import KEY
from tests.e2e.processes import Gateway, free_port, serving
from tests.transformer_models import TOWERS, built, image_side, image_vectors, text_vectors, tokenizer_of

TEXTS = ["a photo of a cat", "İstanbul 猫", "a long text of many words " * 20]
EQUAL = 1e-5
Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def served(tower_models: Path) -> Iterator[Gateway]:
    """A gateway that serves all callers, as those that Weaviate and infinity's client can use."""
    names = ",".join(f"{name}_{tower}" for name in TOWERS for tower in ("image", "text"))
    with (
        tempfile.TemporaryDirectory(prefix="microtome-towers-", ignore_cleanup_errors=True) as path,
        serving(Path(path), tower_models, names, default_model="clip", grpc_port=free_port()) as gateway,
    ):
        yield gateway


@dataclass(frozen=True)
class Pair:
    """A family, the same images as files and data URIs, and KerasHub's vectors of them and of the texts."""

    name: str
    url: str
    grpc: str
    files: list[Path]
    uris: list[str]
    images: Vectors
    texts: Vectors
    tokens: int


@pytest.fixture(scope="module", params=TOWERS)
def pair(
    request: pytest.FixtureRequest, served: Gateway, tower_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    """Both families; images have the model's own size, so that nothing is resized."""
    name: str = request.param
    model, side = built(name), image_side(built(name))
    pixels = np.random.default_rng(5).integers(0, 256, (3, side, side, 3), np.uint8)
    folder = tmp_path_factory.mktemp(name)
    files = [folder / f"{index}.png" for index in range(3)]
    for file, picture in zip(files, pixels, strict=True):
        Image.fromarray(picture).save(file)
    tokenizer = tokenizer_of(tower_models, name)
    ids = np.stack([tokenizer.ids(text) for text in TEXTS])
    uris = [f"data:image/png;base64,{b64encode(file.read_bytes()).decode()}" for file in files]
    images, texts = image_vectors(name, model, pixels), text_vectors(model, ids)
    # Of CLIP the last token is the one that fills up.
    pad = tokenizer.spec.pad
    ends = tokenizer.ids("a " * 99)[-1] == pad
    tokens = sum(min(int(np.flatnonzero(row != pad)[-1]) + 1 + int(ends), len(row)) for row in ids)
    return Pair(name, served.url, f"grpc://{served.grpc}", files, uris, images, texts, tokens)


def close(found: object, expected: Vectors) -> None:
    """Equal but for rounding."""
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=EQUAL)


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_our_own_client(pair: Pair, transport: str) -> None:
    """Images and texts in one call, in any order, each with its tower; labels are compared as KerasHub compares."""
    with microtome.Client(pair.url if transport == "http" else pair.grpc) as client:
        mixed: list[ImageLike] = [microtome.Text(TEXTS[0]), pair.files[0], microtome.Text(TEXTS[1]), *pair.files[1:]]
        outcomes = list(client.embed_many(mixed, model=pair.name, batch=5))
        close([outcomes[1].vector, outcomes[3].vector, outcomes[4].vector], pair.images)
        close([outcomes[0].vector, outcomes[2].vector], pair.texts[:2])
        models = [outcome.model for outcome in outcomes]
        assert ["text", "image", "text", "image", "image"] == [model.tower for model in models if model]
        assert 1 == len({model.space for model in models if model})
        found = client.classify(pair.files, model=pair.name, labels=TEXTS[:2], template="{}", function="none", top_k=2)
        (info,) = [info for info in client.models() if info.name == pair.name]
        assert info.manifest is not None
        similarity = info.manifest["similarity"]
        logits = pair.images @ pair.texts[:2].T * similarity["scale"] + similarity["bias"]
        for prediction, row in zip(found, logits, strict=True):
            scores = {label.index: label.score for label in prediction.labels}
            close([scores[0], scores[1]], row)
        crop = client.classify(pair.files[0], model=pair.name, labels=TEXTS[:2], template="{}")
        powers = np.exp(logits[0]) / np.exp(logits[0]).sum() if pair.name == "clip" else 1 / (1 + np.exp(-logits[0]))
        close(sorted(label.score for label in crop.labels), np.sort(powers))


async def test_our_own_client_for_asyncio(pair: Pair) -> None:
    """The same."""
    async with microtome.AsyncClient(pair.grpc) as client:
        close(await client.embed([microtome.Text(text) for text in TEXTS], model=pair.name), pair.texts)


def test_openai(pair: Pair, tried: Callable[[str], None]) -> None:
    """Strings that are neither data URIs nor addresses are texts, in one list with images; tokens are counted."""
    tried("openai")
    client = openai.OpenAI(base_url=f"{pair.url}/v1", api_key=KEY)
    answer = client.embeddings.create(model=pair.name, input=[*TEXTS, *pair.uris])
    close([one.embedding for one in answer.data], np.concatenate([pair.texts, pair.images]))
    assert pair.tokens + 3 == answer.usage.prompt_tokens
    items = [{"type": "text", "text": TEXTS[0]}, {"type": "image_url", "image_url": {"url": pair.uris[0]}}]
    of_items = client.embeddings.create(model=pair.name, input=items)  # type: ignore[arg-type]  # as mlx-vlm has it
    close([one.embedding for one in of_items.data], np.stack([pair.texts[0], pair.images[0]]))
    assert pair.name in {model.id for model in client.models.list()}
    body = {"model": pair.name, "messages": [{"role": "user", "content": [{"type": "text", "text": TEXTS[0]}]}]}
    told = client.post("/embeddings", body=body, cast_to=openai.types.CreateEmbeddingResponse)
    close(told.data[0].embedding, pair.texts[0])
    with pytest.raises(openai.BadRequestError, match="`modality` is image"):
        client.embeddings.create(model=pair.name, input=TEXTS, extra_body={"modality": "image"})


def test_infinity(pair: Pair, tried: Callable[[str], None]) -> None:
    """Its constructor embeds the text `test`; pictures are sent as JPEG."""
    tried("infinity-client")
    api = InfinityVisionAPI(pair.url, model=pair.name)
    assert pair.images.shape[1] == api.hidden_dim
    texts, tokens = api.embed(pair.name, TEXTS).result()
    close(np.concatenate(texts), pair.texts)
    assert pair.tokens == tokens
    pictures: list[Image.Image] = [Image.open(file) for file in pair.files]
    jpegs = []
    for picture in pictures:
        out = io.BytesIO()
        picture.save(out, "JPEG")
        jpegs.append(out.getvalue())
    with microtome.Client(pair.url) as client:
        close(np.concatenate(api.image_embed(pair.name, pictures).result()[0]), client.embed(jpegs, model=pair.name))


def test_langchain(pair: Pair, monkeypatch: pytest.MonkeyPatch, tried: Callable[[str], None]) -> None:
    """A query in words beside documents that are images: by OpenAI's contract, and by Jina's."""
    tried("langchain-openai")
    by_openai = OpenAIEmbeddings(
        base_url=f"{pair.url}/v1", api_key=KEY, model=pair.name, check_embedding_ctx_length=False
    )
    close(by_openai.embed_query(TEXTS[0]), pair.texts[0])
    close(by_openai.embed_documents(pair.uris), pair.images)
    monkeypatch.setattr(langchain_jina, "JINA_API_URL", f"{pair.url}/v1/embeddings")
    by_jina = langchain_jina.JinaEmbeddings(jina_api_key=KEY, model_name=pair.name)
    close(by_jina.embed_documents(TEXTS), pair.texts)
    close(by_jina.embed_images([str(file) for file in pair.files]), pair.images)


def test_litellm(pair: Pair, tried: Callable[[str], None]) -> None:
    """`jina_ai/MODEL`: texts, and data URIs."""
    tried("litellm")
    for given, expected in ((TEXTS, pair.texts), (pair.uris, pair.images)):
        answer = litellm.embedding(f"jina_ai/{pair.name}", input=given, api_base=f"{pair.url}/v1", api_key=KEY)
        close([one["embedding"] for one in answer.data], expected)


def test_llama_index(pair: Pair, tried: Callable[[str], None]) -> None:
    """Strings and objects with bytes."""
    tried("llama-index-embeddings-jinaai")
    caller = _JinaAPICaller(model=pair.name, base_url=f"{pair.url}/v1", api_key=KEY)
    close(caller.get_embeddings(TEXTS), pair.texts)
    close(caller.get_embeddings([{"bytes": uri.partition(",")[2]} for uri in pair.uris]), pair.images)


def test_haystack(pair: Pair, tried: Callable[[str], None]) -> None:
    """A query by its text embedder, documents by that of images."""
    tried("jina-haystack")
    shared = {"api_key": Secret.from_token(KEY), "model": pair.name, "base_url": f"{pair.url}/v1/embeddings"}
    close(JinaTextEmbedder(**shared).run(TEXTS[0])["embedding"], pair.texts[0])
    documents = [Document(meta={"file_path": str(file)}) for file in pair.files]
    found = JinaDocumentImageEmbedder(**shared).run(documents)["documents"]
    close([document.embedding for document in found], pair.images)


def test_cohere(pair: Pair, tried: Callable[[str], None]) -> None:
    """`texts` with both types of input, `images`, and `inputs` of either; texts come back, and tokens are billed."""
    tried("cohere")
    client = cohere.ClientV2(api_key=KEY, base_url=pair.url)
    for kind in ("search_query", "search_document"):
        answer = client.embed(model=pair.name, input_type=kind, texts=TEXTS, embedding_types=["float"])
        close(answer.embeddings.float_, pair.texts)
    assert TEXTS == answer.texts
    assert answer.meta is not None
    assert answer.meta.billed_units is not None
    assert pair.tokens == answer.meta.billed_units.input_tokens
    images = client.embed(model=pair.name, input_type="image", images=pair.uris, embedding_types=["float"])
    close(images.embeddings.float_, pair.images)
    contents = [{"type": "text", "text": TEXTS[0]}, {"type": "image_url", "image_url": {"url": pair.uris[0]}}]
    inputs = [{"content": [content]} for content in contents]
    both = client.embed(model=pair.name, input_type="search_query", inputs=inputs, embedding_types=["float"])
    close(both.embeddings.float_, np.stack([pair.texts[0], pair.images[0]]))
    with pytest.raises(cohere.BadRequestError, match="not cut"):
        client.embed(
            model=pair.name, input_type="search_query", texts=TEXTS, truncate="NONE", embedding_types=["float"]
        )


def test_voyage(pair: Pair, tried: Callable[[str], None]) -> None:
    """Texts and pictures, which it sends as WebP without loss; its counts are those of both."""
    tried("voyageai")
    client = voyageai.Client(api_key=KEY, base_url=f"{pair.url}/v1")
    inputs = [*([text] for text in TEXTS), *([Image.open(file)] for file in pair.files)]
    answer = client.multimodal_embed(inputs, model=pair.name)
    close(answer.embeddings, np.concatenate([pair.texts, pair.images]))
    assert (pair.tokens, pair.tokens + 3) == (answer.text_tokens, answer.total_tokens)
    with pytest.raises(voyageai.error.InvalidRequestError, match="not cut"):
        client.multimodal_embed([[TEXTS[2]]], model=pair.name, truncation=False)


def test_hugging_face(pair: Pair, tried: Callable[[str], None]) -> None:
    """Its client's zero-shot classification."""
    tried("huggingface-hub")
    client = InferenceClient(model=f"{pair.url}/models/{pair.name}")
    found = client.zero_shot_image_classification(
        str(pair.files[0]), candidate_labels=TEXTS[:2], hypothesis_template="{}"
    )
    with microtome.Client(pair.url) as own:
        expected = own.classify(pair.files[0], model=pair.name, labels=TEXTS[:2], template="{}")
    assert [(label.name, label.score) for label in expected.labels] == [(one.label, one.score) for one in found]


def test_weaviates_multi2vec_clip(pair: Pair) -> None:
    """What its Go client sends: texts and images of one object together, of the default model; and what it shows."""
    if pair.name != "clip":
        pytest.skip("clip is the default model")
    images = [uri.partition(",")[2] for uri in pair.uris]
    with httpx.Client(base_url=pair.url, trust_env=False) as client:
        told = client.post("/vectorize", json={"texts": TEXTS, "images": images}).json()
        close(told["textVectors"], pair.texts)
        close(told["imageVectors"], pair.images)
        words = client.post("/vectorize", json={"texts": TEXTS[:1]}).json()
        close(words["textVectors"], pair.texts[:1])
        assert [] == words["imageVectors"]
        assert {"model", "version", "fingerprint", "space"} == set(client.get("/meta").json())
        assert 204 == client.get("/.well-known/ready").status_code
