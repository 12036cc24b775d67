"""`microtome up` as a user runs it: one command, a line to try, Ctrl-C, and nothing left behind."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import httpx
import pytest

from microtome.commands.up.supervisor import REPOSITORY
from microtome.v1.embedding_pb2 import ListModelsRequest
from microtome.v1.embedding_pb2_grpc import EmbeddingServiceStub
from tests.e2e.processes import ModelServer, Process, Valkey, eventually, free_port


class Up(Process):
    """A `microtome up` in a directory of its own, which is also its TMPDIR."""

    name = "microtome up"

    def __init__(self, directory: Path, *options: str) -> None:
        super().__init__(directory)
        self.temporary = directory / "t"
        self.temporary.mkdir()
        self.place = directory
        self.output = directory / "output"
        self.port = free_port()
        recipe, models = REPOSITORY / "recipe.yaml", directory / "models"
        self._options = [f"--recipe={recipe}", f"--models-dir={models}", f"--port={self.port}", *options]

    def words(self) -> list[str]:
        """Through a shell that splits standard output from the log, and is replaced by the command."""
        command = shlex.join([sys.executable, "-m", "microtome", "up", *self._options])
        return ["sh", "-c", f"exec {command} > {shlex.quote(str(self.output))}"]

    def environment(self) -> Mapping[str, str]:
        """Its children are known by their TMPDIR."""
        return {"TMPDIR": str(self.temporary), "PYTHONPATH": str(REPOSITORY)}

    def serving(self) -> bool:
        """Whether it has said what to try."""
        return "curl" in self.said()

    def said(self) -> str:
        """What it wrote to standard output."""
        return self.output.read_text() if self.output.exists() else ""

    def curl_line(self) -> str:
        """The line to try."""
        return next(line.strip() for line in self.said().splitlines() if line.strip().startswith("curl "))

    def family(self) -> dict[int, str]:
        """All processes that it started, and itself, by their inherited TMPDIR; orphans included."""
        mark = f"TMPDIR={self.temporary}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
                except OSError:
                    continue
        return found

    def member(self, module: str) -> int | None:
        """The process id of the child that runs a module, itself or by `microtome.parent`."""
        runs = re.compile(rf"-m (microtome\.parent [0-9]+ )?{module} ")
        return next((pid for pid, words in self.family().items() if runs.search(words)), None)

    def kill_member(self, module: str) -> int:
        """Kill the child that runs a module and return its process id."""
        pid = self.member(module)
        assert pid is not None, self.family()
        os.kill(pid, signal.SIGKILL)
        return pid

    def destroy(self) -> None:
        """End it and everything that it started, orphans too."""
        super().destroy()
        for pid in self.family():
            os.kill(pid, signal.SIGKILL)


pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")


@pytest.fixture
def up(lite0_models: Path) -> Iterator[Up]:
    """A `microtome up`, not started, over models that are exported already."""
    with tempfile.TemporaryDirectory(prefix="microtome-e2e-", ignore_cleanup_errors=True) as path:
        shutil.copytree(lite0_models, Path(path) / "models", copy_function=os.link)
        process = Up(Path(path))
        try:
            yield process
        finally:
            process.destroy()


def served_over_grpc(said: str) -> list[str]:
    """The models at the gRPC address that is printed."""
    address = next(line.split()[1] for line in said.splitlines() if line.startswith("gRPC "))
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        return [model.name for model in EmbeddingServiceStub(channel).ListModels(ListModelsRequest()).models]


@pytest.mark.skipif(not shutil.which("curl"), reason="runs the printed line, which needs curl")
def test_the_printed_line_returns_a_vector_and_ctrl_c_leaves_nothing(up: Up) -> None:
    """From one command to a vector; then one Ctrl-C, exit code 0, no process and no file left."""
    up.start()
    curl = subprocess.run(["sh", "-c", up.curl_line()], capture_output=True, text=True, check=True)
    embedding = json.loads(curl.stdout)["embeddings"][0]
    assert len(embedding["vector"]) == embedding["dim"] == 1280
    assert f"http://127.0.0.1:{up.port}/docs" in up.said()
    assert f"http://127.0.0.1:{up.port}/metrics" in up.said()
    assert ["lite0"] == served_over_grpc(up.said())
    up.send(signal.SIGINT)
    assert up.wait() == 0
    assert up.family() == {}
    assert list(up.temporary.iterdir()) == []
    assert "Traceback" not in up.last_lines()


def test_kill_9_leaves_no_process(up: Up) -> None:
    """Even a death that `up` cannot notice takes the gateway and the model server along."""
    up.start()
    assert len(up.family()) >= 3
    up.kill()
    eventually(lambda: not up.family(), f"no process is left of {up.family()}")


def test_a_killed_model_server_returns_and_a_killed_gateway_ends_the_session(up: Up) -> None:
    """The one is a repair, the other a clear end with its exit code."""
    up.start()
    first = up.kill_member("modelserver")
    eventually(
        lambda: any("-m modelserver " in words for pid, words in up.family().items() if pid != first), "a new one"
    )
    up.kill_member("service")
    assert up.wait() == 128 + signal.SIGKILL
    assert "The gateway ended by itself (exit code 137)" in up.last_lines()
    assert up.family() == {}


def test_missing_models_are_exported_first(up: Up) -> None:
    """Where nothing is exported yet, that is done on the way, in sight; where it is, it is not done again."""
    shutil.rmtree(up.log.parent / "models")
    up.start()
    assert "exporting lite0 to" in up.last_lines()
    assert (up.log.parent / "models/lite0/1/saved_model.pb").exists()
    assert up.terminate() == 0
    up.output.unlink()
    up.log.unlink()
    up.start()
    assert "exporting" not in up.last_lines()


def test_existing_servers_are_used_and_left_running(lite0_models: Path) -> None:
    """With --model-server nothing is exported and nothing embedded is started; with --redis vectors go there."""
    with tempfile.TemporaryDirectory(prefix="microtome-e2e-", ignore_cleanup_errors=True) as path:
        servers = Valkey(Path(path)), ModelServer(Path(path), lite0_models)
        valkey, model_server = servers
        up = Up(Path(path), f"--model-server={model_server.address}", f"--redis={valkey.url}")
        try:
            for process in (*servers, up):
                process.start()
            assert up.member("modelserver") is None
            assert not (up.log.parent / "models").exists()
            photo = (REPOSITORY / "examples/cat.jpg").read_bytes()
            httpx.post(
                f"http://127.0.0.1:{up.port}/embed", content=photo, trust_env=False, timeout=30
            ).raise_for_status()
            eventually(lambda: valkey.keys() == 1, "the vector is in Valkey")
            assert up.terminate() == 0
            assert valkey.running
            assert model_server.running
        finally:
            for process in (up, *servers):
                process.destroy()


def test_a_taken_port_is_said_at_once(up: Up) -> None:
    """Nothing is started, and the message says what to do."""
    up.start()
    second = subprocess.run(
        [sys.executable, "-m", "microtome", "up", f"--port={up.port}", f"--recipe={REPOSITORY / 'recipe.yaml'}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 2
    assert f"Port {up.port} is taken by process" in second.stderr
    assert "--port" in second.stderr
