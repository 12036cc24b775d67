"""Whatever a model server answers is a vector that can be right, or an error of ours; read over real connections."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import numpy as np
import orjson
import pytest
from google.protobuf.wrappers_pb2 import Int64Value
from grpc import StatusCode

from microtome import fast_resizing
from microtome.errors import (
    DeadlineExceeded,
    ModelNotReady,
    ModelServerDown,
    ModelServerFault,
    Overloaded,
    ServiceError,
    UnknownVersion,
)
from microtome.manifest import Manifest, ModelCard
from microtome.tfserving.v1.model_status_pb2 import GetModelStatusResponse, ModelVersionStatus
from microtome.tfserving.v1.predict_pb2 import ModelSpec, PredictRequest, PredictResponse
from microtome.tfserving.v1.tensor_pb2 import DataType, Tensor, TensorShape
from service.model_server.client import ModelServerClient
from service.model_server.predict_encoding import pixels_tensor
from service.model_server.registry import ModelRegistry
from service.model_server.replicas import Replicas
from service.model_server.versions import VersionRefused
from service.model_server.watcher import WatchTiming
from service.telemetry.metrics import Metrics
from tests.fakes.model_server import SIZE, card
from tests.unit.service.http.conftest import KeptLog

Answer = Callable[[PredictRequest, Any], Awaitable[bytes]]

MANIFEST = card().manifest
PIXELS = [np.zeros((SIZE, SIZE, 3), np.uint8)] * 2
OTHER = replace(MANIFEST, fingerprint="sha256:" + 64 * "f")
"""Another model, with outputs of the same names."""

FAST = WatchTiming(poll=0.02, retry=0.02)
WHOLE = np.arange(6, dtype="<f4").tobytes()


def answered(outputs: dict[str, Tensor], version: int = 1) -> bytes:
    """Write an answer to Predict."""
    return PredictResponse(
        model_spec=ModelSpec(name="toy", version=Int64Value(value=version)), outputs=outputs
    ).SerializeToString()


def tensor(content: bytes = WHOLE, *shape: int, dtype: DataType = DataType.DATA_TYPE_FLOAT) -> Tensor:
    """Write a tensor, of two images' vectors where no shape is said."""
    dims = [TensorShape.Dim(size=size) for size in shape or (2, 3)]
    return Tensor(dtype=dtype, tensor_shape=TensorShape(dim=dims), tensor_content=content)


def described(manifest: Manifest) -> bytes:
    """Write the answer of a version's signature `manifest`."""
    text = Tensor(dtype=DataType.DATA_TYPE_STRING, string_val=[orjson.dumps(manifest)])
    return answered({"manifest": text})


class Serving:
    """TensorFlow Serving's API, with versions whose answers a test says."""

    def __init__(self) -> None:
        self.versions: dict[int, Manifest] = {1: MANIFEST}
        self.answer: Answer | None = None
        self.asked = 0
        self.statuses = 0
        self.server: grpc.aio.Server | None = None

    async def stop(self) -> None:
        """End its server."""
        assert self.server is not None
        await self.server.stop(None)

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        """Handle a method by its path."""
        status = call.method.endswith("/GetModelStatus")
        return grpc.unary_unary_rpc_method_handler(self._status if status else self._predict)

    async def _status(self, _: bytes, __: Any) -> bytes:
        self.statuses += 1
        states = [ModelVersionStatus(version=version, state="STATE_AVAILABLE") for version in self.versions]
        return GetModelStatusResponse(model_version_status=states).SerializeToString()

    async def _predict(self, data: bytes, context: Any) -> bytes:
        self.asked += 1
        request = PredictRequest.FromString(data)
        version = request.model_spec.version.value
        if request.model_spec.signature_name == "manifest":
            return described(self.versions[version])
        (rows, *_) = (d.size for d in request.inputs["images"].tensor_shape.dim)
        if self.answer is not None and rows == len(PIXELS):
            return await self.answer(request, context)
        dims = {"mean": 3, "corner": 4}
        vectors = {name: tensor(bytes(4 * rows * dims[name]), rows, dims[name]) for name in request.output_filter}
        return answered(vectors, version)


async def started(serving: Serving, port: int = 0) -> tuple[grpc.aio.Server, int]:
    """Serve, and return the port."""
    server = grpc.aio.server()
    handler: Any = type("Handler", (grpc.GenericRpcHandler,), {"service": lambda _, call: serving.service(call)})()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    serving.server = server
    return server, port


@asynccontextmanager
async def catalogue_over(
    serving: Serving, log: KeptLog, timing: WatchTiming = FAST, *, port: int = 0
) -> AsyncIterator[ModelRegistry]:
    """A catalogue that looks after one model there, and has found it."""
    server, port = await started(serving, port)
    rpc = Replicas([f"127.0.0.1:{port}"])
    catalogue = ModelRegistry(rpc, ["toy"], timing=timing, metrics=Metrics(), log=log)
    keeping = asyncio.create_task(catalogue.run())
    try:
        async with asyncio.timeout(20):
            while catalogue.cards()["toy"] is None:  # noqa: ASYNC110, polled like a probe
                await asyncio.sleep(0.01)
        yield catalogue
        assert not keeping.done()
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        await rpc.close()
        await server.stop(None)


async def failure(catalogue: ModelRegistry, name: str = "mean") -> ServiceError | None:
    """Ask for the vectors of two images, and return what is wrong with the answer."""
    try:
        await catalogue.infer(catalogue.card("toy"), [name], PIXELS)
    except ServiceError as error:
        return error
    return None


NOT_FINITE = np.array([1, 2, 3, 4, np.nan, 6], "<f4").tobytes()

WRONG = {
    "no message": b"\xff\xff\xff\xff",
    "no outputs": answered({}),
    "another output": answered({"corner": tensor()}),
    "another version": answered({"mean": tensor()}, version=2),
    "another type": answered({"mean": tensor(dtype=DataType.DATA_TYPE_INT32)}),
    "no shape": answered({"mean": Tensor(dtype=DataType.DATA_TYPE_FLOAT, tensor_content=WHOLE)}),
    "no images": answered({"mean": tensor(b"", 0, 3)}),
    "fewer images": answered({"mean": tensor(WHOLE[:12], 1, 3)}),
    "another dimension": answered({"mean": tensor(WHOLE[:16], 2, 2)}),
    "a shape that is not the content's": answered({"mean": tensor(WHOLE, 2, 4)}),
    "a negative shape": answered({"mean": tensor(WHOLE, 2, -3)}),
    "less content": answered({"mean": tensor(WHOLE[:-4])}),
    "torn content": answered({"mean": tensor(WHOLE[:-1])}),
    "more content": answered({"mean": tensor(WHOLE + b"1234")}),
    "not finite": answered({"mean": tensor(NOT_FINITE)}),
}


async def test_what_cannot_be_right_is_the_model_servers_fault() -> None:
    """Whichever of its parts is wrong; and the next answer is read as ever."""
    serving = Serving()
    async with catalogue_over(serving, KeptLog()) as catalogue:
        for what, wrong in WRONG.items():

            async def answer(_: PredictRequest, __: Any, wrong: bytes = wrong) -> bytes:
                return wrong

            serving.answer = answer
            error = await failure(catalogue)
            assert type(error) is ModelServerFault, (what, error)
            assert (error.rows == {1}) == (what == "not finite"), what
        serving.answer = None
        assert await failure(catalogue) is None


FULL = "The batch scheduling queue to which this task was submitted is full; currently 2 batches enqueued"

STATUSES: list[tuple[StatusCode, str, type[ServiceError]]] = [
    (StatusCode.INVALID_ARGUMENT, "Task size 9 is larger than maximum input batch size 8", ModelServerFault),
    (StatusCode.FAILED_PRECONDITION, 'Serving signature key "x" not found.', ModelServerFault),
    (StatusCode.INTERNAL, "Tensor concat operation failed: x", ModelServerFault),
    (StatusCode.UNIMPLEMENTED, "", ModelServerFault),
    (StatusCode.UNAVAILABLE, FULL, Overloaded),
    (StatusCode.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue", Overloaded),
    (StatusCode.RESOURCE_EXHAUSTED, "OOM when allocating tensor with shape[1]", Overloaded),
    (StatusCode.RESOURCE_EXHAUSTED, "", Overloaded),
    (StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for notification", DeadlineExceeded),
    (StatusCode.NOT_FOUND, "Servable not found for request: Specific(toy, 1)", ModelNotReady),
    (StatusCode.UNAVAILABLE, "failed to connect to all addresses; x", ModelServerDown),
]


@pytest.mark.parametrize(("code", "details", "kind"), STATUSES)
async def test_each_status_has_its_meaning(code: StatusCode, details: str, kind: type[ServiceError]) -> None:
    """The same code may mean several things; and what the model server said is not told to callers."""
    serving = Serving()

    async def answer(_: PredictRequest, context: Any) -> bytes:
        await context.abort(code, details)
        raise AssertionError

    async with catalogue_over(serving, KeptLog()) as catalogue:
        serving.answer = answer
        error = await failure(catalogue)
    assert type(error) is kind, error
    assert not details or details not in str(error)


BROKEN = {
    "an empty window": replace(MANIFEST, input=replace(MANIFEST.pixels, height=0)),
    "batches of nothing": replace(MANIFEST, max_batch_size=0),
    "no such output": replace(MANIFEST, default_output="nix"),
    "another schema": replace(MANIFEST, schema=3),  # type: ignore[arg-type]  # on purpose
    "no golden vectors": replace(MANIFEST, schema=2),
    "a window beyond memory": replace(MANIFEST, input=replace(MANIFEST.pixels, height=1 << 40, width=1 << 40)),
}


async def test_a_version_that_is_broken_is_passed_over() -> None:
    """However it is: requests stay with the one in use, and the next that works is taken up."""
    serving, log = Serving(), KeptLog()
    async with catalogue_over(serving, log) as catalogue:
        for version, manifest in enumerate(BROKEN.values(), 2):
            serving.versions = {1: MANIFEST, version: manifest}
            async with asyncio.timeout(20):
                while log.events[-1].get("version") != version:  # noqa: ASYNC110, polled like a log
                    await asyncio.sleep(0.01)
            assert log.events[-1]["event"] == "model_version_refused"
            assert catalogue.card("toy").version == 1
            assert {"toy": None} == catalogue.readiness()
        serving.versions[99] = MANIFEST
        async with asyncio.timeout(20):
            while catalogue.card("toy").version != 99:  # noqa: ASYNC110, polled like a probe
                await asyncio.sleep(0.01)


async def test_a_second_try_has_what_the_first_has_left_of_the_time() -> None:
    """Another replica is asked, and told that its answer is not waited for beyond the caller's deadline."""
    servings = [Serving(), Serving()]
    servers = [await started(serving) for serving in servings]
    rpc = Replicas([f"127.0.0.1:{port}" for _, port in servers])
    left: list[float] = []

    async def answer(_: PredictRequest, context: Any) -> bytes:
        left.append(context.time_remaining())
        if len(left) == 1:
            await asyncio.sleep(0.2)
            await context.abort(StatusCode.NOT_FOUND, "Servable not found for request: Specific(toy, 1)")
        return answered({"mean": tensor()})

    for serving in servings:
        serving.answer = answer
    await rpc.versions("toy", timeout=5)
    await rpc.predict(card(), {"images": pixels_tensor(PIXELS)}, ["mean"], timeout=20)
    await rpc.close()
    for server, _ in servers:
        await server.stop(None)
    assert 2 == len(left)
    # A deadline travels as a rounded timeout.
    assert left[1] <= left[0] - 0.19


async def unknown(catalogue: ModelRegistry, version: int) -> bool:
    """Whether a version cannot be asked for."""
    try:
        await catalogue.card_of("toy", version)
    except UnknownVersion:
        return True
    return False


async def test_a_version_asked_for_by_number_is_read_again() -> None:
    """Deleted and published again while the connection stays: its requests belong to the new model soon."""
    serving = Serving()
    serving.versions = {1: MANIFEST, 2: MANIFEST}
    async with catalogue_over(serving, KeptLog(), replace(FAST, ask_after=0.05)) as catalogue:
        assert catalogue.card("toy").version == 2
        assert MANIFEST.fingerprint == (await catalogue.card_of("toy", 1)).manifest.fingerprint
        serving.versions[1] = OTHER
        async with asyncio.timeout(20):
            while (await catalogue.card_of("toy", 1)).manifest.fingerprint != OTHER.fingerprint:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        serving.versions[2] = OTHER
        async with asyncio.timeout(20):
            while catalogue.card("toy").manifest.fingerprint != OTHER.fingerprint:  # noqa: ASYNC110, as a probe
                await asyncio.sleep(0.01)
        assert catalogue.card("toy").version == 2
        del serving.versions[1]
        async with asyncio.timeout(20):
            while not await unknown(catalogue, 1):  # noqa: ASYNC110, as above
                await asyncio.sleep(0.01)


async def test_a_server_that_was_replaced_answers_nothing_for_the_old_model() -> None:
    """Between two polls, at the same address, under the same number: the connection is another one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    old, new = Serving(), Serving()
    new.versions = {1: OTHER}
    async with catalogue_over(old, KeptLog(), WatchTiming(poll=1000, retry=1000), port=port) as catalogue:
        before = catalogue.card("toy")
        assert await failure(catalogue) is None
        await old.stop()
        server, _ = await started(new, port)
        error: ServiceError | None = ModelServerDown("")
        async with asyncio.timeout(20):
            while isinstance(error, ModelServerDown):
                error = await failure(catalogue)
        assert isinstance(error, ModelNotReady)
        after = await catalogue.renewed(before)
        assert OTHER.fingerprint == after.manifest.fingerprint
        assert await failure(catalogue) is None
        await server.stop(None)


async def test_a_version_that_admission_refuses_is_asked_once_for_each_connection() -> None:
    """Its reason reaches the caller; another process at the address is asked before it serves."""
    asked: list[int] = []
    refused = True

    async def admit(card: ModelCard, _: str, start: int, __: ModelServerClient) -> ModelCard:
        asked.append(start)
        if refused:
            raise VersionRefused("It deviates.", lasting=True)
        return card

    serving = Serving()
    server, port = await started(serving)
    rpc = Replicas([f"127.0.0.1:{port}"], admit=admit)
    metrics = Metrics()
    catalogue = ModelRegistry(rpc, ["toy"], timing=FAST, metrics=metrics, log=KeptLog())
    keeping = asyncio.create_task(catalogue.run())
    refusals = metrics.golden_refusals.labels("toy")
    async with asyncio.timeout(20):
        while not (refusals._value.get() and serving.asked > 5):  # noqa: ASYNC110, polled like a probe
            await asyncio.sleep(0.01)
        with pytest.raises(ModelNotReady, match="It deviates"):
            catalogue.card("toy")
        with pytest.raises(ModelNotReady, match="It deviates"):
            await catalogue.card_of("toy", 1)
        assert len(asked) == 1
        refused = False
        await serving.stop()
        server, _ = await started(serving, port)
        while catalogue.cards()["toy"] is None or refusals._value.get():  # noqa: ASYNC110, as above
            await asyncio.sleep(0.01)
    assert asked[0] < asked[-1]
    assert await failure(catalogue) is None
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
    await rpc.close()
    await server.stop(None)


async def test_a_version_whose_images_cannot_be_prepared_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway says so of this model, and serves the others."""
    monkeypatch.setattr(fast_resizing, "_library", lambda: None)
    serving = Serving()
    fast = replace(MANIFEST, input=replace(MANIFEST.pixels, decode="fast"), fingerprint=OTHER.fingerprint)
    async with catalogue_over(serving, KeptLog()) as catalogue:
        serving.versions[2] = fast
        with pytest.raises(ModelNotReady, match="Version 2 of model 'toy' is not served: decode: fast needs cykooz"):
            await catalogue.card_of("toy", 2)
        assert catalogue.card("toy").version == 1
        assert await failure(catalogue) is None


async def test_a_server_where_a_new_version_deviates_is_not_waited_for() -> None:
    """The others use it at once, not after MICROTOME_VERSION_WAIT; unless most of the servers refuse it."""
    servings = [Serving() for _ in range(3)]
    servers = [await started(serving) for serving in servings]
    targets = [f"127.0.0.1:{port}" for _, port in servers]
    bad: set[str] = set(targets[1:])

    async def admit(card: ModelCard, target: str, _: int, __: ModelServerClient) -> ModelCard:
        if card.version > 1 and target in bad:
            raise VersionRefused("It deviates.", lasting=True)
        return card

    rpc, log = Replicas(targets, admit=admit), KeptLog()
    catalogue = ModelRegistry(rpc, ["toy"], timing=replace(FAST, switch_after=1000), metrics=Metrics(), log=log)
    keeping = asyncio.create_task(catalogue.run())

    async def uses(version: int) -> None:
        while (card := catalogue.cards()["toy"]) is None or card.version != version:  # noqa: ASYNC110, polled like a probe
            await asyncio.sleep(0.01)

    async with asyncio.timeout(20):
        await uses(1)
        for serving in servings:
            serving.versions[2] = MANIFEST
        while rpc.refusing("toy") < 2:  # noqa: ASYNC110, as above
            await asyncio.sleep(0.01)
        asked = servings[0].statuses
        while servings[0].statuses < asked + 3:  # noqa: ASYNC110, as above
            await asyncio.sleep(0.01)
        assert catalogue.card("toy").version == 1
        bad.remove(targets[1])
        for serving in servings:
            serving.versions[3] = MANIFEST
        await uses(3)
    assert await failure(catalogue) is None
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
    await rpc.close()
    for server, _ in servers:
        await server.stop(None)


async def test_searches_for_a_successor_are_shared() -> None:
    """200 requests that met the end of the same version ask the model server as often as one."""
    serving = Serving()
    async with catalogue_over(serving, KeptLog(), replace(FAST, poll=1000, retry=1000)) as catalogue:
        card = catalogue.card("toy")
        before = serving.statuses
        found = await asyncio.gather(*(catalogue.renewed(card) for _ in range(200)))
        assert all(one is card for one in found)
        assert serving.statuses - before <= 4
        serving.versions = {2: MANIFEST}
        found = await asyncio.gather(*(catalogue.renewed(card) for _ in range(200)))
        assert {one.version for one in found} == {2}


async def test_a_version_that_is_checked_for_long_after_a_new_connection_is_not_left_for_an_older_one() -> None:
    """The older one has been checked first; requests for the newer one wait."""
    held = asyncio.Event()
    held.set()
    asked: list[tuple[int, int]] = []

    async def admit(card: ModelCard, _: str, start: int, __: ModelServerClient) -> ModelCard:
        asked.append((card.version, start))
        if card.version == 2:
            await held.wait()
        return card

    serving = Serving()
    serving.versions = {1: MANIFEST, 2: MANIFEST}
    server, port = await started(serving)
    rpc = Replicas([f"127.0.0.1:{port}"], admit=admit)
    timing = replace(FAST, call=0.2, ask_after=0.01)
    catalogue = ModelRegistry(rpc, ["toy"], timing=timing, metrics=Metrics(), log=KeptLog())
    keeping = asyncio.create_task(catalogue.run())
    async with asyncio.timeout(20):
        while catalogue.cards()["toy"] is None:  # noqa: ASYNC110, polled like a probe
            await asyncio.sleep(0.01)
        assert catalogue.card("toy").version == 2
        held.clear()
        before = max(start for _, start in asked)
        await serving.stop()
        server, _ = await started(serving, port)
        while not any(version == 1 and start > before for version, start in asked):  # noqa: ASYNC110, as above
            await asyncio.sleep(0.01)
        polls = serving.asked
        while serving.asked < polls + 3:  # noqa: ASYNC110, as above
            await asyncio.sleep(0.01)
        assert catalogue.card("toy").version == 2
        held.set()
    assert await failure(catalogue) is None
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
    await rpc.close()
    await server.stop(None)
