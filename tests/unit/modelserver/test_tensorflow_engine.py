"""The TensorFlow engine: the numbers, errors and threads of TensorFlow's own session."""

from __future__ import annotations

import gc
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from grpc import StatusCode
from tensorflow.core.protobuf import saved_model_pb2

from modelserver.batching.limits import BatchLimits
from modelserver.batching.run import run_batch
from modelserver.engines.parallelism import LoadAffinity, SessionSettings
from modelserver.engines.tensorflow_engine import CUTS_KEPT, TensorFlowEngine, TensorFlowModel
from modelserver.errors import NotFound, ServingError
from modelserver.tensors.codec import Array
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
    fetches = [outputs["top"].name, outputs["early"].name]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.loader.load(session, ["serve"], str(tiny))
        for count in (1, 7, 32):
            feeds = {"images:0": images(count, seed=count)}
            for expected, actual in zip(session.run(fetches, feeds), model.run(feeds, fetches), strict=True):
                np.testing.assert_array_equal(expected, actual, strict=True)


def test_every_type_passes_unchanged(engine: TensorFlowEngine, tmp_path: Path) -> None:
    """Numbers and strings, short ones and long ones, empty tensors too: ``y`` is ``x``."""
    model = engine.load(write_types(tmp_path / "1"))
    strings = np.empty(4, object)
    strings[:] = [b"", b"short", b"zero\x00inside\x00", b"long" * 1000]
    arrays: dict[str, Array] = {
        "float": np.arange(5, dtype=np.float32),
        "int64": np.arange(7),
        "bool": np.array([True, False]),
        "uint8": np.empty(0, np.uint8),
        "string": strings,
    }
    for name, array in arrays.items():
        signature = model.signatures[name]
        (answer,) = model.run({signature.inputs["x"].name: array}, [signature.outputs["y"].name])
        assert array.dtype == answer.dtype
        assert array.tolist() == answer.tolist()
    model.close()


@pytest.mark.parametrize("name", ["float", "string"])
def test_3_requests_of_any_type_share_a_batch(engine: TensorFlowEngine, tmp_path: Path, name: str) -> None:
    """Numbers and strings are joined; each request gets its rows."""
    model = engine.load(write_types(tmp_path / "1"))
    signature = model.signatures[name]
    rows = np.array([b"a", b"", b"c"], object) if name == "string" else np.arange(3, dtype=np.float32)
    mates = [{signature.inputs["x"].name: part} for part in (rows[:1], rows[1:])]

    answers = run_batch(model, mates, [signature.outputs["y"].name], BatchLimits(4, allowed_sizes=(4,)))

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

    (answer,) = model.run({signature.inputs["x"].name: np.zeros((2, 3), np.float32)}, [signature.outputs["y"].name])

    np.testing.assert_array_equal([[1, 2, 3], [1, 2, 3]], answer)
    model.close()


def test_what_tensorflow_refuses_comes_with_its_own_code_and_words(model: TensorFlowModel) -> None:
    """An error of an operation, and a tensor that the graph does not have."""
    outputs = model.signatures["serving_default"].outputs
    with pytest.raises(ServingError, match="input depth must be evenly divisible by filter depth: 4 vs 3") as refused:
        model.run({"images:0": np.zeros((1, 8, 8, 4), np.uint8)}, [outputs["top"].name])
    assert StatusCode.INVALID_ARGUMENT is refused.value.code
    for absent, code, text in (
        ("nowhere:0", StatusCode.INVALID_ARGUMENT, "Tensor nowhere:0, .* was not found in the Graph"),
        ("images:1", StatusCode.OUT_OF_RANGE, "Node 'images' .* does not have output 1"),
    ):
        with pytest.raises(ServingError, match=text) as refused:
            model.run({"images:0": images(1)}, [absent])
        assert code is refused.value.code


def test_output_sets_without_end_do_not_take_memory_without_end(engine: TensorFlowEngine, tiny: Path) -> None:
    """Only the last are kept; those that were dropped are answered again."""
    model = engine.load(tiny)
    outputs = [info.name for info in model.signatures["serving_default"].outputs.values()]
    early, top = model.run({"images:0": images(2)}, outputs)
    for count in range(1, CUTS_KEPT + 2):
        model.run({"images:0": images(1)}, outputs[:1] * count)

    again, _ = model.run({"images:0": images(2)}, outputs)
    (alone,) = model.run({"images:0": images(2)}, outputs[1:])

    assert CUTS_KEPT == len(model._cuts._cuts)
    np.testing.assert_array_equal(early, again)
    np.testing.assert_allclose(top, alone, rtol=1e-6)  # another cut may fuse other operations
    assert early.shape != top.shape
    model.close()


def test_a_closed_model_leaves_nothing_to_the_garbage_collector(engine: TensorFlowEngine, tiny: Path) -> None:
    """The graph holds the weights; a server that swaps versions must not collect them."""
    model = engine.load(tiny)
    model.run({"images:0": images(1)}, [model.signatures["serving_default"].outputs["top"].name])
    graph = weakref.ref(model._session.graph)
    gc.disable()
    try:
        model.close()
        del model
        assert graph() is None
    finally:
        gc.enable()


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two cores"
)
def test_2_what_a_load_computes_it_computes_with_threads_of_its_own(
    engine: TensorFlowEngine, model: TensorFlowModel, tiny: Path
) -> None:
    """Warm-up runs keep to the load's one core: no thread of a model that serves already works for them."""
    affinity = LoadAffinity()
    affinity.begin()
    laps = {"laps:0": np.full(1, 1000, np.int32)}
    done = model.signatures["work"].outputs["done"].name
    model.run(laps, [done])

    def load() -> list[int]:
        with affinity.load():
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
    assert (2, 5) == model.run({"images:0": images(2)}, [model.signatures["serving_default"].outputs["top"].name])[
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
    assert StatusCode.NOT_FOUND is refused.value.code
