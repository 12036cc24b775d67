"""Both wheels as others get them: installed into empty environments, each with what it declares and nothing else."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import httpx
import numpy as np
import ormsgpack
import pytest

from exporter.recipe.reading import read_recipe
from microtome import __version__
from microtome.commands.cli import COMMANDS
from microtome.commands.manifests import manifests
from tests.e2e.photos import EXAMPLES
from tests.e2e.test_up import Up
from tests.exported_models import REPOSITORY
from tests.wheels import build_wheels, environment

SERVER = "needs the server's packages, which are not installed"
GRPC = "pip install grpcio"
LACKING = {
    "up": ([], SERVER),
    "export": (["recipe.yaml"], SERVER),
    "layers": (["ResNet50"], SERVER),
    "graph": (["ResNet50"], SERVER),
    "split": (["ResNet50"], SERVER),
    "verify": (["models/lite0/1"], SERVER),
    "inspect": (["models/lite0/1"], SERVER),
    "bench": (["models/lite0/1"], SERVER),
    "sweep": (["photos/"], SERVER),
    "train": (["photos/", "--from=recipe.yaml"], SERVER),
    "look": (["VGG16", "--layer=block3_conv3"], SERVER),
    "recipe": (["schema"], SERVER),
    "cache": (["stats", "--model=lite0", "--redis=redis://127.0.0.1:1"], SERVER),
    "doctor": ([], SERVER),
    "manifests": (["recipe.yaml", "--out=mine"], SERVER),
    "rollout": (["lite0", "2", "--config=models.config", "--server=127.0.0.1:1"], GRPC),
    "embed": (["cat.jpg", "--out=v.npy", "--url=grpc://127.0.0.1:1"], GRPC),
    "search": ([".", "cat.jpg", "--url=grpc://127.0.0.1:1"], GRPC),
    "classify": (["cat.jpg", "--out=c.csv", "--url=grpc://127.0.0.1:1"], GRPC),
}
"""For each command words that are right where everything is installed, and what is said where only the client is."""

PROGRAM = """
import asyncio
import microtome
from microtome.client import errors

client = microtome.Client("http://localhost:8000")
reveal_type(client.embed("cat.jpg"))
reveal_type(client.embed(["cat.jpg", b"bytes"], output=["early", "top"]))
reveal_type(next(client.embed_many(["cat.jpg"])).vector)

async def main() -> None:
    async with microtome.AsyncClient("grpc://localhost:8001") as other:
        reveal_type(await other.embed("cat.jpg", dtype="float16"))

try:
    asyncio.run(main())
except errors.TemporarilyUnable as error:
    reveal_type(error.retry_after)
client.embed("cat.jpg", dtype="float31")
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the wheels `microtome` and `microtome-server`."""
    return build_wheels(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def client_only(wheels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the `bin` of an environment that has the wheel `microtome`."""
    return environment(tmp_path_factory.mktemp("client") / "venv", wheels[0])


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    """Yield the address of something that answers as a gateway does, with vectors of two numbers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Answers(BaseHTTPRequestHandler):
    """One model and its vectors."""

    def do_GET(self) -> None:
        """List the model."""
        manifest = {"fingerprint": "sha256:aa", "default_output": "top", "outputs": []}
        model = {"name": "m", "ready": True, "version": 1, "manifest": manifest}
        self.answer(json.dumps({"default": "m", "models": [model]}).encode())

    def do_POST(self) -> None:
        """Embed one image."""
        self.rfile.read(int(self.headers["content-length"]))
        entry = {"index": 0, "output": "top", "vector": np.ones(2, np.float32).tobytes()}
        head = {"model": "m", "version": 1, "fingerprint": "sha256:aa"}
        self.answer(ormsgpack.packb({**head, "embeddings": [entry], "errors": []}))

    def answer(self, body: bytes) -> None:
        """Send a body."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def run(program: Path, *words: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Run a program elsewhere than in the checkout, without its environment's settings."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MICROTOME_", "PYTHON"))}
    return subprocess.run(
        [program, *words], cwd=place, env=inherited, capture_output=True, text=True, timeout=120, check=False
    )


def test_each_wheel_has_its_packages_and_nothing_of_the_other(wheels: tuple[Path, Path], repository: Path) -> None:
    """Both are of one version and complete: `microtome` lists its packages one by one."""
    assert [f"{name}-{__version__}-py3-none-any.whl" for name in ("microtome", "microtome_server")] == [
        wheel.name for wheel in wheels
    ]
    needed = ZipFile(wheels[1]).read(f"microtome_server-{__version__}.dist-info/METADATA").decode()
    assert f"Requires-Dist: microtome=={__version__}\n" in needed
    expected = ({"microtome"}, {"exporter", "modelserver", "service"})
    for wheel, packages in zip(wheels, expected, strict=True):
        names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
        assert packages == {name.split("/")[0] for name in names}
        sources = {
            str(path.relative_to(repository))
            for package in packages
            for path in (repository / package).rglob("*.py*")
            if path.suffix in {".py", ".pyi"} and "build" not in path.parts
        }
        assert sources <= names
    assert "microtome/py.typed" in ZipFile(wheels[0]).namelist()
    others = set(ZipFile(wheels[1]).namelist())
    assert {"exporter/recipe.yaml", "exporter/manifest.schema.json", "service/http/page/index.html"} <= others
    # All that `microtome manifests` copies, and none of the programs of deploy/.
    copied = manifests(read_recipe(repository / "recipe.yaml"), None, repository)
    assert {f"exporter/deploy/{path}" for path in copied} <= others
    assert [] == [name for name in others if name.startswith("exporter/deploy/") and name.endswith((".py", ".md"))]


def test_every_command_says_in_one_sentence_what_is_missing(client_only: Path, tmp_path: Path) -> None:
    """Where only the client is installed, commands of the server and gRPC end with 2 and a line, not a traceback."""
    shutil.copy(EXAMPLES / "cat.jpg", tmp_path)
    (tmp_path / "models.config").touch()
    shown = run(client_only / "microtome", "--help", place=tmp_path)
    assert 0 == shown.returncode, shown.stderr
    assert set(LACKING) == set(COMMANDS) == set(re.findall(r"^  ([a-z]+) ", shown.stdout, re.MULTILINE))
    for command, (words, expected) in LACKING.items():
        done = run(client_only / "microtome", command, *words, place=tmp_path)
        assert (2, "") == (done.returncode, done.stdout), (command, done)
        (said,) = [line for line in done.stderr.splitlines() if not line.endswith("0 of 1 images, 0 a second")]
        assert expected in said
        helped = run(client_only / "microtome", command, "--help", place=tmp_path)
        assert (helped.returncode, "Traceback" in helped.stderr) in {(0, False), (2, False)}


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["--out=v.parquet"], "pip install pyarrow"), (["--out=v", "--engine=ray"], "pip install 'ray[data]'")],
)
def test_embed_says_what_an_option_needs(client_only: Path, tmp_path: Path, words: list[str], expected: str) -> None:
    """Parquet and Ray are extras."""
    done = run(client_only / "microtome", "embed", "-", *words, place=tmp_path)
    assert 2 == done.returncode, done.stderr
    assert expected in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_client_needs_no_more_than_its_wheel_declares(client_only: Path, tmp_path: Path, gateway: str) -> None:
    """`microtome embed` and `microtome.Client` work over HTTP, and nothing of the server is importable."""
    shutil.copy(EXAMPLES / "cat.jpg", tmp_path)
    done = run(client_only / "microtome", "embed", "cat.jpg", "--out=v.npy", f"--url={gateway}", place=tmp_path)
    assert 0 == done.returncode, done.stderr
    assert (1, 2) == np.load(tmp_path / "v.npy").shape
    program = (
        f"import importlib.util, microtome; print(microtome.Client({gateway!r}).embed('cat.jpg').shape,"
        "[n for n in ('service', 'exporter', 'modelserver', 'tensorflow', 'grpc') if importlib.util.find_spec(n)])"
    )
    done = run(client_only / "python", "-c", program, place=tmp_path)
    assert "(2,) []\n" == done.stdout, done.stderr


def test_a_users_type_checker_knows_what_the_client_returns(client_only: Path, tmp_path: Path) -> None:
    """The wheel has its types: arrays, dicts of arrays, options that there are."""
    (tmp_path / "program.py").write_text(PROGRAM)
    words = ["-m", "mypy", "--strict", f"--python-executable={client_only / 'python'}", "--config-file=", "program.py"]
    done = run(Path(sys.executable), *words, place=tmp_path)
    revealed = [line.split('"')[1] for line in done.stdout.splitlines() if "Revealed type" in line]
    array = r"numpy\.ndarray\[.*\]"
    kinds = [array, rf"(builtins\.)?dict\[(builtins\.)?str, {array}\]", array, array, r"(builtins\.)?float"]
    assert len(kinds) == len(revealed), done.stdout
    assert [] == [found for kind, found in zip(kinds, revealed, strict=True) if not re.fullmatch(kind, found)]
    (error,) = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert 'No overload variant of "embed" of "Client"' in error


class InstalledUp(Up):
    """`microtome up` of an environment that has both wheels, without options but the port."""

    def __init__(self, directory: Path, programs: Path) -> None:
        super().__init__(directory)
        self.programs = programs

    def words(self) -> list[str]:
        """By the command that pip made."""
        return ["sh", "-c", f"exec {self.programs / 'microtome'} up --port={self.port} > {self.output}"]

    def environment(self) -> Mapping[str, str]:
        """Nothing leads to the checkout."""
        return {"TMPDIR": str(self.temporary), "PYTHONPATH": ""}


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
def test_both_wheels_serve_without_a_checkout(wheels: tuple[Path, Path], lite0_models: Path) -> None:
    """In an empty directory `microtome up` serves the recipe that is installed, and embeds a photo."""
    with tempfile.TemporaryDirectory(prefix="microtome-e2e-", ignore_cleanup_errors=True) as path:
        place = Path(path) / "work"
        # What the default recipe makes, so that nothing has to be exported.
        shutil.copytree(lite0_models, place / "models", copy_function=os.link)
        programs = environment(Path(path) / "venv", *wheels)
        up = InstalledUp(place, programs)
        try:
            up.start()
            body = (EXAMPLES / "cat.jpg").read_bytes()
            url = f"http://127.0.0.1:{up.port}/embed"
            answer = httpx.post(url, content=body, trust_env=False, timeout=30).raise_for_status()
            assert 1280 == len(answer.json()["embeddings"][0]["vector"])
            assert "the default one is served" in up.last_lines()
            assert "exporting" not in up.last_lines()
            up.send(signal.SIGINT)
            assert 0 == up.wait()
            shutil.copy(REPOSITORY / "recipe.yaml", place)
            done = run(programs / "microtome", "manifests", "recipe.yaml", "--out=mine", place=place)
            assert (0, "") == (done.returncode, done.stderr)
            assert (place / "mine/tfserving/models.config").read_bytes() == (
                REPOSITORY / "deploy/tfserving/models.config"
            ).read_bytes()
        finally:
            up.destroy()
