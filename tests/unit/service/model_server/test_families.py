"""Two towers are used together while they have one space, and a text tower only with its tokenizer; over real calls."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import orjson
import pytest
from grpc import StatusCode

from microtome.errors import BadRequest, ModelNotReady, ServiceError, UnknownModel
from microtome.manifest import Manifest, TokenizerSpec, TokensSpec
from microtome.tfserving.v1.model_status_pb2 import GetModelStatusRequest, GetModelStatusResponse, ModelVersionStatus
from microtome.tfserving.v1.predict_pb2 import PredictRequest
from microtome.tfserving.v1.tensor_pb2 import DataType, Tensor
from service.model_server.acceptance import Acceptance
from service.model_server.registry import ModelRegistry
from service.model_server.replicas import Replicas
from service.telemetry.metrics import Metrics
from tests.fakes.model_server import towers
from tests.unit.service.http.conftest import KeptLog
from tests.unit.service.model_server.test_registry import FAST, Serving, answered, described, started, tensor

WORDS = orjson.dumps(
    {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"?": 1, "a": 2, "cat": 3, "dog": 4}, "unk_token": "?"},
    }
)
"""A tokenizer of four words."""

PACKED = gzip.compress(WORDS)
SPEC = TokensSpec(5, 8, 0, lowercase=True, tokenizer=TokenizerSpec(sha256(WORDS).hexdigest(), len(WORDS), 3))


def manifests(space: int) -> tuple[Manifest, Manifest]:
    """Return the manifests of an image tower and a text tower of one space."""
    pair = towers(space)
    return pair.of("Image").manifest, replace(pair.of("Text").manifest, input=SPEC)


class Towers(Serving):
    """TensorFlow Serving's API, with versions of two models."""

    def __init__(self) -> None:
        super().__init__()
        image, text = manifests(1)
        self.models: dict[str, dict[int, Manifest]] = {"toy": {1: image}, "words": {1: text}}
        self.packed = PACKED
        self.fetched: list[int] = []
        """Parts of the tokenizer that have been asked for."""

    async def _status(self, data: bytes, context: Any) -> bytes:
        name = GetModelStatusRequest.FromString(data).model_spec.name
        states = [ModelVersionStatus(version=version, state="STATE_AVAILABLE") for version in self.models[name]]
        return GetModelStatusResponse(model_version_status=states).SerializeToString()

    async def _predict(self, data: bytes, context: Any) -> bytes:
        request = PredictRequest.FromString(data)
        spec = request.model_spec
        version = spec.version.value
        if version not in self.models[spec.name]:
            await context.abort(StatusCode.NOT_FOUND, "no such version")
        if spec.signature_name == "manifest":
            return described(self.models[spec.name][version])
        if spec.signature_name == "tokenizer":
            (part,) = np.frombuffer(request.inputs["query"].tensor_content, "<i4").tolist()
            self.fetched.append(part)
            size = -(-len(self.packed) // 3)
            piece = self.packed[part * size : (part + 1) * size]
            return answered({"tokenizer": Tensor(dtype=DataType.DATA_TYPE_STRING, string_val=[piece])}, version)
        alias = "images" if spec.name == "toy" else "tokens"
        given = request.inputs[alias]
        rows = given.tensor_shape.dim[0].size
        found = np.full((rows, 3), version, "<f4")
        if alias == "tokens":
            found[:, 1:] = np.frombuffer(given.tensor_content, "<i4").reshape(rows, -1)[:, :2]
        return answered({name: tensor(found.tobytes(), rows, 3) for name in request.output_filter}, version)


@asynccontextmanager
async def registry_over(serving: Towers, log: KeptLog, *models: str) -> AsyncIterator[ModelRegistry]:
    """A registry of both models."""
    _, port = await started(serving)
    metrics = Metrics()
    rpc = Replicas([f"127.0.0.1:{port}"], admit=Acceptance({}, metrics, log).admit)
    registry = ModelRegistry(rpc, models or ("toy", "words"), timing=FAST, metrics=metrics, log=log)
    keeping = asyncio.create_task(registry.run())
    try:
        yield registry
        assert not keeping.done()
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        await rpc.close()
        await serving.stop()


async def until(met: Callable[[], object]) -> None:
    """Wait for something."""
    async with asyncio.timeout(20):
        while not met():  # noqa: ASYNC110, polled like a probe
            await asyncio.sleep(0.01)


def used(registry: ModelRegistry) -> list[int]:
    """Return the versions of the pair in use; none before there is one."""
    pair = family.towers if (family := registry.families().get("pair")) else None
    return [card.version for card in pair.cards] if pair else []


@pytest.fixture
def log() -> KeptLog:
    """A log that can be read."""
    return KeptLog()


@pytest.fixture
def serving() -> Towers:
    """Both towers of one space."""
    return Towers()


async def test_a_family_is_found_by_its_name(serving: Towers, log: KeptLog) -> None:
    """Its towers are those of one space, its image tower stands for it, and it is as ready as they are."""
    async with registry_over(serving, log) as registry:
        await until(lambda: used(registry))
        pair = registry.towers("pair")
        assert ["toy", "words"] == [card.name for card in pair.cards]
        assert pair.image is registry.card("pair") is registry.card("toy")
        assert (None, pair.text) == (registry.towers("words").image, registry.towers("words").text)
        assert {"toy": None, "words": None, "pair": None} == registry.readiness()
        assert pair == registry.towers("")
        with pytest.raises(BadRequest, match="toy or words"):
            await registry.card_of("pair", 1)
        with pytest.raises(UnknownModel, match="'pair', 'toy', 'words'"):
            registry.towers("pear")


async def test_a_text_tower_comes_with_its_tokenizer(serving: Towers, log: KeptLog) -> None:
    """It is fetched in parts, once for all versions that name it, and its ids follow the manifest."""
    async with registry_over(serving, log) as registry:
        await until(lambda: used(registry))
        words = registry.card("words")
        assert words.tokenizer is not None
        assert [2, 3, 0, 0, 0] == words.tokenizer("A cat").tolist()
        assert [4, 4, 4, 4, 3] == words.tokenizer("dog " * 9 + "cat").tolist()
        ids = [words.tokenizer("a dog"), words.tokenizer("cat")]
        found = (await registry.infer(words, ["mean"], ids))["mean"]
        assert [[1, 2, 4], [1, 3, 0]] == found.tolist()
        serving.models["words"][2] = replace(manifests(1)[1], fingerprint="sha256:" + 64 * "e")
        await until(lambda: registry.card("words").version == 2)
        assert [0, 1, 2] == serving.fetched


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "Expected the tokenizer of sha256"),
        ({"size": len(WORDS) - 2}, "Expected the tokenizer of sha256"),
        ({"size": 1 << 40}, "at most"),
        ({"parts": 2}, "tokenizer of sha256|gzip"),
        ({"parts": 0}, "0 parts"),
    ],
)
async def test_a_version_whose_tokenizer_cannot_be_had_is_not_used(
    serving: Towers, log: KeptLog, change: dict[str, Any], message: str
) -> None:
    """Its model is not ready and says why; the image tower is, by its own name, and the family is asked for again."""
    spec = replace(SPEC, tokenizer=replace(SPEC.tokenizer, **change))
    serving.models["words"][1] = replace(manifests(1)[1], input=spec)
    async with registry_over(serving, log) as registry:
        await until(lambda: registry.readiness()["toy"] is None and registry.readiness()["words"])
        await until(lambda: "its tokenizer" in str(registry.readiness()["words"]))
        with pytest.raises(ServiceError, match=message):
            registry.card("words")
        with pytest.raises(ModelNotReady, match="'words' has not answered"):
            registry.towers("pair")
        assert {"toy", "words"} == registry.readiness().keys()


async def test_one_tower_alone_that_is_replaced_waits_for_the_other(serving: Towers, log: KeptLog) -> None:
    """The pair before goes on while both of its versions are served, then the new one is used, at one time."""
    async with registry_over(serving, log) as registry:
        await until(lambda: used(registry) == [1, 1])
        serving.models["toy"][2] = manifests(2)[0]
        await until(lambda: registry.card("toy").version == 2)
        assert [1, 1] == used(registry)
        assert 1 == registry.card("pair").version
        await registry.infer(registry.card("pair"), ["mean"], [np.zeros((8, 8, 3), np.uint8)])
        serving.models["words"][2] = manifests(2)[1]
        await until(lambda: used(registry) == [2, 2])
        assert registry.readiness()["pair"] is None


async def test_without_a_pair_a_family_is_not_ready(serving: Towers, log: KeptLog) -> None:
    """The last pair's cached vectors are answered, nothing new is computed, the reason is told; then it recovers."""
    async with registry_over(serving, log) as registry:
        await until(lambda: used(registry) == [1, 1])
        old = registry.card("pair")
        serving.models["toy"] = {2: manifests(2)[0]}
        await until(lambda: registry.readiness()["pair"] is not None)
        assert old is registry.card("pair")
        with pytest.raises(ModelNotReady):
            await registry.infer(old, ["mean"], [np.zeros((8, 8, 3), np.uint8)])
        with pytest.raises(ModelNotReady, match="one space now; there are toy 2, words 1"):
            await registry.renewed(old, "pair")
        assert 2 == (await registry.renewed(old)).version
        serving.models["words"] = {2: manifests(2)[1]}
        await until(lambda: registry.readiness()["pair"] is None)
        assert [2, 2] == used(registry)


async def test_a_gateway_that_starts_between_takes_the_pair_that_is_whole(serving: Towers, log: KeptLog) -> None:
    """As gateways that run do: the older versions, if those are the ones that fit."""
    serving.models["toy"][2] = manifests(2)[0]
    async with registry_over(serving, log) as registry:
        await until(lambda: used(registry))
        assert ([1, 1], 2) == (used(registry), registry.card("toy").version)


async def test_a_model_has_precedence_over_a_family_of_its_name(serving: Towers, log: KeptLog) -> None:
    """It goes on answering, and the log says so once."""
    for versions in serving.models.values():
        versions[1] = replace(versions[1], family="toy")
    async with registry_over(serving, log) as registry:
        await until(lambda: registry.readiness() == {"toy": None, "words": None})
        await until(lambda: any(line["event"] == "model_family_hidden" for line in log.events))
        assert not registry.families()
        assert registry.card("toy").version == 1
        assert registry.towers("toy").text is None


async def test_a_family_ends_with_its_other_tower(serving: Towers, log: KeptLog) -> None:
    """A tower whose other one is of no family any more is a model as any, and the family's name is unknown."""
    async with registry_over(serving, log) as registry:
        await until(lambda: used(registry))
        alone = replace(manifests(1)[1], family=None, space=None, fingerprint="sha256:" + 64 * "d")
        serving.models["words"] = {2: alone}
        await until(lambda: not registry.families())
        assert {"toy": None, "words": None} == registry.readiness()
        with pytest.raises(UnknownModel, match="'pair'"):
            registry.card("pair")


async def test_a_name_that_may_be_a_familys_is_asked_for_again(serving: Towers, log: KeptLog) -> None:
    """While a model has not answered it is not known whose families there are: not the caller's fault."""
    serving.models["words"].clear()
    serving.models["toy"].clear()
    async with registry_over(serving, log) as registry:
        with pytest.raises(ModelNotReady, match="'toy', 'words' has not answered"):
            registry.towers("pair")
