"""Which servers may serve a version: those that answer its golden vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from google.protobuf.wrappers_pb2 import Int64Value
from numpy.typing import NDArray

from microtome.errors import ModelServerDown, ServiceError
from microtome.golden import golden_pixels, record
from microtome.manifest import ModelCard
from microtome.tfserving.v1.predict_pb2 import ModelSpec, PredictResponse
from microtome.tfserving.v1.tensor_pb2 import DataType, Tensor, TensorShape
from service.model_server.acceptance import Acceptance
from service.model_server.predict_encoding import WireTensor
from service.model_server.versions import IDENTIFY_SECONDS, VersionRefused
from service.telemetry.metrics import Metrics
from tests.fakes.model_server import SIZE, card
from tests.unit.service.http.conftest import KeptLog


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

    def __init__(self, off: float = 0.0, error: ServiceError | None = None) -> None:
        self.off, self.error, self.calls = off, error, 0

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
        assert (model, signature, timeout) == ("toy", "serving_default", IDENTIFY_SECONDS)
        self.calls += 1
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


async def test_one_that_answers_its_golden_vectors_is_admitted() -> None:
    """After five requests, under its own fingerprint."""
    (verdicts, metrics, log), server, subject = acceptance(), Server(), proven()
    assert await verdicts.admit(subject, "a:8500", 1, server) == subject
    assert server.calls == 5
    assert [event["event"] for event in log.events] == ["model_version_proved"]
    assert metrics.golden_deviation.labels("toy")._value.get() < 1e-4


async def test_one_that_deviates_is_refused_by_number_and_setting() -> None:
    """And called deviating once for each connection in the log, however often it is asked."""
    (verdicts, metrics, log), off, subject = acceptance(), Server(off=0.01), proven()
    for start in (1, 1, 2):
        with pytest.raises(
            VersionRefused, match=r"by 0.01, where 0.0001 is allowed. MICROTOME_ACCEPT_DEVIATION=toy=0.02 "
        ) as caught:
            await verdicts.admit(subject, "a:8500", start, off)
        assert caught.value.lasting
    assert [(event["event"], event["replica"]) for event in log.events] == [("model_version_deviates", "a:8500")] * 2
    assert metrics.golden_deviation.labels("toy")._value.get() == pytest.approx(0.01, rel=0.1)


async def test_a_server_that_cannot_run_the_model_may_recover() -> None:
    """Its first answer is enough to refuse it, until it is asked again."""
    (verdicts, _, log), broken, subject = acceptance(), Server(off=float("nan")), proven()
    for _ in range(2):
        with pytest.raises(VersionRefused, match="deviates from its golden vectors by inf") as caught:
            await verdicts.admit(subject, "a:8500", 1, broken)
        assert not caught.value.lasting
    assert (broken.calls, len(log.events)) == (2, 1)
    broken.off = 0
    assert await verdicts.admit(subject, "a:8500", 1, broken) == subject


async def test_a_server_that_cannot_be_asked_is_not_refused() -> None:
    """It is asked again."""
    (verdicts, _, log), subject = acceptance(), proven()
    with pytest.raises(ModelServerDown):
        await verdicts.admit(subject, "a:8500", 1, Server(error=ModelServerDown("It is down.")))
    assert log.events == []


@pytest.mark.parametrize("accepted", [{"toy": 0.02}, {"*": 0.02}, {"toy": 0.02, "*": 1e-9}])
async def test_what_is_accepted_has_a_fingerprint_of_its_own(accepted: Mapping[str, float]) -> None:
    """Whichever server computes it, one without deviation too; more than that is refused as ever."""
    (verdicts, _, log), subject = acceptance(accepted), proven()
    for off in (0.0, 0.01):
        served = await verdicts.admit(subject, "a:8500", 1, Server(off=off))
        assert served.manifest.fingerprint == f"{subject.manifest.fingerprint}~0.02"
    assert log.events[-1]["event"] == "model_deviation_accepted"
    with pytest.raises(VersionRefused):
        await verdicts.admit(subject, "b:8500", 1, Server(off=0.03))


async def test_a_manifest_of_version_1_needs_one_answer() -> None:
    """It has nothing to compare, and no fingerprint of its own."""
    (verdicts, _, _), server, plain = acceptance({"*": 0.5}), Server(), card()
    assert await verdicts.admit(plain, "a:8500", 1, server) == plain
    assert server.calls == 1
