"""How many threads share an operation, and that loads keep to one core once something is served."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from microtome.machine import cores
from modelserver.config.manifest import MANIFEST
from modelserver.engines.openvino_runtime import OpenVinoSettings
from modelserver.engines.parallelism import LIGHT_FLOPS, LoadAffinity, SessionSettings, threads_within
from modelserver.engines.tensorflow_engine import TensorFlowEngine
from tests.contract.tfserving.requests import images
from tests.contract.tfserving.tiny_models import write_tiny

needs_two_cores = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two cores"
)


@needs_two_cores
def test_a_load_and_the_threads_it_makes_keep_to_one_core_and_are_let_go_at_its_end() -> None:
    """Others are where they were all the while."""
    affinity, all_cores, stop = LoadAffinity(), os.sched_getaffinity(0), threading.Event()
    helper = threading.Thread(target=stop.wait)

    def load() -> tuple[set[int], set[int]]:
        with affinity.load():
            helper.start()
            assert helper.native_id
            return os.sched_getaffinity(0), os.sched_getaffinity(helper.native_id)

    affinity.begin()
    with ThreadPoolExecutor(1) as loads:
        own, helpers = loads.submit(load).result()
        after = loads.submit(os.sched_getaffinity, 0).result()
    assert helper.native_id
    freed = os.sched_getaffinity(helper.native_id)
    stop.set()
    helper.join()

    assert (1, 1) == (len(own), len(helpers))
    assert (all_cores, all_cores, all_cores) == (after, freed, os.sched_getaffinity(0))


@needs_two_cores
def test_a_session_that_is_loaded_on_one_core_computes_on_all(tmp_path: Path) -> None:
    """What it may use is counted before the load is pinned."""
    engine, affinity = TensorFlowEngine(SessionSettings()), LoadAffinity()
    affinity.begin()

    def load() -> tuple[int, int]:
        with affinity.load():
            return cores(), engine.threads(tmp_path)

    with ThreadPoolExecutor(1) as loads:
        assert (1, cores()) == loads.submit(load).result()


@needs_two_cores
def test_before_anything_is_served_loads_have_all_cores() -> None:
    """There is no other to keep out of the way of."""
    with LoadAffinity().load():
        assert len(os.sched_getaffinity(0)) > 1


def tells(directory: Path, text: str) -> Path:
    """Write a manifest."""
    (directory / MANIFEST).parent.mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST).write_text(text, encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    ("flops", "light"),
    [([LIGHT_FLOPS], True), ([1, LIGHT_FLOPS + 1], False), ([1, None], False), ([], False)],
)
def test_a_light_network_is_one_whose_every_output_is(tmp_path: Path, flops: list[float | None], light: bool) -> None:
    """The most expensive output counts, and one that does not say is not taken for light."""
    manifest = json.dumps({"outputs": [{"flops": each} for each in flops]})
    assert (1 if light else cores()) == threads_within(tells(tmp_path, manifest), cores())


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"outputs": 3}'])
def test_a_model_of_which_nothing_is_known_has_all_cores(tmp_path: Path, text: str | None) -> None:
    """No manifest, or another program's file of that name."""
    if text is not None:
        tells(tmp_path, text)
    assert cores() == threads_within(tmp_path, cores())


def test_a_light_network_answers_as_the_same_network_on_all_cores(tmp_path: Path) -> None:
    """The manifest changes who computes, not what."""
    plain, light = write_tiny(tmp_path / "plain" / "1"), write_tiny(tmp_path / "light" / "1")
    tells(light, json.dumps({"outputs": [{"flops": 1}]}))
    answers = []
    for directory in (plain, light):
        model = TensorFlowEngine(SessionSettings()).load(directory)
        fetches = [info.name for info in model.signatures["serving_default"].outputs.values()]
        answers.append(model.run({"images:0": images(5)}, fetches))
        model.close()
    for expected, actual in zip(*answers, strict=True):
        assert expected == pytest.approx(actual, rel=1e-5)


def test_who_says_how_many_threads_share_an_operation_is_obeyed(tmp_path: Path) -> None:
    """Of a light network too: batches are divided by what is true of the session, not by what would be chosen."""
    tells(tmp_path, json.dumps({"outputs": [{"flops": 1}]}))
    assert 1 == TensorFlowEngine(SessionSettings()).threads(tmp_path)
    assert 3 == TensorFlowEngine(SessionSettings(intra_op_threads=3)).threads(tmp_path)


@pytest.mark.parametrize(("threads", "streams", "share"), [(0, 1, cores()), (8, 2, 4), (1, 2, 1)])
def test_openvino_shares_its_threads_among_streams(threads: int, streams: int, share: int) -> None:
    """Those of a stream compute one batch; a stream without a thread there is not."""
    assert share == OpenVinoSettings(threads=threads, streams=streams).threads_of_a_stream
