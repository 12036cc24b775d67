"""POST /classify with labels in words: cosines of both towers, their cache and limits, and a tower that is replaced."""

from base64 import b64encode
from collections.abc import Sequence
from functools import partial
from math import exp, sqrt
from typing import Any

import httpx
import numpy as np
import pytest

from microtome.errors import ModelNotReady
from microtome.manifest import ModelCard, Similarity
from service.core.remote_images import Text
from service.core.requests import MOST_TEXTS, Candidates, Embedded, Embedding, EmbedRequest
from service.core.zero_shot import ZeroShot
from tests.fakes.model_server import FakeModelServer, towers
from tests.pictures import png, solid
from tests.unit.service.http.conftest import Gateway

RED = solid((200, 100, 50))
"""Its vector, `mean`, is its colour; that of a text is its first three characters' codes."""


@pytest.fixture
def server(gateway: Gateway) -> FakeModelServer:
    """A model of images and text behind the gateway."""
    pair = towers()
    gateway.server.current, gateway.server.words = pair.of("Image"), pair.of("Text")
    return gateway.server


async def classify(gateway: Gateway, labels: list[str], content: bytes = RED, **more: Any) -> httpx.Response:
    """Classify one image."""
    params = {"model": "pair", "labels": labels, "template": "{}", **more}
    return await gateway.client.post("/classify", params=params, content=content)


def cosine(text: str, colour: tuple[int, int, int] = (200, 100, 50)) -> float:
    """The cosine of an image of one colour and a text."""
    letters = text.encode()[:3].ljust(3, b"\0")
    product = sum(x * y for x, y in zip(letters, colour, strict=True))
    return product / sqrt(sum(x * x for x in letters)) / sqrt(sum(y * y for y in colour))


async def test_scores_are_the_softmax_of_scaled_cosines(gateway: Gateway, server: FakeModelServer) -> None:
    """The best first, by CLIP's scale where the model has none; the answer names both towers."""
    answer = await classify(gateway, ["abc", "zA!", "a"])
    assert answer.status_code == 200, answer.text
    body = answer.json()
    (found,) = body["predictions"]
    powers = {text: exp(100 * cosine(text)) for text in ("abc", "zA!", "a")}
    expected = {text: power / sum(powers.values()) for text, power in powers.items()}
    assert sorted(expected, key=expected.__getitem__, reverse=True) == [label["label"] for label in found["labels"]]
    assert expected == pytest.approx({label["label"]: label["score"] for label in found["labels"]}, rel=1e-4)
    assert {"abc": 0, "zA!": 1, "a": 2} == {label["label"]: label["index"] for label in found["labels"]}
    assert (["image", "text"], [], False) == (
        [tower["tower"] for tower in body["towers"]],
        body["embeddings"],
        found["rejected"],
    )
    cosines = (await classify(gateway, ["abc", "a"], function="none", top_k=1)).json()["predictions"][0]["labels"]
    assert [pytest.approx(100 * max(cosine("abc"), cosine("a")), rel=1e-5)] == [label["score"] for label in cosines]


async def test_a_models_own_scale_bias_and_activation_count(gateway: Gateway, server: FakeModelServer) -> None:
    """As SigLIP has them: each label by itself."""
    card = server.current
    manifest = card.manifest
    object.__setattr__(manifest, "similarity", Similarity(8.0, -7.0, "sigmoid"))
    server.current = ModelCard(card.name, card.version, manifest)
    labels = (await classify(gateway, ["abc", "a"], min_score=0.1)).json()["predictions"][0]["labels"]
    expected = {text: 1 / (1 + exp(7 - 8 * cosine(text))) for text in ("abc", "a")}
    assert expected == pytest.approx({label["label"]: label["score"] for label in labels}, rel=1e-4)


async def test_vectors_of_templates_are_averaged(gateway: Gateway, server: FakeModelServer) -> None:
    """Means of unit vectors, as in CLIP; the default template begins like every other, so labels are equal then."""
    two = await classify(gateway, ["a", "b"], template=["{}", "x{}"], function="none")
    found = {label["label"]: label["score"] for label in two.json()["predictions"][0]["labels"]}
    for label in ("a", "b"):
        units = []
        for text in (label, f"x{label}"):
            letters = text.encode().ljust(3, b"\0")
            units.append([letter / sqrt(sum(x * x for x in letters)) for letter in letters])
        mean = [sum(column) / 2 for column in zip(*units, strict=True)]
        product = sum(x * y for x, y in zip(mean, (200, 100, 50), strict=True))
        expected = product / sqrt(sum(x * x for x in mean)) / sqrt(sum(y * y for y in (200, 100, 50)))
        assert found[label] == pytest.approx(100 * expected, rel=1e-5)
    params = {"model": "pair", "labels": ["x", "y"]}
    default = await gateway.client.post("/classify", params=params, content=RED)
    assert [0.5, 0.5] == [label["score"] for label in default.json()["predictions"][0]["labels"]]


async def test_labels_are_computed_once(gateway: Gateway, server: FakeModelServer) -> None:
    """Another image computes itself alone; labels of another request come from the cache as texts; texts share it."""
    await classify(gateway, ["abc", "a"])
    before = len(server.calls)
    assert 200 == (await classify(gateway, ["abc", "a"], png(3))).status_code
    assert 1 == len(server.calls) - before
    assert 200 == (await classify(gateway, ["a"], png(3))).status_code
    text = await gateway.client.post("/embed", json={"model": "pair", "text": "abc"})
    assert "hit" == text.json()["embeddings"][0]["cache"]
    assert 1 == len(server.calls) - before
    again = await classify(gateway, ["abc", "a"], png(3))
    assert "hit" == again.json()["predictions"][0]["cache"]


async def test_an_image_and_its_labels_are_of_one_space(gateway: Gateway, server: FakeModelServer) -> None:
    """Both towers are replaced between two requests: labels that are kept are of the old pair."""
    await classify(gateway, ["abc", "a"])
    after = towers(2)
    server.current, server.words = after.of("Image"), after.of("Text")
    body = (await classify(gateway, ["abc", "a"])).json()
    assert [2, 2] == [tower["version"] for tower in body["towers"]]
    assert 1 == len({tower["space"] for tower in body["towers"]})


@pytest.mark.parametrize("images", [[1, 2], [1, 1, 1]])
async def test_a_pair_that_is_replaced_meanwhile_is_asked_again(images: list[int]) -> None:
    """An image of one version and labels of the next are never compared; a pair that never settles is told."""
    asked = EmbedRequest("pair", candidates=Candidates(("abc", "a"), ("{}",)))
    vector, given = np.array([200, 100, 50], np.float32), iter(images)

    async def embed(request: EmbedRequest) -> Embedded:
        assert (None, ("mean",)) == (request.candidates, request.outputs)
        return Embedded(towers(next(given)).of("Image"), [Embedding(0, "mean", vector, "miss")])

    async def texts(_: EmbedRequest, wanted: Sequence[Text]) -> Embedded:
        found = [Embedding(index, "mean", vector, "miss") for index in range(len(wanted))]
        return Embedded(towers(2).of("Text"), found)

    classified = ZeroShot().classified(asked, [b""], partial(towers, 2), embed, texts)
    if images[-1] == 2:
        assert 1 == len({card.manifest.space for card in (await classified).cards})
    else:
        with pytest.raises(ModelNotReady, match="being replaced"):
            await classified


async def test_more_labels_than_a_request_may_have_images(gateway: Gateway, server: FakeModelServer) -> None:
    """They are embedded some at a time; images keep their limit, regions and errors of their own."""
    labels = [f"{chr(97 + index)}z" for index in range(20)]
    items = [{"b64": b64encode(RED).decode()}, {"b64": b64encode(b"no image").decode()}]
    body = {"model": "pair", "images": items, "labels": labels, "top_k": 20, "template": "{}", "on_error": "skip"}
    answer = await gateway.client.post("/classify", json=body)
    assert answer.status_code == 207, answer.text
    (found,) = answer.json()["predictions"]
    assert (20, 0) == (len(found["labels"]), found["index"])
    assert [1] == [error["index"] for error in answer.json()["errors"]]
    parts = await classify(gateway, ["abc", "a"], crop=["0,0,1,0.5", "0,0.5,1,0.5"])
    assert [0, 1] == [prediction["index"] for prediction in parts.json()["predictions"]]


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ({"labels": ["a", "a"]}, 400, "'a' twice"),
        ({"labels": [" "]}, 400, "of 1 to 256 bytes"),
        ({"labels": ["é" * 200]}, 400, "of 1 to 256 bytes"),
        ({"labels": []}, 400, "a short text"),
        ({"labels": ["a", 3]}, 400, "a short text"),
        ({"labels": ["x" * 7000]}, 400, "a short text"),
        ({"labels": [str(number) for number in range(MOST_TEXTS)], "template": ["a {}", "b {}"]}, 400, "labels times"),
        ({"labels": ["a"], "template": "no place"}, 400, "to have {}"),
        ({"template": "a {}"}, 400, "with `labels`"),
        ({"labels": ["a"], "output": "corner"}, 400, "without an output"),
        ({"labels": ["a"], "model": "toy"}, 400, "a model of images and text"),
        ({"labels": ["a"], "model": "words"}, 400, "a model of images and text"),
        ({"labels": ["a"], "images": [{"text": "b"}]}, 400, "received a text"),
        ({}, 404, "Give `labels`"),
    ],
)
async def test_what_cannot_be_compared_is_told(
    gateway: Gateway, server: FakeModelServer, more: dict[str, object], status: int, words: str
) -> None:
    """In a sentence, before any work."""
    # Longer than what is parsed as it is.
    padded = RED + bytes(1000)
    body = {"model": "pair", "images": [{"b64": b64encode(padded).decode()}], **more}
    answer = await gateway.client.post("/classify", json=body)
    assert (status, True) == (answer.status_code, words in answer.text), answer.text
    assert [] == server.calls
