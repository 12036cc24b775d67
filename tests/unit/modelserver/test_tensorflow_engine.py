"""The engine over TensorFlow's C API: the same numbers as TensorFlow's own session, and nothing left behind."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import saved_model_pb2

from modelserver import c_tensors
from modelserver.batch_limits import BatchLimits
from modelserver.batch_run import run_batch
from modelserver.confinement import Confinement
from modelserver.errors import Code, InvalidArgument, NotFound, ServingError
from modelserver.tensorflow_engine import EXECUTORS_KEPT, SessionSettings, TensorFlowEngine, TensorFlowModel
from tests.contract.tfserving.requests import images
from tests.contract.tfserving.tiny_models import write_tiny, write_types


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write ``tiny``."""
    return write_tiny(tmp_path_factory.mktemp("tiny") / "1")


@pytest.fixture(scope="module")
def engine() -> TensorFlowEngine:
    """Return an engine."""
    return TensorFlowEngine(SessionSettings())


@pytest.fixture(scope="module")
def model(engine: TensorFlowEngine, tiny: Path) -> TensorFlowModel:
    """Return ``tiny``, loaded."""
    return engine.load(tiny)


def test_answers_are_those_of_tensorflows_own_session_bit_for_bit(model: TensorFlowModel, tiny: Path) -> None:
    """For one image and for many, and in whatever order they are fetched."""
    outputs = model.signatures["serving_default"].outputs
    fetches = [outputs["top"].tensor, outputs["early"].tensor]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.loader.load(session, ["serve"], str(tiny))
        for count in (1, 7, 32):
            feeds = {"images:0": images(count, seed=count)}
            for expected, actual in zip(session.run(fetches, feeds), model.run(feeds, fetches), strict=True):
                np.testing.assert_array_equal(expected, actual, strict=True)


def test_memory_is_lent_where_it_lies_well_and_given_back_in_any_case(model: TensorFlowModel) -> None:
    """Aligned or not, the numbers are the same, and afterwards no array is kept."""
    pixels = images(3)
    aligned = c_tensors.aligned(pixels.shape, np.uint8)
    memory = c_tensors.aligned([pixels.nbytes + 1], np.uint8)
    shifted = memory[1:].reshape(pixels.shape)
    aligned[:], shifted[:] = pixels, pixels
    top = model.signatures["serving_default"].outputs["top"].tensor

    assert (0, 1) == (aligned.ctypes.data % 64, shifted.ctypes.data % 64)
    first, second = (model.run({"images:0": array}, [top])[0] for array in (aligned, shifted))

    np.testing.assert_array_equal(first, second)
    assert not c_tensors._lent


def test_an_output_that_is_the_input_outlives_it(engine: TensorFlowEngine, tmp_path: Path) -> None:
    """Numbers and strings, short ones and long ones, empty tensors too: ``y`` is ``x`` after ``x`` is gone."""
    model = engine.load(write_types(tmp_path / "1"))
    strings = np.empty(4, object)
    strings[:] = [b"", b"short", b"zero\x00inside\x00", b"long" * 1000]
    for name, array in {
        "float": c_tensors.aligned([5], np.float32),
        "int64": np.arange(7),
        "bool": np.array([True, False]),
        "uint8": np.empty(0, np.uint8),
        "string": strings,
    }.items():
        expected = array.copy()
        signature = model.signatures[name]
        (answer,) = model.run({signature.inputs["x"].tensor: array}, [signature.outputs["y"].tensor])
        array.fill(array.flat[0] if array.size else 0)
        assert expected.dtype == answer.dtype
        assert expected.tolist() == answer.tolist()
    model.close()
    assert not c_tensors._lent


@pytest.mark.parametrize("name", ["float", "string"])
def test_3_requests_of_any_type_share_a_batch(engine: TensorFlowEngine, tmp_path: Path, name: str) -> None:
    """Numbers are joined where TensorFlow reads them in place, strings as they are; each request gets its rows."""
    model = engine.load(write_types(tmp_path / "1"))
    signature = model.signatures[name]
    rows = np.array([b"a", b"", b"c"], object) if name == "string" else np.arange(3, dtype=np.float32)
    mates = [{signature.inputs["x"].tensor: part} for part in (rows[:1], rows[1:])]

    answers = run_batch(model, mates, [signature.outputs["y"].tensor], BatchLimits(4, allowed_sizes=(4,)))

    assert [rows[:1].tolist(), rows[1:].tolist()] == [answer.tolist() for (answer,) in answers]
    model.close()


def test_variables_and_their_values_are_loaded(engine: TensorFlowEngine, tmp_path: Path) -> None:
    """A SavedModel as ``tf.saved_model.save`` writes it: not frozen, its graph in a function."""
    module = tf.Module()
    module.offset = tf.Variable([1.0, 2.0, 3.0])
    call = tf.function(lambda x: {"y": x + module.offset}, input_signature=[tf.TensorSpec([None, 3], name="x")])
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=call)
    model = engine.load(tmp_path / "1")
    signature = model.signatures["serving_default"]

    (answer,) = model.run({signature.inputs["x"].tensor: np.zeros((2, 3), np.float32)}, [signature.outputs["y"].tensor])

    np.testing.assert_array_equal([[1, 2, 3], [1, 2, 3]], answer)
    model.close()


def test_what_tensorflow_refuses_comes_with_its_own_code_and_words(model: TensorFlowModel) -> None:
    """An error of an operation, and a tensor that the graph does not have; the arrays are given back."""
    outputs = model.signatures["serving_default"].outputs
    with pytest.raises(ServingError, match="input depth must be evenly divisible by filter depth: 4 vs 3") as refused:
        model.run({"images:0": np.zeros((1, 8, 8, 4), np.uint8)}, [outputs["top"].tensor])
    assert Code.INVALID_ARGUMENT is refused.value.code
    for absent in ("nowhere:0", "images:1"):
        with pytest.raises(InvalidArgument, match=f"Tensor {absent}, .* was not found in the Graph"):
            model.run({"images:0": images(1)}, [absent])
    assert not c_tensors._lent


def test_output_sets_without_end_do_not_take_memory_without_end(engine: TensorFlowEngine, tiny: Path) -> None:
    """Beyond so many, all outputs of the signature are computed, and those asked for are answered."""
    model = engine.load(tiny)
    outputs = [info.tensor for info in model.signatures["serving_default"].outputs.values()]
    for count in range(1, EXECUTORS_KEPT + 1):
        model.run({"images:0": images(1)}, outputs[:1] * count)

    (top,) = model.run({"images:0": images(2)}, outputs[1:])

    assert EXECUTORS_KEPT == len(model._executors)
    early, expected = model.run({"images:0": images(2)}, outputs)
    np.testing.assert_array_equal(expected, top)
    assert early.shape != top.shape
    model.close()


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two cores"
)
def test_2_what_a_load_computes_it_computes_with_threads_of_its_own(
    engine: TensorFlowEngine, model: TensorFlowModel, tiny: Path
) -> None:
    """Warm-up runs keep to the load's one core: no thread of a model that serves already works for them."""
    confinement = Confinement()
    confinement.begin()
    laps = {"laps:0": np.full(1, 1000, np.int32)}
    done = model.signatures["work"].outputs["done"].tensor
    model.run(laps, [done])

    def load() -> list[int]:
        with confinement.load():
            loaded, before = engine.load(tiny), _nanoseconds()
            loaded.run(laps, [done])
            worked = [thread for thread, spent in _nanoseconds().items() if spent - before.get(thread, 0) > 20e6]
            cores = [len(os.sched_getaffinity(thread)) for thread in worked]
            loaded.close()
        return cores

    with ThreadPoolExecutor(1) as threads:
        assert {1} == set(threads.submit(load).result())


def _nanoseconds() -> dict[int, int]:
    """Return the processor time of every thread of this process."""
    return {
        int(thread.name): int((thread / "schedstat").read_text().split()[0])
        for thread in Path("/proc/self/task").iterdir()
    }


def test_a_savedmodel_in_text_form_is_read(engine: TensorFlowEngine, tiny: Path, tmp_path: Path) -> None:
    """With the same signatures and the same answers."""
    whole = saved_model_pb2.SavedModel.FromString((tiny / "saved_model.pb").read_bytes())
    (tmp_path / "saved_model.pbtxt").write_text(text_format.MessageToString(whole))
    model = engine.load(tmp_path)

    assert {"serving_default", "manifest"} < set(model.signatures)
    assert (2, 5) == model.run({"images:0": images(2)}, [model.signatures["serving_default"].outputs["top"].tensor])[
        0
    ].shape
    model.close()


def test_what_cannot_be_loaded_says_why(engine: TensorFlowEngine, tiny: Path, tmp_path: Path) -> None:
    """No SavedModel; a graph with other tags; a graph that is no graph. The process lives on."""
    with pytest.raises(NotFound, match="does not appear to contain a SavedModel bundle"):
        engine.load(tmp_path)
    with pytest.raises(NotFound, match=r"Could not find meta graph def matching supplied tags: \{ serve gpu \}"):
        TensorFlowEngine(SessionSettings(tags=("serve", "gpu"))).load(tiny)
    whole = saved_model_pb2.SavedModel.FromString((tiny / "saved_model.pb").read_bytes())
    whole.meta_graphs[0].graph_def.node[0].op = "NoSuchOp"
    (tmp_path / "saved_model.pb").write_bytes(whole.SerializeToString())
    with pytest.raises(ServingError, match="Op type not registered 'NoSuchOp'") as refused:
        engine.load(tmp_path)
    assert Code.NOT_FOUND is refused.value.code
