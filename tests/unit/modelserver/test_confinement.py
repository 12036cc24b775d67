"""Loads keep to one core once something is served."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelserver.confinement import Confinement

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two cores"
)


def test_a_load_and_the_threads_it_makes_keep_to_one_core_and_are_let_go_at_its_end() -> None:
    """Others are where they were all the while."""
    confinement, cores, stop = Confinement(), os.sched_getaffinity(0), threading.Event()
    helper = threading.Thread(target=stop.wait)

    def load() -> tuple[set[int], set[int]]:
        with confinement.load():
            helper.start()
            assert helper.native_id
            return os.sched_getaffinity(0), os.sched_getaffinity(helper.native_id)

    confinement.begin()
    with ThreadPoolExecutor(1) as loads:
        own, helpers = loads.submit(load).result()
        after = loads.submit(os.sched_getaffinity, 0).result()
    assert helper.native_id
    freed = os.sched_getaffinity(helper.native_id)
    stop.set()
    helper.join()

    assert (1, 1) == (len(own), len(helpers))
    assert (cores, cores, cores) == (after, freed, os.sched_getaffinity(0))


def test_before_anything_is_served_loads_have_all_cores() -> None:
    """There is nobody to keep out of the way of."""
    with Confinement().load():
        assert len(os.sched_getaffinity(0)) > 1
