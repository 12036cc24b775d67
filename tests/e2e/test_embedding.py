"""From an image to its vector over HTTP, through every process of a deployment."""

import httpx
import numpy as np
import pytest

from tests.e2e.answers import embed, vector
from tests.e2e.conftest import Stack
from tests.e2e.photos import example, unseen

DIMENSIONS = {"early": 40, "middle": 112, "top": 1280}


def test_an_image_becomes_its_vector_and_then_a_cache_hit(stack: Stack) -> None:
    """The second time nothing is computed, and the vector is the same to the last bit."""
    photo = unseen(example("cat"))
    with stack.gateway.client() as client:
        first, second = embed(client, photo), embed(client, photo)
    assert [answer["embeddings"][0]["cache"] for answer in (first, second)] == ["miss", "hit"]
    assert second["embeddings"][0]["vector"] == first["embeddings"][0]["vector"]
    assert vector(first).shape == (1280,)
    assert (first["model"], first["version"]) == ("lite0", 1)
    assert first["fingerprint"].startswith("sha256:")


def test_a_restarted_gateway_finds_the_vectors_in_valkey(stack: Stack) -> None:
    """The cache is outside: neither a restart nor a second gateway computes anything again."""
    photo = unseen(example("coffee"))
    with stack.gateway.client() as client:
        first = embed(client, photo)
    assert stack.gateway.terminate() == 0
    stack.gateway.start()
    with stack.gateway.client() as client:
        second = embed(client, photo)
    assert second["embeddings"][0]["cache"] == "hit"
    assert second["embeddings"][0]["vector"] == first["embeddings"][0]["vector"]


def test_outputs_are_chosen_by_name_and_come_in_that_order(stack: Stack) -> None:
    """`output` may be repeated; every output has its own vector and its own entry in the cache."""
    photo = unseen(example("cat"))
    with stack.gateway.client() as client:
        only_top = embed(client, photo, output="top")
        answer = embed(client, photo, model="lite0", output=["top", "early", "middle"])
    found = [(entry["output"], entry["dim"], entry["cache"]) for entry in answer["embeddings"]]
    assert found == [("top", 1280, "hit"), ("early", 40, "miss"), ("middle", 112, "miss")]
    assert {entry["output"]: len(entry["vector"]) for entry in answer["embeddings"]} == DIMENSIONS
    np.testing.assert_array_equal(vector(answer, 0), vector(only_top))


def test_several_files_of_one_form_are_answered_in_order(stack: Stack) -> None:
    """Each image of a multipart request has its index, and the vector it has alone."""
    photos = [unseen(example(name)) for name in ("astronaut", "cat", "coffee")]
    files = [("image", (f"{number}.jpg", photo, "image/jpeg")) for number, photo in enumerate(photos)]
    with stack.gateway.client() as client:
        alone = [embed(client, photo) for photo in photos]
        response = client.post("/embed", files=files)
    answer = response.json()
    assert response.status_code == httpx.codes.OK
    assert [(entry["index"], entry["cache"]) for entry in answer["embeddings"]] == [(0, "hit"), (1, "hit"), (2, "hit")]
    for number, single in enumerate(alone):
        np.testing.assert_array_equal(vector(answer, number), vector(single))


@pytest.mark.parametrize(
    ("parameters", "body", "status"),
    [
        ({"model": "lite9"}, None, 404),
        ({"output": "topp"}, None, 404),
        ({}, b"certainly not an image", 422),
        ({}, b"", 400),
    ],
    ids=["unknown model", "unknown output", "not an image", "empty"],
)
def test_what_cannot_be_embedded_is_a_problem_document(
    stack: Stack, parameters: dict[str, str], body: bytes | None, status: int
) -> None:
    """Errors say in words what to change, and do no harm: the next request is served."""
    content = example("cat") if body is None else body
    with stack.gateway.client() as client:
        response = client.post("/embed", params=parameters, content=content, headers={"content-type": "image/jpeg"})
        problem = response.json()
        assert (response.status_code, problem["status"]) == (status, status)
        assert response.headers["content-type"] == "application/problem+json"
        assert {"type", "title", "detail"} <= problem.keys()
        assert embed(client, example("cat"))["model"] == "lite0"


@pytest.mark.parametrize("path", ["/models", "/livez", "/readyz", "/metrics", "/docs", "/"])
def test_the_addresses_that_people_are_told_about_answer(stack: Stack, path: str) -> None:
    """What the welcome and the README name is there."""
    with stack.gateway.client() as client:
        assert client.get(path, follow_redirects=True).status_code == httpx.codes.OK
