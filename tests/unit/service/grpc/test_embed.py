"""Embed: options, results, errors."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import grpc
import grpc.aio
import numpy as np
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc import StatusCode

from microtome.errors import ModelServerDown, ModelServerFault
from microtome.v1 import embedding_pb2 as pb
from service.core.requests import CacheUse, OnError
from service.core.vectors import Dtype
from service.grpc.errors import STATUS, reason
from tests.fakes.model_server import towers
from tests.pictures import png
from tests.unit.service.grpc.conftest import Service, reason_of, service_with, status_of, unpacked


def request(*images: bytes | pb.Image, **options: Any) -> pb.EmbedRequest:
    """A request for these images."""
    made = [image if isinstance(image, pb.Image) else pb.Image(data=image) for image in images]
    return pb.EmbedRequest(options=pb.EmbedOptions(**options), images=made)


def numbers(embedding: pb.Embedding, dtype: str = "<f4") -> np.ndarray:
    """An embedding's numbers."""
    return np.frombuffer(embedding.data, dtype)


async def failure(service: Service, message: pb.EmbedRequest, **how: Any) -> grpc.aio.AioRpcError:
    """How a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.Embed(message, **how)
    return caught.value


async def test_images_become_vectors_in_the_order_of_the_request(service: Service) -> None:
    """Each result is its image's, packed as the shape and dtype say; the answer names who gave it."""
    answer = await service.stub.Embed(request(png(1), png(2)))
    assert ("toy", 1) == (answer.model.name, answer.model.version)
    assert answer.model.fingerprint.startswith("sha256:")
    first, second = (result.embeddings[0] for result in answer.results)
    assert ("mean", pb.DTYPE_FLOAT32, [3]) == (first.output, first.dtype, list(first.shape))
    assert (3,) == numbers(first).shape
    assert not np.array_equal(numbers(first), numbers(second))
    again = await service.stub.Embed(request(png(2), png(1)))
    assert [second.data, first.data] == [result.embeddings[0].data for result in again.results]
    assert {pb.CACHE_RESULT_HIT} == {result.embeddings[0].cache for result in again.results}


async def test_options_are_those_of_http(service: Service) -> None:
    """All outputs, a cut, unit length, and every dtype."""
    answer = await service.stub.Embed(request(png(), outputs=["all"]))
    assert ["mean", "corner"] == [e.output for e in answer.results[0].embeddings]
    (whole,) = (await service.stub.Embed(request(png(), outputs=["corner"]))).results[0].embeddings
    options = {"outputs": ["corner"], "normalize": True, "dimensions": 2, "version": 1, "model": "toy"}
    (cut,) = (await service.stub.Embed(request(png(), **options))).results[0].embeddings
    expected = numbers(whole)[:2] / np.linalg.norm(numbers(whole)[:2])
    assert [2] == list(cut.shape)
    np.testing.assert_allclose(numbers(cut), expected, rtol=1e-6)
    half = (await service.stub.Embed(request(png(), outputs=["corner"], dtype=pb.DTYPE_FLOAT16))).results[0]
    np.testing.assert_allclose(numbers(half.embeddings[0], "<f2"), numbers(whole), rtol=1e-3)
    signs = (await service.stub.Embed(request(png(), outputs=["corner"], dtype=pb.DTYPE_BINARY))).results[0]
    assert np.packbits(numbers(whole) > 0).tobytes() == signs.embeddings[0].data
    assert [4] == list(signs.embeddings[0].shape)


async def test_the_cache_can_be_refreshed_and_bypassed(service: Service) -> None:
    """Both compute again."""
    for use in (pb.CACHE_USE_USE, pb.CACHE_USE_REFRESH, pb.CACHE_USE_BYPASS):
        answer = await service.stub.Embed(request(png(), cache=use))
        assert pb.CACHE_RESULT_MISS == answer.results[0].embeddings[0].cache
    assert 3 == len(service.server.calls)


async def test_a_bad_image_fails_the_request_or_itself(service: Service) -> None:
    """As `on_error` says: all of it, or that image beside the others' vectors."""
    error = await failure(service, request(png(1), b"no image"))
    assert StatusCode.INVALID_ARGUMENT == error.code()
    assert (error.details() or "").startswith("Image 1: ")
    assert "NOT_AN_IMAGE" == reason_of(status_of(error))
    answer = await service.stub.Embed(request(png(1), b"no image", png(2), on_error=pb.ON_ERROR_SKIP))
    good, bad, other = answer.results
    assert (1, 0, 1) == (len(good.embeddings), len(bad.embeddings), len(other.embeddings))
    assert (0, StatusCode.INVALID_ARGUMENT.value[0], 0) == (good.error.code, bad.error.code, other.error.code)
    assert "NOT_AN_IMAGE" == reason_of(bad.error)


async def test_a_request_of_bad_images_only_fails_and_names_each(service: Service) -> None:
    """Also when bad ones are skipped: there is nothing left."""
    images = (b"no image", pb.Image(), png(1)[:100])
    error = await failure(service, request(*images, on_error=pb.ON_ERROR_SKIP))
    status = status_of(error)
    assert (StatusCode.INVALID_ARGUMENT, "NO_IMAGE_EMBEDDED") == (error.code(), reason_of(status))
    found = unpacked(status, BadRequest()).field_violations
    assert [("images[0]", "NOT_AN_IMAGE"), ("images[1]", "BAD_REQUEST"), ("images[2]", "BROKEN_IMAGE")] == [
        (violation.field, violation.reason) for violation in found
    ]


async def test_details_of_many_bad_images_fit_into_a_header(decoders: ThreadPoolExecutor) -> None:
    """Clients drop a call whose headers are too long, and with it the reason."""
    async with service_with(decoders, max_images=500) as service:
        error = await failure(service, request(*[b"no image"] * 500, on_error=pb.ON_ERROR_SKIP))
        assert "NO_IMAGE_EMBEDDED" == reason_of(status_of(error))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (request(png(), model="other"), "UNKNOWN_MODEL"),
        (request(png(), version=9), "UNKNOWN_VERSION"),
        (request(png(), outputs=["other"]), "UNKNOWN_OUTPUT"),
        (request(png(), outputs=[""]), "BAD_REQUEST"),
        (request(png(), version=-1), "BAD_REQUEST"),
        (request(png(), dimensions=99), "BAD_REQUEST"),
        (request(png(), dtype=99), "BAD_REQUEST"),
        (request(png(), dtype=pb.DTYPE_INT8), "BAD_REQUEST"),
        (request(png(), cache=7), "BAD_REQUEST"),
        (request(png(), priority=7), "BAD_REQUEST"),
        (request(), "BAD_REQUEST"),
        (request(pb.Image(url="https://example.com/a.jpg")), "URL_NOT_ALLOWED"),
        (request(png(width=200, height=200)), "IMAGE_TOO_LARGE"),
        (request(b"x" * 5_001), "IMAGE_TOO_LARGE"),
        (request(*[png()] * 4), "TOO_MANY_IMAGES"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_wrong_is_named(service: Service, message: pb.EmbedRequest, expected: str) -> None:
    """By the leaf of the error tree, whose status the call has; and the call is counted under its name."""
    error = await failure(service, message)
    status = status_of(error)
    assert expected == reason_of(status)
    assert {error.code()} == {code for leaf, code in STATUS.items() if reason(leaf) == expected}
    assert error.details() == status.message
    info = unpacked(status, ErrorInfo())
    assert "microtome" == info.domain
    assert dict(error.trailing_metadata() or ())["x-request-id"] == info.metadata["request_id"]
    assert 1 == service.counted("microtome_errors_total", error=expected.lower().replace("_", "-"))


async def test_trouble_that_passes_says_when_to_come_back(service: Service) -> None:
    """UNAVAILABLE with a RetryInfo, as HTTP's 503 with Retry-After."""
    service.server.failure = ModelServerDown("down", retry_after=7)
    error = await failure(service, request(png()))
    assert StatusCode.UNAVAILABLE == error.code()
    assert 7 == unpacked(status_of(error), RetryInfo()).retry_delay.seconds
    service.server.failure = ModelServerFault("nonsense")
    assert StatusCode.INTERNAL == (await failure(service, request(png()))).code()


async def test_what_is_unforeseen_is_logged_and_not_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets an id, which the log has beside the cause."""

    def broken(*_: object) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(service.server, "card", broken)
    error = await failure(service, request(png()), metadata=(("x-request-id", "mine"),))
    assert (StatusCode.INTERNAL, "INTERNAL_ERROR") == (error.code(), reason_of(status_of(error)))
    assert "mine" == unpacked(status_of(error), ErrorInfo()).metadata["request_id"]
    assert "secret" not in str(error)
    assert ["unexpected_error"] == [event["event"] for event in service.log.events]


async def test_bytes_that_are_no_message_are_the_callers_mistake(service: Service) -> None:
    """And so is a call without a message."""
    raw: Any = service.channel.unary_unary("/microtome.v1.EmbeddingService/Embed")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw(b"\xff\xff\xff")
    assert "BAD_REQUEST" == reason_of(status_of(caught.value))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.channel.stream_unary("/microtome.v1.EmbeddingService/Embed")(iter(()))
    assert "BAD_REQUEST" == reason_of(status_of(caught.value))


async def test_a_message_larger_than_a_request_may_be_is_not_read(service: Service) -> None:
    """The library itself refuses it, by its length."""
    error = await failure(service, request(b"x" * 100_000))
    assert StatusCode.RESOURCE_EXHAUSTED == error.code()


async def test_no_answer_in_time(decoders: ThreadPoolExecutor) -> None:
    """Our deadline is told with its reason; a caller's shorter one cancels the work."""
    async with service_with(decoders, deadline=0.05) as service:
        service.server.gate.clear()
        error = await failure(service, request(png()))
        assert (StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED") == (error.code(), reason_of(status_of(error)))


async def test_a_caller_that_goes_away_cancels_its_work(service: Service) -> None:
    """What no caller waits for is not computed."""
    service.server.gate.clear()
    call = service.stub.Embed(request(png()))
    await service.server.called(1)
    call.cancel()
    await service.until(lambda: service.counted("microtome_requests_total", route="grpc:Embed", status="499"))
    assert 0 == service.counted("microtome_images_in_flight")


async def test_more_calls_than_allowed_are_refused_with_a_reason(decoders: ThreadPoolExecutor) -> None:
    """RESOURCE_EXHAUSTED, before their message is read; so are images and bytes beyond what may be in flight."""
    async with service_with(decoders, open_calls=1) as service:
        await _refused_beside_another(service)
    async with service_with(decoders, images_in_flight=1) as service:
        await _refused_beside_another(service)
    async with service_with(decoders, body_bytes_in_flight=1_000) as service:
        await _refused_beside_another(service)


async def _refused_beside_another(service: Service) -> None:
    service.server.gate.clear()
    first = asyncio.ensure_future(service.stub.Embed(request(png(1))))
    await service.server.called(1)
    error = await failure(service, request(png(2)))
    assert (StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED") == (error.code(), reason_of(status_of(error)))
    service.server.gate.set()
    assert 1 == len((await first).results)


async def test_calls_are_counted_timed_and_logged_as_requests(decoders: ThreadPoolExecutor) -> None:
    """Under the method's name, with the HTTP status that the code stands for; the caller's id is kept."""
    async with service_with(decoders, log_access=True) as service:
        call = service.stub.Embed(request(png()), metadata=(("x-request-id", "mine"),))
        await call
        assert "mine" == dict(await call.trailing_metadata())["x-request-id"]
        await failure(service, request(png(), model="other"))
        for status in ("200", "404"):
            assert 1 == service.counted("microtome_requests_total", route="grpc:Embed", status=status)
        assert 2 == service.counted("microtome_request_seconds_count", route="grpc:Embed")
        good, bad = service.log.events
        assert ("request", "grpc:Embed", "OK", 1, "toy") == tuple(
            good[name] for name in ("event", "route", "status", "images", "model")
        )
        assert "NOT_FOUND" == bad["status"]


async def test_models_are_listed_and_described(service: Service) -> None:
    """Each in its own words, the whole manifest included."""
    (model,) = (await service.stub.ListModels(pb.ListModelsRequest())).models
    assert ("toy", True, 1, "mean", 4) == (
        *(model.name, model.ready, model.version),
        *(model.default_output, model.max_batch_size),
    )
    assert ["mean", "corner"] == [output.name for output in model.outputs]
    assert [1] == list(model.versions)
    assert '"toy"' in model.manifest_json
    assert model == (await service.stub.GetModel(pb.GetModelRequest(name="toy"))).model
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.GetModel(pb.GetModelRequest(name="other"))
    assert "UNKNOWN_MODEL" == reason_of(status_of(caught.value))


@pytest.mark.parametrize(
    ("enum", "prefix", "words"),
    [(pb.Dtype, "DTYPE_", Dtype), (pb.CacheUse, "CACHE_USE_", CacheUse), (pb.OnError, "ON_ERROR_", OnError)],
)
def test_the_contracts_enums_have_the_words_of_the_core(enum: Any, prefix: str, words: object) -> None:
    """Names are turned into words, so a new name in the contract needs a word in the core."""
    names: list[str] = enum.keys()
    assert {"unspecified", *get_args(words)} == {name.removeprefix(prefix).lower() for name in names}


async def test_texts_are_embedded_beside_images(service: Service) -> None:
    """Each by its tower, in the order of the request; the answer names both versions, of one space."""
    pair = towers()
    service.server.current, service.server.words = pair.of("Image"), pair.of("Text")
    items = request(pb.Image(text="cat"), png(), model="pair")
    answer = await service.stub.Embed(items)
    assert ["text", "image"] == [result.tower for result in answer.results]
    assert [99, 97, 116] == numbers(answer.results[0].embeddings[0]).tolist()
    assert [("toy", "image"), ("words", "text")] == [(tower.name, tower.tower) for tower in answer.towers]
    assert answer.model == answer.towers[0]
    assert {pair.of("Text").manifest.space} == {tower.space for tower in answer.towers}
    alone = await service.stub.Embed(request(pb.Image(text="cat"), model="pair"))
    assert (["words"], pb.CACHE_RESULT_HIT) == ([t.name for t in alone.towers], alone.results[0].embeddings[0].cache)
    plain = await failure(service, request(png(), pb.Image(text="cat"), model="toy"))
    assert (StatusCode.INVALID_ARGUMENT, "UNSUPPORTED_MODALITY") == (plain.code(), reason_of(status_of(plain)))
    assert "Text 1: " in str(plain.details())
    cropped = pb.Image(text="cat", crops=[pb.Crop(x=0, y=0, width=1, height=1)])
    assert "`crops`" in str((await failure(service, request(cropped, model="pair"))).details())
    listed = {model.name: model for model in (await service.stub.ListModels(pb.ListModelsRequest())).models}
    assert ["toy", "words", "pair"] == list(listed)
    assert listed["pair"] == (await service.stub.GetModel(pb.GetModelRequest(name="pair"))).model
    assert ["toy", "words"] == [tower.name for tower in listed["pair"].towers]
    assert ("pair", "text", listed["pair"].space) == (
        listed["words"].family, listed["words"].tower, listed["words"].space
    )  # fmt: skip


async def test_texts_are_streamed_beside_images(service: Service) -> None:
    """Each answer names its tower; what is wrong with a text is its own, without a number."""
    pair = towers()
    service.server.current, service.server.words = pair.of("Image"), pair.of("Text")
    messages = [
        pb.EmbedStreamRequest(options=pb.EmbedOptions(model="pair"), id="a", image=pb.Image(text="cat")),
        pb.EmbedStreamRequest(id="b", image=pb.Image(data=png())),
        pb.EmbedStreamRequest(id="c", image=pb.Image(text="cat", crops=[pb.Crop(width=1, height=1)])),
    ]
    found = {answer.id: answer async for answer in service.stub.EmbedStream(iter(messages))}
    assert found.pop("c").result.error.message.startswith("Expected `crops` with an image")
    assert {"a": ("words", "text"), "b": ("toy", "image")} == {
        name: (answer.model.name, answer.result.tower) for name, answer in found.items()
    }
    assert [99, 97, 116] == numbers(found["a"].result.embeddings[0]).tolist()
