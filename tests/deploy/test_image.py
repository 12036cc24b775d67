"""The Dockerfile by its linter, what it copies by what is there, and its health check by running it."""

import http.server
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from modelserver.config.options import parse
from tests.deploy.tools import tool

FLAGS = re.DOTALL | re.MULTILINE


class Answers(http.server.BaseHTTPRequestHandler):
    """200 on /livez, 503 on everything else."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200 if self.path == "/livez" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Return the port of something that answers."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def check(repository: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the health check the way the image does, without an environment of its own."""
    script = repository / "deploy" / "image" / "healthcheck.py"
    return subprocess.run(
        [sys.executable, script, *words], env=environment, capture_output=True, text=True, check=False
    )


def test_the_linter_finds_nothing(repository: Path) -> None:
    """Hadolint's rules hold, those of the shell in RUN included."""
    done = subprocess.run([tool("hadolint"), repository / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stdout)


def test_what_is_copied_is_sent_to_the_builder(repository: Path) -> None:
    """Every COPY from the context names something that is there and that .dockerignore lets through."""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (repository / "Dockerfile").read_text(), re.MULTILINE)
    sources = {word for line in copied for word in line.split()}
    allowed = {line[1:] for line in (repository / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == sources
    assert [] == [source for source in sources if not (repository / source).exists()]


def test_packages_are_held_to_their_hashes(repository: Path) -> None:
    """Every installation of packages is hash-locked, of our wheels from the context only; no registry is named."""
    text = (repository / "Dockerfile").read_text()
    assert "--require-hashes" in text
    assert "--index-url" not in text
    assert 4 == len(re.findall(r"\$\{INSTALL\} -r /build/\w+\.txt", text))
    assert 3 == len(re.findall(r"\$\{INSTALL_WHEELS\} /wheels/\*\.whl", text))
    assert {"${INSTALL}", "${INSTALL_WHEELS}", "wheel"} == set(re.findall(r"-m pip(?: --python \S+)? (\S+)", text))
    assert re.search(r'INSTALL_WHEELS=".* --no-deps --no-index"', text)
    assert re.search(r"pip wheel .*--no-deps .*--no-index", text)


def test_every_image_runs_as_somebody_else_than_root(repository: Path) -> None:
    """The stage that all images stand on ends with a user's number, and none of them goes back."""
    users = re.findall(r"^USER (.*)$", (repository / "Dockerfile").read_text(), re.MULTILINE)
    assert ["10001:10001"] == users


def test_the_model_server_of_the_image_is_bounded(repository: Path) -> None:
    """It batches, which bounds its queues, and takes no configuration from callers."""
    (stage,) = re.findall(
        r"^FROM \S+ AS modelserver$.*?^CMD (\[.*?\])$", (repository / "Dockerfile").read_text(), FLAGS
    )
    options, ignored = parse(json.loads(stage.replace("\\\n", "")))
    options.check()
    assert [] == ignored
    assert (True, False, "/models") == (options.enable_batching, options.enable_reload_requests, options.models_dir)


def test_health_is_what_the_path_answers(repository: Path, port: int) -> None:
    """0 for 200; else 1 and what was wrong."""
    assert 0 == check(repository, "http", "/livez", MICROTOME_PORT=str(port)).returncode
    ill = check(repository, "http", "/readyz", MICROTOME_PORT=str(port))
    assert (1, "expected 200 on /readyz, received 503\n") == (ill.returncode, ill.stderr)


def test_health_is_asked_where_probes_are_answered(repository: Path, port: int) -> None:
    """A port of their own goes before the gateway's."""
    answer = check(repository, "http", "/livez", MICROTOME_PORT="1", MICROTOME_OPERATIONS_PORT=str(port))
    assert 0 == answer.returncode


def test_a_model_server_is_healthy_while_it_answers(repository: Path) -> None:
    """0 for a port whose health is SERVING; 1 for one that takes connections and never answers, as a frozen process."""
    server = grpc.server(ThreadPoolExecutor(1))
    health = HealthServicer()
    health.set("", HealthCheckResponse.SERVING)
    add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        assert 0 == check(repository, "grpc", str(port)).returncode
        health.set("", HealthCheckResponse.NOT_SERVING)
        assert 1 == check(repository, "grpc", str(port)).returncode
    finally:
        server.stop(None)
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        frozen_port = str(frozen.getsockname()[1])
        ill = check(repository, "grpc", frozen_port)
    assert (1, f"grpc {frozen_port}: DEADLINE_EXCEEDED\n") == (ill.returncode, ill.stderr)


def test_a_wrong_check_is_told_from_an_ill_server(repository: Path) -> None:
    """2 and what was expected."""
    assert 2 == check(repository, "ftp").returncode
