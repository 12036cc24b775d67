"""tritonclient (HTTP, gRPC, gRPC asyncio) and kserve (REST, gRPC), unmodified, against a real gateway.

They run in an environment of their own, see the Makefile, since they want an older protobuf than the gateway's.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.clients.conftest import GRPC_PORT, KEY
from tests.e2e.processes import Gateway

SCRIPTS = [Path(__file__).with_name(name) for name in ("speak_triton.py", "speak_kserve.py")]
PYTHON = Path(sys.prefix) / "kserve" / "bin" / "python"


@pytest.fixture(scope="module")
def told(gateway: Gateway, photos: list[Path]) -> dict[str, Any]:
    """What the clients received."""
    received: dict[str, Any] = {"versions": {}}
    for script in SCRIPTS:
        addresses = (f"127.0.0.1:{gateway.port}", f"127.0.0.1:{GRPC_PORT}")
        words = [str(PYTHON), str(script), *addresses, KEY, *map(str, photos)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, done.stderr[-3000:]
        told = json.loads(done.stdout.splitlines()[-1])
        received["versions"] |= told.pop("versions")
        received |= told
    return received


def test_the_packages_versions(told: dict[str, Any], record_property: Callable[[str, object], None]) -> None:
    """Which clients this was."""
    for name, version in told["versions"].items():
        record_property("client", f"{name} {version}")
    assert {"tritonclient", "kserve"} == told["versions"].keys()


@pytest.mark.parametrize("client", ["triton http", "triton grpc", "kserve rest", "kserve grpc"])
def test_vectors_are_those_of_our_own_route(
    told: dict[str, Any], client: str, vectors: Callable[..., NDArray[np.float32]]
) -> None:
    """The default output, bit for bit, and everything is said to be ready."""
    np.testing.assert_array_equal(np.float32(told[client]["default"]), vectors())
    assert [True] * 3 == [told[client][key] for key in ("live", "ready", "model_ready")]


def test_the_asynchronous_client_gets_them_too(
    told: dict[str, Any], vectors: Callable[..., NDArray[np.float32]]
) -> None:
    """Four requests at once."""
    for answer in told["triton grpc aio"]["answers"]:
        np.testing.assert_array_equal(np.float32(answer), vectors())


@pytest.mark.parametrize("client", ["triton http", "triton grpc"])
def test_classification_answers_score_index_and_label(
    told: dict[str, Any], client: str, labels: Callable[..., list[list[dict[str, Any]]]]
) -> None:
    """Triton's own parameter, `class_count` of its client: the labels of POST /classify."""
    expected = [[f"{one['score']:.6f}:{one['index']}:{one['label']}" for one in row] for row in labels(top_k=3)]
    assert expected == told[client]["classes"]


@pytest.mark.parametrize("client", ["triton http", "triton grpc"])
def test_parameters_pixels_and_errors(
    told: dict[str, Any], client: str, vectors: Callable[..., NDArray[np.float32]]
) -> None:
    """Cut and normalised, by the name `embedding`; pixels give vectors; an unknown model is the client's error."""
    expected = vectors(normalize=True, dimensions=64)
    np.testing.assert_allclose(told[client]["named"], expected, rtol=1e-6)
    assert [2, vectors().shape[1]] == told[client]["pixels"]
    assert "microtome" == told[client]["server"]
    assert "InferenceServerException" == told[client]["refused"]["class"]
    assert "'lite0'" in told[client]["refused"]["message"]
    assert told[client]["absent_ready"] is False
