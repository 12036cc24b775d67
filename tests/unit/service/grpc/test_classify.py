"""Classify and ClassifyStream: labels of outputs with classes, vectors of the others."""

from typing import Any

import grpc
import pytest

from microtome.v1 import embedding_pb2 as pb
from tests.fakes.model_server import classes_card, towers
from tests.pictures import solid
from tests.unit.service.grpc.conftest import Service, reason_of, status_of

RED, GREEN = solid((200, 20, 10)), solid((10, 200, 20))


@pytest.fixture
def classes(service: Service) -> Service:
    """A server whose model's output `mean` has classes."""
    service.server.current = classes_card(threshold=0.9)
    return service


def request(*images: bytes, options: dict[str, Any] | None = None, **classes: Any) -> pb.ClassifyRequest:
    """A request for the labels of these images."""
    return pb.ClassifyRequest(
        options=pb.EmbedOptions(**(options or {})),
        images=[pb.Image(data=image) for image in images],
        classes=pb.ClassOptions(**classes),
    )


async def test_labels_come_for_each_image(classes: Service) -> None:
    """Names, ids, indexes and scores, the best first; the second time from the cache."""
    answers = [await classes.stub.Classify(request(RED, GREEN, top_k=2)) for _ in range(2)]
    found = [result.predictions[0] for result in answers[0].results]
    assert [["red", "green"], ["green", "blue"]] == [[label.name for label in one.labels] for one in found]
    assert [("r0", 0), ("", 1)] == [(label.id, label.index) for label in found[0].labels]
    assert 1.0 == pytest.approx(found[0].labels[0].score)
    assert [False, False] == [one.rejected for one in found]
    assert pb.CACHE_RESULT_HIT == answers[1].results[0].predictions[0].cache
    assert "toy" == answers[0].model.name


async def test_one_call_asks_for_vectors_too(classes: Service) -> None:
    """Outputs without classes are answered as Embed answers them; logits as a function `none` has them."""
    answer = await classes.stub.Classify(
        request(RED, options={"outputs": ["all"]}, function=pb.FUNCTION_NONE, min_score=100)
    )
    (result,) = answer.results
    assert [200.0] == [label.score for label in result.predictions[0].labels]
    assert ["corner"] == [embedding.output for embedding in result.embeddings]


@pytest.mark.parametrize(
    ("asked", "code", "reason"),
    [
        (request(RED, top_k=-1), grpc.StatusCode.INVALID_ARGUMENT, "BAD_REQUEST"),
        (request(RED, min_score=float("nan")), grpc.StatusCode.INVALID_ARGUMENT, "BAD_REQUEST"),
        (request(RED, options={"outputs": ["corner"]}), grpc.StatusCode.INVALID_ARGUMENT, "BAD_REQUEST"),
    ],
    ids=["top_k", "min_score", "outputs"],
)
async def test_what_is_wrong_is_refused(
    classes: Service, asked: pb.ClassifyRequest, code: grpc.StatusCode, reason: str
) -> None:
    """With the codes and reasons of Embed."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await classes.stub.Classify(asked)
    assert (code, reason) == (caught.value.code(), reason_of(status_of(caught.value)))


async def test_a_stream_answers_labels_by_id(classes: Service) -> None:
    """A bad image is answered by its error, one that shows none of the classes is rejected; the stream goes on."""
    messages = [
        pb.ClassifyStreamRequest(classes=pb.ClassOptions(top_k=1)),
        *(
            pb.ClassifyStreamRequest(id=name, image=pb.Image(data=image))
            for name, image in {"red": RED, "bad": b"none", "grey": solid((90, 90, 90))}.items()
        ),
    ]
    answers = {answer.id: answer.result async for answer in classes.stub.ClassifyStream(iter(messages))}
    assert [("red", False)] == [(p.labels[0].name, p.rejected) for p in answers["red"].predictions]
    assert [True] == [prediction.rejected for prediction in answers["grey"].predictions]
    assert answers["bad"].HasField("error")
    assert 1 == classes.counted("microtome_requests_total", route="grpc:ClassifyStream", status="400")


async def test_labels_in_words(service: Service) -> None:
    """As POST /classify has them, for one message and for a stream; the answer names both towers."""
    pair = towers()
    service.server.current, service.server.words = pair.of("Image"), pair.of("Text")
    asked = request(RED, options={"model": "pair"}, labels=["abc", "a"], templates=["{}"])
    answer = await service.stub.Classify(asked)
    (prediction,) = answer.results[0].predictions
    assert {"abc", "a"} == {label.name for label in prediction.labels}
    assert 1.0 == pytest.approx(sum(label.score for label in prediction.labels))
    assert ["image", "text"] == [tower.tower for tower in answer.towers]
    first = pb.ClassifyStreamRequest(options=asked.options, classes=asked.classes, id="1", image=asked.images[0])
    (streamed,) = [answer async for answer in service.stub.ClassifyStream(iter([first]))]
    assert prediction.labels == streamed.result.predictions[0].labels
    wrong: dict[str, dict[str, Any]] = {"twice": {"labels": ["a", "a"]}, "with `labels`": {"templates": ["a"]}}
    for words, more in wrong.items():
        with pytest.raises(grpc.aio.AioRpcError, match=words):
            await service.stub.Classify(request(RED, options={"model": "pair"}, **more))
