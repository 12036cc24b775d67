"""The gateway as a process: it needs no TensorFlow, finishes what it has begun, and is small."""

import importlib.util
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from tests.e2e.answers import embed
from tests.e2e.conftest import Stack
from tests.e2e.photos import example, unseen
from tests.e2e.processes import Gateway, eventually

BLOCKED = ("tensorflow", "keras", "tensorflow_serving", "tokenizers")

BLOCKER = """
import atexit, pathlib, runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"blocked by the test: {{name}}")

def write_down():
    pathlib.Path({modules!r}).write_text("\\n".join(sys.modules))

sys.meta_path.insert(0, Blocker())
atexit.register(write_down)
sys.argv = ["service"]
runpy.run_module("service", run_name="__main__", alter_sys=True)
"""


class GatewayWithoutTensorFlow(Gateway):
    """A gateway in whose process TensorFlow and its relatives cannot be imported; writes down what was."""

    name = "gateway without TensorFlow"

    def __init__(self, directory: Path, model_server: str) -> None:
        super().__init__(directory, model_server)
        self.modules = directory / "modules.txt"

    def words(self) -> list[str]:
        """The gateway behind a blocker."""
        return [sys.executable, "-c", BLOCKER.format(blocked=BLOCKED, modules=str(self.modules))]


def test_the_gateway_works_where_tensorflow_cannot_be_imported(stack: Stack, directory: Path) -> None:
    """It starts, embeds and stops; nothing of TensorFlow is in its process at the end, nor what only texts need."""
    gateway = GatewayWithoutTensorFlow(directory, stack.model_server.address)
    try:
        gateway.start()
        with gateway.client() as client:
            assert embed(client, unseen(example("cat")))["model"] == "lite0"
        assert gateway.terminate() == 0, gateway.last_lines()
    finally:
        gateway.destroy()
    imported = gateway.modules.read_text().splitlines()
    assert "service.application" in imported
    assert [name for name in imported if name.split(".")[0] in BLOCKED] == []


def test_sigterm_finishes_what_is_in_flight(stack: Stack) -> None:
    """A request that was begun is answered with its vector; then the gateway ends with 0."""
    responses: list[httpx.Response] = []

    def request() -> None:
        with stack.gateway.client() as client:
            photo = unseen(example("coffee"))
            responses.append(client.post("/embed", content=photo, headers={"content-type": "image/jpeg"}))

    stack.model_server.send(signal.SIGSTOP)
    sender = threading.Thread(target=request)
    try:
        sender.start()
        eventually(lambda: images_in_flight(stack.gateway) == 1, "the request is in flight")
        stack.gateway.send(signal.SIGTERM)
        eventually(lambda: not stack.gateway.alive(), "no new connection is accepted")
        assert stack.gateway.running
    finally:
        stack.model_server.send(signal.SIGCONT)
        sender.join()
    assert [response.status_code for response in responses] == [200]
    assert stack.gateway.wait() == 0


def images_in_flight(gateway: Gateway) -> float:
    """The gauge, as Prometheus would scrape it."""
    with gateway.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("microtome_images_in_flight "))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc, which Linux has")
def test_the_gateway_is_smaller_than_an_import_of_tensorflow_serving_api(stack: Stack, tmp_path: Path) -> None:
    """The reason for messages of our own: ready below 100 MB where the official stubs alone take several times that."""
    assert importlib.util.find_spec("tensorflow_serving")
    program = "import sys, tensorflow_serving.apis.predict_pb2; sys.stdin.readline()"
    words = [sys.executable, "-c", program]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as rival:
        eventually(lambda: resident_bytes(rival.pid) > 250e6, "the import is under way", 60.0)
        rival.kill()
    gateway = Gateway(tmp_path, stack.model_server.address)
    gateway.start()
    try:
        assert resident_bytes(gateway.pid) < 100e6
    finally:
        gateway.destroy()


def resident_bytes(pid: int) -> int:
    """What a process has in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)
