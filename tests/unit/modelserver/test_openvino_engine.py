"""The OpenVINO engine over SavedModels of the real exporter: the answers are TensorFlow's."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelserver.engines.engine import Engine, LoadedModel
from modelserver.engines.openvino_engine import CUTS_KEPT, OpenVinoEngine
from modelserver.engines.openvino_runtime import OpenVinoSettings, import_openvino
from modelserver.engines.parallelism import SessionSettings
from modelserver.engines.tensorflow_engine import TensorFlowEngine
from modelserver.errors import InvalidArgument
from modelserver.tensors.codec import Array
from tests.contract.tfserving.requests import images
from tests.contract.tfserving.tiny_models import expected_early, expected_top, golden_manifest, write_lone
from tests.exported_models import export
from tests.pictures import png

RECIPE = """
models:
  - name: resnet
    backbone: ResNet50
    weights: random
    input: {size: 64}
    outputs:
      - {name: early, layer: conv2_block3_out, pooling: avg}
      - {name: late, layer: conv3_block4_out, pooling: max}
  - name: heads
    backbone: MobileNet
    weights: random
    input: {size: 64}
    calibration: photos
    outputs:
      - {name: gem, layer: conv_pw_2_relu, pooling: gem(3), normalize: l2}
      - {name: spp, layer: conv_pw_3_relu, pooling: "spp(1,2)"}
      - {name: pca, layer: conv_pw_3_relu, pooling: avg, projection: {pca: 4}}
      - {name: both, layers: [conv_pw_2_relu, conv_pw_3_relu], pooling: avg}
      - {name: random, layer: conv_pw_3_relu, pooling: flatten, projection: {random: 16}}
      - {name: map, layer: conv_pw_1_relu, pooling: none}
"""
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models with every kind of head, written by the real command."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "photos").mkdir()
    for index in range(8):
        (folder / "photos" / f"{index}.png").write_bytes(png(index))
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    done = export(folder / "recipe.yaml", folder / "models")
    assert done.returncode == 0, done.stderr
    return folder / "models"


@pytest.fixture(scope="module")
def tensorflow() -> Engine:
    """The engine to be equal to."""
    return TensorFlowEngine(SessionSettings())


@pytest.fixture(scope="module")
def openvino() -> Engine:
    """The engine under test."""
    return OpenVinoEngine(OpenVinoSettings())


@pytest.fixture
def tiny(openvino: Engine, tmp_path: Path) -> Iterator[LoadedModel]:
    """A small model whose answers are known without any runtime."""
    model = openvino.load(write_lone(tmp_path / "1"))
    yield model
    model.close()


def ask(model: LoadedModel, pixels: Array, outputs: Sequence[str]) -> dict[str, Array]:
    """Run ``serving_default``, and name the answers."""
    signature = model.signatures["serving_default"]
    feeds = {signature.inputs["images"].name: pixels}
    arrays = model.run(feeds, [signature.outputs[output].name for output in outputs])
    return dict(zip(outputs, arrays, strict=True))


def relative_error(expected: Array, found: Array) -> float:
    """Return the largest distance of two vectors, over the length of the expected one."""
    rows = (len(expected), -1)
    distance = np.linalg.norm((expected - found).reshape(rows), axis=1)
    return float((distance / np.linalg.norm(expected.reshape(rows), axis=1)).max())


@pytest.fixture(params=["lite0", "resnet", "heads"])
def path(request: pytest.FixtureRequest) -> Path:
    """One version of each."""
    name: str = request.param
    models: Path = request.getfixturevalue("lite0_models" if name == "lite0" else "exported")
    return models / name / "1"


def test_answers_are_tensorflows(path: Path, tensorflow: Engine, openvino: Engine) -> None:
    """Every output, alone and with all others, for batches of one to three: within 1e-4, in shape and type."""
    side = 224 if path.parent.name == "lite0" else 64
    theirs, ours = tensorflow.load(path), openvino.load(path)
    outputs = list(theirs.signatures["serving_default"].outputs)
    assert theirs.signatures == ours.signatures

    for count, wanted in itertools.product((1, 2, 3), [outputs, *([output] for output in outputs)]):
        pixels = images(count, side=side, seed=count)
        expected, found = ask(theirs, pixels, wanted), ask(ours, pixels, wanted)
        for output in wanted:
            assert (expected[output].shape, expected[output].dtype) == (found[output].shape, found[output].dtype)
            assert relative_error(expected[output], found[output]) <= TOLERANCE, (output, count)
    theirs.close()
    ours.close()


def test_the_manifest_is_answered_from_its_file(tiny: LoadedModel) -> None:
    """Once for each row that asks."""
    (taken,), (given,) = tiny.signatures["manifest"].inputs.values(), tiny.signatures["manifest"].outputs.values()
    (answer,) = tiny.run({taken.name: np.zeros(2, np.int32)}, [given.name])

    assert [golden_manifest(1).encode()] * 2 == list(answer)


def test_the_deepest_output_has_no_weights_of_its_own(
    monkeypatch: pytest.MonkeyPatch, openvino: Engine, exported: Path
) -> None:
    """What needs nearly all convolutions is computed with all outputs; an early one by itself."""
    core = import_openvino().Core
    compiled: list[int] = []

    def compile_model(self: object, model: Any, *more: object) -> object:
        compiled.append(len(model.outputs))
        return compiles(self, model, *more)

    compiles = core.compile_model
    monkeypatch.setattr(core, "compile_model", compile_model)
    model = openvino.load(exported / "resnet" / "1")
    pixels = images(1, side=64)
    both = ask(model, pixels, ["early", "late"])

    assert np.array_equal(both["late"], ask(model, pixels, ["late"])["late"])
    assert [2] == compiled
    ask(model, pixels, ["early"])
    assert [2, 1] == compiled
    model.close()


def test_outputs_come_in_the_order_asked_for(tiny: LoadedModel) -> None:
    """Either way round, and twice the same."""
    pixels = images(2)

    for wanted in (["top", "early"], ["early", "top"]):
        found = ask(tiny, pixels, wanted)
        assert np.allclose(expected_top(pixels, 1), found["top"], rtol=1e-5)
        assert np.allclose(expected_early(pixels, 1), found["early"], rtol=1e-5)


def test_no_image_gives_no_row(tiny: LoadedModel) -> None:
    """Also where OpenVINO itself refuses empty batches."""
    assert (0, 5) == ask(tiny, images(0), ["top"])["top"].shape


def test_pixels_that_nobody_may_write_to_are_read(tiny: LoadedModel) -> None:
    """As they come from a request's bytes."""
    pixels = np.frombuffer(images(2).tobytes(), np.uint8).reshape(2, 8, 8, 3)

    assert np.allclose(expected_top(pixels, 1), ask(tiny, pixels, ["top"])["top"], rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 9, 7, 3), (1, 8, 8, 4), (8, 8, 3)])
def test_another_shape_is_the_callers_error(tiny: LoadedModel, shape: tuple[int, ...]) -> None:
    """The sizes of the signature are compiled in; the message names both."""
    expected = r"input images must be \[\?,8,8,3\]: \[" + ",".join(map(str, shape)) + r"\]"
    with pytest.raises(InvalidArgument, match=expected):
        ask(tiny, np.zeros(shape, np.uint8), ["top"])


def test_threads_get_their_own_answers(tiny: LoadedModel) -> None:
    """Eight at a time, over both outputs, batches of different sizes."""
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for lap in range(20):
            pixels = images(1 + (number + lap) % 3, seed=100 * number + lap)
            found = ask(tiny, pixels, ["top"] if number % 2 else ["top", "early"])
            assert np.allclose(expected_top(pixels, 1), found["top"], rtol=1e-5)

    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(work, number) for number in range(8)]:
            future.result()


def test_more_sets_of_outputs_than_are_kept_are_answered(openvino: Engine, exported: Path) -> None:
    """Those that were not asked for longest are dropped, and compiled again."""
    model = openvino.load(exported / "heads" / "1")
    outputs = list(model.signatures["serving_default"].outputs)
    sets = [list(wanted) for size in (1, 2) for wanted in itertools.combinations(outputs, size)]
    assert len(sets) > CUTS_KEPT
    pixels = images(1, side=64)

    first, *_, again = [ask(model, pixels, wanted) for wanted in [*sets, sets[0]]]

    for output, vector in first.items():
        assert np.array_equal(vector, again[output])
    model.close()
