"""Hugging Face's image classification: raw bytes or JSON with base64, a list of labels. Its client: tests/clients."""

from base64 import b64encode
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fakes.model_server import classes_card
from tests.pictures import solid
from tests.unit.service.http.conftest import Gateway, gateway_with

RED = solid((200, 20, 10))
LETTERS = b64encode(RED).decode()


@pytest.fixture
async def classes(decoders: ThreadPoolExecutor) -> AsyncIterator[Gateway]:
    """A gateway whose model's output `mean` has classes, and a threshold."""
    async with gateway_with(decoders) as found:
        found.server.current = classes_card(threshold=0.9)
        yield found


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/models/toy", {"content": RED}, ["red", "green", "blue"]),
        ("/models/toy/mean", {"content": RED}, ["red", "green", "blue"]),
        ("/models/toy", {"json": {"inputs": LETTERS, "parameters": {"top_k": 2}}}, ["red", "green"]),
        ("/models/toy", {"json": {"inputs": LETTERS, "options": {"use_cache": True}}}, ["red", "green", "blue"]),
        ("/models/toy", {"content": solid((90, 90, 90))}, []),
    ],
    ids=["raw", "output", "top_k", "options", "rejected"],
)
async def test_labels_are_a_list(classes: Gateway, path: str, body: dict[str, Any], expected: list[str]) -> None:
    """The best first. A rejected image has none: the contract has no word for it."""
    answer = await classes.client.post(path, headers={"Accept": "image/png"}, **body)
    assert 200 == answer.status_code, answer.text
    assert expected == [label["label"] for label in answer.json()]
    assert all(label.keys() == {"label", "score"} for label in answer.json())


async def test_the_function_is_chosen(classes: Gateway) -> None:
    """`none` answers logits."""
    body = {"inputs": LETTERS, "parameters": {"function_to_apply": "none", "top_k": 1}}
    assert [{"label": "red", "score": 200.0}] == (await classes.client.post("/models/toy", json=body)).json()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/models/nix", {"content": RED}, 404),
        ("/models/toy/nix", {"content": RED}, 404),
        ("/models/toy/corner", {"content": RED}, 400),
        ("/models/toy", {"content": b""}, 400),
        ("/models/toy", {"content": b"no image"}, 422),
        ("/models/toy", {"json": {"inputs": LETTERS, "parameters": {"topk": 2}}}, 400),
        ("/models/toy", {"json": {"inputs": LETTERS, "parameters": []}}, 400),
        ("/models/toy", {"json": {"inputs": 3}}, 400),
    ],
)
async def test_errors_are_problems_with_an_error(
    classes: Gateway, path: str, body: dict[str, Any], status: int
) -> None:
    """Problem details as everywhere, and the detail once more as `error`, which the client shows."""
    answer = await classes.client.post(path, **body)
    assert status == answer.status_code, answer.text
    assert answer.json()["error"] == answer.json()["detail"]
