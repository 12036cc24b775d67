"""``--mixed_precision=bfloat16``: section 5. Whether it is faster, only a processor with AVX-512 BF16 can show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from modelserver.engines.engine import Engine
from modelserver.engines.openvino_engine import OpenVinoEngine
from modelserver.engines.openvino_runtime import OpenVinoSettings, import_openvino
from modelserver.engines.parallelism import SessionSettings
from modelserver.engines.tensorflow_engine import TensorFlowEngine
from tests.contract.tfserving.requests import images
from tests.contract.tfserving.tiny_models import write_lone


def make_engine(name: str, precision: str) -> Engine:
    """Make one of the engines."""
    if name == "tensorflow":
        return TensorFlowEngine(SessionSettings(mixed_precision=precision))
    return OpenVinoEngine(OpenVinoSettings(mixed_precision=precision))


@pytest.mark.parametrize("engine", ["tensorflow", "openvino"])
def test_5_bfloat16_runs_everywhere_and_stays_close(tmp_path: Path, engine: str) -> None:
    """Cosine of at least 0.9999 against float32, and the answer is float32 still."""
    path = write_lone(tmp_path / "1")
    answers = []
    for precision in ("", "bfloat16"):
        model = make_engine(engine, precision).load(path)
        top = model.signatures["serving_default"].outputs["top"].name
        answers += model.run({"images:0": images(8)}, [top])
        model.close()

    full, mixed = answers
    cosines = (full * mixed).sum(1) / (np.linalg.norm(full, axis=1) * np.linalg.norm(mixed, axis=1))

    assert np.dtype(np.float32) == mixed.dtype
    assert cosines.min() >= 0.9999


@pytest.mark.parametrize(
    "case",
    [
        ("", "float32", ["BF16"], "f32"),
        ("", "float16", ["BF16"], "f32"),
        ("", "bfloat16", ["BF16"], "bf16"),
        ("", "bfloat16", [], "f32"),
        ("bfloat16", "float32", [], "bf16"),
    ],
)
def test_openvino_is_told_the_precision_in_any_case(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: tuple[str, str, list[str], str]
) -> None:
    """Left to itself it takes bfloat16 where the processor can, and vectors of float32 would depend on the machine.

    A version that was exported in bfloat16 has the processor's own; without it, it is not emulated.
    """
    flag, exported, capabilities, hint = case
    core = import_openvino().Core
    told: list[Mapping[str, object]] = []

    def compile_model(self: object, model: object, device: object, properties: Mapping[str, object]) -> object:
        told.append(properties)
        return compiles(self, model, device, properties)

    compiles = core.compile_model
    monkeypatch.setattr(core, "compile_model", compile_model)
    monkeypatch.setattr(core, "get_property", lambda *_: capabilities)
    path = write_lone(tmp_path / "1", manifest=json.dumps({"precision": {"compute": exported}}))
    model = OpenVinoEngine(OpenVinoSettings(mixed_precision=flag)).load(path)
    model.run({"images:0": images(1)}, [model.signatures["serving_default"].outputs["top"].name])
    model.close()

    assert [hint] == [properties["INFERENCE_PRECISION_HINT"] for properties in told]
