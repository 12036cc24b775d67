"""Which replicas may serve a version: those that answer its golden vectors, and no other is waited for."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from google.protobuf.wrappers_pb2 import Int64Value
from numpy.typing import NDArray

from microtome.errors import ModelNotReady, ModelServerDown, ServiceError
from microtome.golden import golden_pixels, record
from microtome.manifest import ModelCard
from microtome.tfserving.v1.predict_pb2 import ModelSpec, PredictResponse
from microtome.tfserving.v1.tensor_pb2 import DataType, Tensor, TensorShape
from service.model_server.acceptance import Acceptance, Replica
from service.model_server.predict_encoding import WireTensor
from service.telemetry.metrics import Metrics
from tests.fakes.model_server import SIZE, card
from tests.unit.service.http.conftest import KeptLog

A, B = Replica("a:8500", 0), Replica("b:8500", 0)


def computed(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """What the toy computes."""
    numbers = pixels.astype(np.float32)
    return {"mean": numbers.mean(axis=(1, 2)), "corner": numbers[:, 0, :4, 0]}


def proven() -> ModelCard:
    """The toy, with golden vectors."""
    plain = card(max_batch_size=8)
    specs = tuple(replace(output, tolerance=1e-4) for output in plain.manifest.outputs)
    golden = record(1, computed(golden_pixels(1, 0, 2, SIZE, SIZE)))
    return ModelCard("toy", 1, replace(plain.manifest, schema=2, outputs=specs, golden=golden))


class Server:
    """Answers Predict by the toy, a little off, not at all, or with an error."""

    def __init__(self, off: float = 0.0, error: ServiceError | None = None, *, frozen: bool = False) -> None:
        self.off, self.error, self.frozen, self.calls = off, error, frozen, 0

    async def predict(
        self,
        model: str,
        version: int,
        signature: str,
        inputs: Mapping[str, WireTensor],
        outputs: Sequence[str],
        *,
        timeout: float,  # noqa: ASYNC109, as the real one
    ) -> PredictResponse:
        """Answer."""
        assert (model, signature, timeout) == ("toy", "serving_default", 5)
        self.calls += 1
        if self.frozen:
            await asyncio.Event().wait()
        if self.error:
            raise self.error
        tensor = Tensor.FromString(b"".join(inputs["images"].pieces))
        shape = [dim.size for dim in tensor.tensor_shape.dim]
        found = computed(np.frombuffer(tensor.tensor_content, np.uint8).reshape(shape))
        return PredictResponse(
            model_spec=ModelSpec(name=model, version=Int64Value(value=version)),
            outputs={name: _tensor(found[name] * (1 + self.off)) for name in outputs},
        )


def _tensor(rows: NDArray[Any]) -> Tensor:
    shape = TensorShape(dim=[TensorShape.Dim(size=size) for size in rows.shape])
    return Tensor(dtype=DataType.DATA_TYPE_FLOAT, tensor_shape=shape, tensor_content=rows.astype("<f4").tobytes())


def acceptance(accepted: Mapping[str, float] | None = None) -> tuple[Acceptance, Metrics, KeptLog]:
    """It, and what it tells."""
    metrics, log = Metrics(), KeptLog()
    return Acceptance(accepted or {}, metrics, log), metrics, log


def passed(verdicts: Acceptance, subject: ModelCard) -> list[Replica]:
    """The replicas that requests may go to."""
    return [one for one in (A, B) if verdicts.passed(one, "toy", 1, subject.manifest.fingerprint)]


async def test_each_replica_is_asked_once_for_each_start() -> None:
    """Five requests; again for a server that has started again."""
    (verdicts, _, log), server, subject = acceptance(), Server(), proven()
    for _ in range(3):
        await verdicts.prove(subject, {A: server}, timeout=5)
    assert (server.calls, passed(verdicts, subject)) == (5, [A])
    await verdicts.prove(subject, {Replica("a:8500", 1): server}, timeout=5)
    assert server.calls == 10
    assert [event["event"] for event in log.events] == ["model_version_proved"] * 2


async def test_one_that_deviates_is_refused_beside_one_that_passes() -> None:
    """With a metric that falls when its server is another one."""
    (verdicts, metrics, log), subject = acceptance(), proven()
    await verdicts.prove(subject, {A: Server()}, timeout=5)
    await verdicts.prove(subject, {A: Server(), B: Server(off=3e-4)}, timeout=5)
    async with asyncio.timeout(10):
        while "model_version_deviates" not in {event["event"] for event in log.events}:  # noqa: ASYNC110, polled like a log
            await asyncio.sleep(0.01)
    assert passed(verdicts, subject) == [A]
    refusals = metrics.golden_refusals.labels("toy")
    assert refusals._value.get() == 1
    verdicts.retain("toy", [1], [A, Replica("b:8500", 1)])
    assert refusals._value.get() == 0


async def test_a_frozen_replica_is_not_waited_for() -> None:
    """Nor one that is down; the first that passes is enough."""
    (verdicts, _, _), subject = acceptance(), proven()
    down = Server(error=ModelServerDown("It is down."))
    async with asyncio.timeout(10):
        await verdicts.prove(subject, {A: Server(frozen=True), B: Server()}, timeout=5)
    assert passed(verdicts, subject) == [B]
    verdicts.close()
    (verdicts, _, _) = acceptance()
    with pytest.raises(ModelServerDown):
        await verdicts.prove(subject, {A: down}, timeout=5)


async def test_a_server_that_fails_is_asked_again_and_one_that_deviates_is_not() -> None:
    """It may recover, and is not called deviating more than once in the log."""
    (verdicts, _, log), broken, off, subject = acceptance(), Server(), Server(off=0.01), proven()
    broken.off = float("nan")
    for _ in range(2):
        with pytest.raises(ModelNotReady, match="deviates from its golden vectors by inf"):
            await verdicts.prove(subject, {A: broken}, timeout=5)
        with pytest.raises(
            ModelNotReady, match=r"by 0.01, where 0.0001 is allowed. MICROTOME_ACCEPT_DEVIATION=toy=0.02 "
        ):
            await verdicts.prove(subject, {B: off}, timeout=5)
    assert (broken.calls, off.calls) == (2, 5)
    assert [event["replica"] for event in log.events] == ["a:8500", "b:8500"]
    broken.off = 0
    await verdicts.prove(subject, {A: broken}, timeout=5)
    assert passed(verdicts, subject) == [A]


@pytest.mark.parametrize("accepted", [{"toy": 0.02}, {"*": 0.02}, {"toy": 0.02, "*": 1e-9}])
async def test_what_is_accepted_has_a_fingerprint_of_its_own(accepted: Mapping[str, float]) -> None:
    """Whichever replica computes it; more than that is refused as ever."""
    (verdicts, _, log), subject = acceptance(accepted), proven()
    served = verdicts.card(subject)
    assert served.manifest.fingerprint == f"{subject.manifest.fingerprint}~0.02"
    await verdicts.prove(served, {A: Server(off=0.01)}, timeout=5)
    assert log.events[-1]["event"] == "model_deviation_accepted"
    assert passed(verdicts, served) == [A]
    assert passed(verdicts, subject) == []
    with pytest.raises(ModelNotReady):
        await verdicts.prove(served, {B: Server(off=0.03)}, timeout=5)


async def test_a_manifest_of_version_1_passes_unasked() -> None:
    """It has nothing to compare, and no fingerprint of its own."""
    (verdicts, _, _), server, plain = acceptance({"*": 0.5}), Server(), card()
    assert verdicts.card(plain) == plain
    await verdicts.prove(plain, {A: server}, timeout=5)
    assert (server.calls, passed(verdicts, plain)) == (0, [A])
