"""``--mixed_precision=bfloat16``: section 5. Whether it is faster, only a processor with AVX-512 BF16 can show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelserver.engines.engine import Engine
from modelserver.engines.openvino_engine import OpenVinoEngine
from modelserver.engines.openvino_runtime import OpenVinoSettings
from modelserver.engines.tensorflow_engine import SessionSettings, TensorFlowEngine
from tests.contract.tfserving.requests import images
from tests.contract.tfserving.tiny_models import write_tiny


def make_engine(name: str, precision: str) -> Engine:
    """Make one of the engines."""
    tensorflow = TensorFlowEngine(SessionSettings(mixed_precision=precision))
    if name == "tensorflow":
        return tensorflow
    return OpenVinoEngine(OpenVinoSettings(mixed_precision=precision), tensorflow)


@pytest.mark.parametrize("engine", ["tensorflow", "openvino"])
def test_5_bfloat16_runs_everywhere_and_stays_close(tmp_path: Path, engine: str) -> None:
    """Cosine of at least 0.9999 against float32, and the answer is float32 still."""
    path = write_tiny(tmp_path / "1")
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


@pytest.mark.parametrize(("precision", "hint"), [("", "f32"), ("bfloat16", "bf16")])
def test_openvino_is_told_the_precision_in_any_case(precision: str, hint: str) -> None:
    """Left to itself it takes bfloat16 where the processor can, and vectors would depend on the machine."""
    assert hint == OpenVinoSettings(mixed_precision=precision).properties()["INFERENCE_PRECISION_HINT"]
