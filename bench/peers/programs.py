"""How each peer is installed, in a virtual environment of its own under bench/out/peers/, and started."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.load.corpus import OUT

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Peer:
    """One program.

    Attributes:
        name: For people.
        module: Its file here; the requirements and the virtual environment are named after it.
        options: Words after the interpreter; `{port}` is filled in.
    """

    name: str
    module: str
    options: tuple[str, ...]

    @property
    def python(self) -> Path:
        """The interpreter of its virtual environment."""
        return OUT / "peers" / self.module / "bin" / "python"

    def install(self) -> None:
        """Make its virtual environment, unless that has been done.

        Raises:
            subprocess.CalledProcessError: It cannot be installed here.
        """
        done = self.python.parent.parent / ".installed"
        if done.exists():
            return
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(done.parent)], check=True)
        requirements = _HERE / f"requirements-{self.module.replace('_', '-')}.txt"
        words = [self.python, "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", requirements]
        subprocess.run(list(map(str, words)), check=True)
        done.touch()

    def command(self, port: int) -> list[str]:
        """The words that start it."""
        return [str(self.python), *(option.format(port=port, here=_HERE) for option in self.options)]

    def environment(self, model: Path, port: int) -> dict[str, str]:
        """Return its variables."""
        quiet = {"BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0", "LIT_DISABLE_TELEMETRY": "1"}
        ours = {"MODEL": str(model), "PORT": str(port), "PYTHONPATH": str(_HERE), "TF_CPP_MIN_LOG_LEVEL": "3"}
        return {**ours, **quiet, "RAY_AUTH_MODE": "disabled"}


PEERS = (
    Peer("FastAPI + Keras", "fastapi_keras", ("{here}/fastapi_keras.py",)),
    Peer("mosec", "mosec_workers", ("{here}/mosec_workers.py", "--port", "{port}", "--timeout", "30000")),
    Peer("LitServe", "lit_serve", ("{here}/lit_serve.py",)),
    Peer("Ray Serve", "ray_serve", ("{here}/ray_serve.py",)),
    Peer(
        "BentoML",
        "bento_ml",
        (
            *("-m", "bentoml", "serve", "bento_ml:Embed", "--working-dir", "{here}"),
            *("--port", "{port}", "--host", "127.0.0.1"),
            # By default idle connections between its services end after 5 s, and requests on such a connection fail.
            *("--timeout-keep-alive", "600"),
        ),
    ),
)
