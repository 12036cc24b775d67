"""The GPU, Docker, and the servers that are tried: TensorFlow Serving on the GPU, or the embedded server on the CPU.

Both are started with the arguments of deploy/kubernetes, looking for new versions each second.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from bench.processes.usage import descendants, resident_megabytes  # noqa: E402
from tests.e2e.processes import free_port  # noqa: E402

MANIFESTS = REPOSITORY / "deploy" / "kubernetes"
POLLING = {"file_system_poll_wait_seconds": "1", "model_config_file_poll_wait_seconds": "1"}
SERVING = b"\x08\x01"
"""A HealthCheckResponse that says so."""


class NotStarted(Exception):
    """A server that is tried does not serve; the text is the end of its log."""


@dataclass(frozen=True)
class Gpu:
    """The first GPU of this machine, as nvidia-smi has it.

    Attributes:
        name: Of the card.
        capability: Compute capability, such as 8.6.
        driver: Version.
        megabytes: Of memory.
    """

    name: str
    capability: float
    driver: str
    megabytes: int

    @classmethod
    def found(cls) -> "Gpu | None":
        """Return it, or None where there is no nvidia-smi or no GPU."""
        try:
            name, capability, driver, memory = _asked("name,compute_cap,driver_version,memory.total")
        except (OSError, subprocess.SubprocessError, ValueError):
            return None
        return cls(name, float(capability), driver, int(memory))

    def used_megabytes(self) -> float:
        """Return the memory that is in use now."""
        return float(_asked("memory.used")[0])

    def utilization(self) -> float:
        """Return the percentage of the last second in which a kernel ran."""
        return float(_asked("utilization.gpu")[0])


def _asked(fields: str) -> list[str]:
    words = ["nvidia-smi", "-i", "0", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)  # noqa: S603 - constant
    return [field.strip() for field in done.stdout.splitlines()[0].split(",")]


def run(*words: str, seconds: float = 120.0) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        NotStarted: It ended with another status than 0.
    """
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds)  # noqa: S603 - ours
    if done.returncode:
        raise NotStarted(f"{' '.join(words[:3])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def arguments(manifest: Path, changed: Mapping[str, str]) -> list[str]:
    """Return a model server's arguments as Kubernetes passes them, some of them changed."""
    first = next(yaml.safe_load_all(manifest.read_text(encoding="utf-8")))
    (container,) = [one for one in first["spec"]["template"]["spec"]["containers"] if one["name"] == "model-server"]
    flags = dict(word.removeprefix("--").split("=", 1) for word in container["args"])
    return [f"--{name}={value}" for name, value in {**flags, **changed}.items()]


class Server(ABC):
    """A model server over `<place>/models`, with its configuration in `<place>/tfserving`."""

    def __init__(self, place: Path, model: str) -> None:
        self.models = place / "models"
        self.files = place / "tfserving"
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._place = place
        self._write_configuration(model)

    def _write_configuration(self, model: str) -> None:
        self.files.mkdir(parents=True, exist_ok=True)
        (self.models / model).mkdir(parents=True, exist_ok=True)
        for name in ("batching.config", "monitoring.config", "session.config"):
            shutil.copy(REPOSITORY / "deploy" / "tfserving" / name, self.files)
        (self.files / "models.config").write_text(
            f'model_config_list {{ config {{ name: "{model}" base_path: "{self.seen}/{model}" model_platform: '
            '"tensorflow" model_version_policy { latest { num_versions: 2 } } } }\n',
            encoding="utf-8",
        )

    @property
    def seen(self) -> str:
        """The models' directory as the server sees it."""
        return str(self.models)

    def start(self, environment: Mapping[str, str], *, read_only: bool = True, seconds: float = 600.0) -> float:
        """Start it, and return the seconds until its health service says that it serves, as the startup probe asks.

        Raises:
            NotStarted: It ended, or does not serve in time.
        """
        began = time.monotonic()
        self._launch(environment, read_only=read_only)
        with grpc.insecure_channel(self.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
            while time.monotonic() < began + seconds:
                with suppress(grpc.RpcError):
                    if check(b"", timeout=2.0) == SERVING:
                        return time.monotonic() - began
                if not self.pids():
                    raise NotStarted("\n".join(self.log().splitlines()[-8:]))
                time.sleep(0.1)
        raise NotStarted(f"It does not serve after {seconds:.0f} s. " + "\n".join(self.log().splitlines()[-8:]))

    def rss(self) -> float:
        """Return its resident memory, 10^6 bytes."""
        return max(resident_megabytes(pid) for pid in self.pids())

    @abstractmethod
    def _launch(self, environment: Mapping[str, str], *, read_only: bool) -> None: ...

    @abstractmethod
    def pids(self) -> list[int]:
        """Return its processes; none when it has ended."""

    @abstractmethod
    def log(self) -> str:
        """Return what it has said."""

    @abstractmethod
    def terminate(self) -> None:
        """Send SIGTERM."""

    @abstractmethod
    def freeze(self) -> None:
        """Stop all of its threads, as SIGSTOP does."""

    @abstractmethod
    def thaw(self) -> None:
        """Let them go on."""

    @abstractmethod
    def destroy(self) -> None:
        """End it, whatever its state."""


class EmbeddedServer(Server):
    """`python -m modelserver`."""

    _process: subprocess.Popen[bytes] | None = None

    def _launch(self, environment: Mapping[str, str], *, read_only: bool) -> None:  # noqa: ARG002 - of containers
        changed = POLLING | {
            "host": "127.0.0.1",
            "port": str(self.port),
            "rest_api_port": "0",
            "monitoring_config_file": "",
            "model_config_file": str(self.files / "models.config"),
            "models_dir": str(self.models),
            "batching_parameters_file": str(self.files / "batching.config"),
            "exit_with_parent": "true",
        }
        words = arguments(MANIFESTS / "components" / "embedded" / "model-server.yaml", changed)
        with (self._place / "server.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - ours
                [sys.executable, "-m", "modelserver", *words],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def pids(self) -> list[int]:
        """Its one process; see `Server`."""
        return [self._process.pid] if self._process and self._process.poll() is None else []

    def log(self) -> str:
        """Its log; see `Server`."""
        return (self._place / "server.log").read_text(encoding="utf-8", errors="replace")

    def terminate(self) -> None:
        """SIGTERM; see `Server`."""
        self._send(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP; see `Server`."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT; see `Server`."""
        self._send(signal.SIGCONT)

    def destroy(self) -> None:
        """SIGKILL; see `Server`."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def _send(self, number: signal.Signals) -> None:
        for pid in self.pids():
            os.kill(pid, number)


class DockerServer(Server):
    """TensorFlow Serving's GPU image, locked down as in Kubernetes: not root, no capabilities, one GPU."""

    def __init__(self, place: Path, model: str, image: str) -> None:
        super().__init__(place, model)
        self.image = image
        self._name = f"microtome-accept-{self.port}"

    @property
    def seen(self) -> str:
        """The mount point; see `Server`."""
        return "/models"

    def _launch(self, environment: Mapping[str, str], *, read_only: bool) -> None:
        self.destroy()
        variables = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
        run(
            *("docker", "run", "--detach", "--name", self._name, "--init", "--gpus", "device=0"),
            *("--user", "10001:10001", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp"),  # noqa: S108 - in the container
            *(["--read-only"] if read_only else []),
            *("--publish", f"127.0.0.1:{self.port}:8500"),
            *("--volume", f"{self.models}:/models:ro", "--volume", f"{self.files}:/etc/tfserving:ro"),
            *variables,
            *("--entrypoint", "/usr/bin/tensorflow_model_server", self.image),
            *arguments(MANIFESTS / "base" / "model-server.yaml", POLLING),
        )

    def pids(self) -> list[int]:
        """Init and the server; see `Server`."""
        with suppress(NotStarted):
            first = int(run("docker", "inspect", "--format", "{{.State.Pid}}", self._name))
            return descendants(first) if first else []
        return []

    def log(self) -> str:
        """Both streams; see `Server`."""
        done = subprocess.run(["docker", "logs", self._name], capture_output=True, text=True, check=False)  # noqa: S603, S607
        return done.stdout + done.stderr

    def terminate(self) -> None:
        """To init, which passes it on; see `Server`."""
        run("docker", "kill", "--signal", "SIGTERM", self._name)

    def freeze(self) -> None:
        """By the control group; see `Server`."""
        run("docker", "pause", self._name)

    def thaw(self) -> None:
        """By the control group; see `Server`."""
        run("docker", "unpause", self._name)

    def destroy(self) -> None:
        """Remove the container; see `Server`."""
        with suppress(NotStarted):
            run("docker", "rm", "--force", self._name)

    def about(self) -> dict[str, str]:
        """Return the image's digest and its cuDNN, whose version depends on the day that the image was built."""
        digests = run("docker", "image", "inspect", "--format", '{{join .RepoDigests " "}}', self.image)
        words = ("docker", "run", "--rm", "--env", "NVIDIA_VISIBLE_DEVICES=void", "--entrypoint", "bash", self.image)
        libraries = run(*words, "-c", "ls /usr/lib/x86_64-linux-gnu")
        versions: Sequence[str] = re.findall(r"libcudnn\.so\.(\d+\.\d+\.\d+)", libraries)
        return {"digest": digests or self.image, "cudnn": ", ".join(sorted(set(versions))) or "not found"}
