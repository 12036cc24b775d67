"""POST /classify: labels from logits, in every form of body, with the caches and limits of POST /embed."""

from base64 import b64encode
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from math import exp
from typing import Any

import jsonschema
import pytest

from tests.fakes.model_server import classes_card
from tests.pictures import png, solid
from tests.unit.service.http.conftest import Gateway, gateway_with
from tests.unit.service.http.test_embed import problem

RED = solid((200, 10, 10))


@pytest.fixture
async def classes(decoders: ThreadPoolExecutor) -> AsyncIterator[Gateway]:
    """A gateway whose model's output `mean` has classes: `red`, `green`, `blue`."""
    async with gateway_with(decoders) as found:
        found.server.current = classes_card()
        yield found


async def labels(gateway: Gateway, path: str = "/classify", **request: Any) -> list[dict[str, Any]]:
    """Return the labels of the first image."""
    answer = await gateway.client.post(path, **(request or {"content": RED}))
    assert 200 == answer.status_code, answer.text
    found: list[dict[str, Any]] = answer.json()["predictions"][0]["labels"]
    return found


async def test_an_answer_has_names_ids_indexes_and_probabilities(classes: Gateway) -> None:
    """The best first; the vector of the same output is logits; the second time it is a hit, and kept after that."""
    answers = [(await classes.client.post("/classify", content=RED)).json() for _ in range(3)]
    (first,) = answers[0]["predictions"]
    assert {"model", "version", "fingerprint", "predictions", "embeddings", "errors"} == set(answers[0])
    assert {"index", "output", "labels", "rejected", "cache"} == set(first)
    assert [("red", "r0", 0), ("green", None, 1), ("blue", "b2", 2)] == [
        (label["label"], label["id"], label["index"]) for label in first["labels"]
    ]
    assert 1.0 == pytest.approx(sum(label["score"] for label in first["labels"]))
    assert ["miss", "hit", "hit"] == [answer["predictions"][0]["cache"] for answer in answers]
    assert answers[1] == answers[2]
    vector = (await classes.client.post("/embed?output=mean", content=RED)).json()["embeddings"][0]
    assert ([200.0, 10.0, 10.0], "hit") == (vector["vector"], vector["cache"])
    assert [(1, ("mean",), 1)] == classes.server.calls


async def test_what_is_kept_for_one_route_is_not_answered_on_the_other(classes: Gateway) -> None:
    """Written answers are found by path too: both routes have equal images, query strings and headers."""
    for _ in range(3):
        assert (await classes.client.post("/classify?output=mean", content=RED)).json()["predictions"]
        assert "predictions" not in (await classes.client.post("/embed?output=mean", content=RED)).json()


async def test_one_request_asks_for_an_embedding_and_classes(classes: Gateway) -> None:
    """One call of the model server gives both; options of vectors concern the vectors."""
    answer = (await classes.client.post("/classify?output=corner&output=mean&dimensions=2", content=RED)).json()
    assert ["mean"] == [prediction["output"] for prediction in answer["predictions"]]
    assert [("corner", 2)] == [(e["output"], len(e["vector"])) for e in answer["embeddings"]]
    assert [(1, ("corner", "mean"), 1)] == classes.server.calls
    every = (await classes.client.post("/classify?output=all", content=RED)).json()
    assert (1, 1) == (len(every["predictions"]), len(every["embeddings"]))


@pytest.mark.parametrize(
    "request_",
    [
        {"content": RED},
        {"files": [("image", RED)]},
        {"json": {"image": b64encode(RED).decode(), "top_k": 1}},
        {"json": {"images": [{"data_uri": f"data:image/png;base64,{b64encode(RED).decode()}"}], "top_k": 1}},
    ],
    ids=["raw", "form", "image", "images"],
)
async def test_every_body_of_embed_is_taken(classes: Gateway, request_: dict[str, Any]) -> None:
    """Options of classes may stand in JSON too; POST /embed does not know them."""
    assert "red" == (await labels(classes, **request_))[0]["label"]
    if "json" in request_:
        assert (400, "bad-request") == problem(await classes.client.post("/embed", **request_))


async def test_options_choose_labels_and_scores(classes: Gateway) -> None:
    """top_k, min_score and function; none of them computes again."""
    assert ["red"] == [label["label"] for label in await labels(classes, "/classify?top_k=1")]
    assert ["red"] == [label["label"] for label in await labels(classes, "/classify?min_score=0.5")]
    assert [200.0, 10.0, 10.0] == [label["score"] for label in await labels(classes, "/classify?function=none")]
    every = await labels(classes, "/classify?function=sigmoid&top_k=99")
    assert [1.0, 1 / (1 + exp(-10))] == pytest.approx([every[0]["score"], every[1]["score"]])
    assert 1 == len(classes.server.calls)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("top_k=0", (400, "bad-request")),
        ("top_k=many", (400, "bad-request")),
        ("min_score=nan", (400, "bad-request")),
        ("function=relu", (400, "bad-request")),
        ("topk=3", (400, "bad-request")),
        ("output=corner", (400, "bad-request")),
        ("output=nix", (404, "unknown-output")),
        ("model=nix", (404, "unknown-model")),
    ],
)
async def test_what_is_wrong_is_refused_before_any_work(
    classes: Gateway, query: str, expected: tuple[int, str]
) -> None:
    """As on POST /embed, with the nearest name where one is near."""
    assert expected == problem(await classes.client.post(f"/classify?{query}", content=RED))
    assert [] == classes.server.calls


async def test_a_model_without_classes_says_so(gateway: Gateway) -> None:
    """The answer names the outputs that there are, and how classes are exported."""
    answer = await gateway.client.post("/classify", content=RED)
    assert (404, "unknown-output") == problem(answer)
    assert "kind: classes" in answer.json()["detail"]


async def test_nothing_but_json_is_written(classes: Gateway) -> None:
    """Rows of numbers hold no names."""
    answer = await classes.client.post("/classify", content=RED, headers={"Accept": "application/x-npy"})
    assert (406, "not-acceptable") == problem(answer)


async def test_below_the_threshold_an_image_is_rejected(classes: Gateway) -> None:
    """By the output's own function, whatever scores are asked for, and not by what is left of the labels."""
    classes.server.current = classes_card(threshold=0.9)
    even = solid((100, 100, 100))
    for query, image, expected in (
        ("", RED, False), ("", even, True), ("?function=none&top_k=1", even, True), ("?min_score=2", RED, False)
    ):  # fmt: skip
        answer = (await classes.client.post(f"/classify{query}", content=image)).json()
        assert expected is answer["predictions"][0]["rejected"], query


async def test_a_bad_image_harms_no_other(classes: Gateway) -> None:
    """With on_error=skip it is an error in the list, with its place."""
    files = [("image", RED), ("image", b"no image"), ("image", png())]
    answer = await classes.client.post("/classify?on_error=skip", files=files)
    assert (207, [0, 2], [1]) == (
        answer.status_code,
        [prediction["index"] for prediction in answer.json()["predictions"]],
        [error["index"] for error in answer.json()["errors"]],
    )


async def test_answers_follow_the_published_schema(classes: Gateway) -> None:
    """What /openapi.json says of the answers is what comes."""
    api = (await classes.client.get("/openapi.json")).json()
    for method, path, content in (("POST", "/classify", RED), ("GET", "/models", b"")):
        answer = await classes.client.request(method, path, content=content)
        schema = api["paths"][path][method.lower()]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), schema | {"components": api["components"]})
