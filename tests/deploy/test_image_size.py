"""What goes into the images without TensorFlow, made in a clean directory: small, and with all that they need."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.e2e.photos import example, unseen
from tests.e2e.processes import Gateway, ModelServer, Process, Valkey, free_port
from tests.exported_models import REPOSITORY
from tests.wheels import OURS, build_wheels

IMAGE = REPOSITORY / "deploy" / "image"

LIMIT = 265_000_000
"""Bytes that the gateway's image may have."""

BOTH_LIMIT = 500_000_000
"""Bytes that the image of model server and gateway may have."""

SYSTEM = 120_000_000
"""Bytes of python:3.11-slim, about 130 MB, without what the stage `system` removes, 16 MB; room for its next one."""


class Contents(NamedTuple):
    """What the image has beside its system."""

    packages: Path
    bytecode: Path

    def environment(self) -> Mapping[str, str]:
        """Lead Python to it, and to nothing else."""
        return {"PYTHONPATH": str(self.packages), "PYTHONPYCACHEPREFIX": str(self.bytecode)}

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run Python on it, without this environment's packages."""
        environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **self.environment()}
        command = [sys.executable, "-S", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


class ImagesGateway(Gateway):
    """The gateway, started from what is in the image."""

    def __init__(self, directory: Path, model_server: str, contents: Contents, redis_url: str) -> None:
        super().__init__(directory, model_server, redis_url=redis_url, grpc_port=free_port())
        self.contents = contents
        self.place = directory

    def words(self) -> list[str]:
        """Without this environment's packages."""
        return [sys.executable, "-S", "-m", "service"]

    def environment(self) -> Mapping[str, str]:
        """Its settings and its packages; it may write bytecode, which it cannot in the image."""
        return {**super().environment(), **self.contents.environment()}


class ImagesModelServer(ModelServer):
    """The model server, started from what is in its image, and computing with what there is."""

    def __init__(self, directory: Path, models: Path, contents: Contents) -> None:
        super().__init__(directory, models)
        self.contents = contents

    def words(self) -> list[str]:
        """Without this environment's packages."""
        program, *more = super().words()
        return [program, "-S", *more]

    def environment(self) -> Mapping[str, str]:
        """Its packages, and no others."""
        return {**super().environment(), **self.contents.environment()}


def locked(*sets: str) -> list[str]:
    """Name the packages that the image gets on this machine."""
    texts = [(REPOSITORY / "requirements" / f"{name}.txt").read_text(encoding="utf-8") for name in sets]
    lines = [line for text in texts for line in text.splitlines()]
    wanted = [Requirement(line.rstrip(" \\")) for line in lines if line and line[0] not in " #"]
    return sorted({canonicalize_name(r.name) for r in wanted if r.marker is None or r.marker.evaluate()})


def made_of(root: Path, sets: Sequence[str], programs: Sequence[str]) -> Contents:
    """Do what the Dockerfile does, with the packages of this environment, which are of the same locks."""
    if shutil.which("strip") is None:
        pytest.skip("needs strip on PATH; Debian has it in the package binutils")
    made = Contents(root / "packages", root / "bytecode")
    for name in locked(*sets):
        files = distribution(name).files or []
        for file in files:
            if file.suffix != ".pyc" and ".." not in file.parts:
                (made.packages / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), made.packages / file)
    subprocess.run([sys.executable, IMAGE / "slim.py", made.packages], check=True)
    options = ["--quiet", "--no-compile", "--no-deps", "--no-index", f"--target={made.packages}"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *build_wheels(root)], check=True)
    done = made.run(IMAGE / "bytecode.py", *programs)
    assert (0, "") == (done.returncode, done.stderr)
    return made


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """What the gateway's image has."""
    return made_of(tmp_path_factory.mktemp("image"), ["gateway", "text"], ["service"])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """What the image of model server and gateway has."""
    return made_of(tmp_path_factory.mktemp("both"), ["gateway", "text", "openvino"], ["service", "modelserver"])


@pytest.fixture(scope="module")
def processes(contents: Contents, lite0_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway of the image's contents that serves."""
    directory = tmp_path_factory.mktemp("i")
    valkey, model_server = Valkey(directory), ModelServer(directory, lite0_models)
    gateway = ImagesGateway(directory, model_server.address, contents, valkey.url)
    started: tuple[Process, ...] = (valkey, model_server, gateway)
    try:
        for process in started:
            process.start()
        yield gateway
    finally:
        for process in started:
            process.destroy()


def size(*roots: Path) -> int:
    """Bytes of all files under some directories."""
    return sum(path.stat().st_size for root in roots for path in root.rglob("*") if path.is_file())


def test_the_image_is_small(contents: Contents) -> None:
    """Packages, code and bytecode leave the base the room that it needs."""
    assert size(*contents) < LIMIT - SYSTEM


def test_every_package_can_be_asked_for_its_version(contents: Contents) -> None:
    """Slimming leaves metadata alone: names are all there, and licences."""
    asked = "from importlib.metadata import distributions; print(*sorted({d.name for d in distributions()}), sep='\\n')"
    done = contents.run("-c", asked)
    assert sorted(map(canonicalize_name, done.stdout.split())) == sorted([*locked("gateway", "text"), *OURS]), (
        done.stderr
    )
    assert list(contents.packages.glob("numpy-*.dist-info/licenses/*"))


def test_the_gateway_answers_and_compiles_nothing(contents: Contents, processes: Gateway) -> None:
    """From start to answer it imports only what has its bytecode in the image, Python's own library included."""
    there = set(contents.bytecode.rglob("*.pyc"))
    with processes.client() as client:
        photo = example("cat")
        assert [200, 200] == [client.post("/embed", content=body).status_code for body in (photo, unseen(photo))]
        assert 422 == client.post("/embed", content=b"no image").status_code
        assert 200 == client.get("/docs").status_code
    assert httpx.get(f"{processes.url}/metrics", trust_env=False).is_success
    compiled = {path.relative_to(contents.bytecode) for path in set(contents.bytecode.rglob("*.pyc")) - there}
    assert set() == compiled


def test_one_image_embeds_on_a_cpu(
    both: Contents, lite0_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Model server and gateway from the same packages, without TensorFlow: small, and a photo has its vector."""
    assert size(*both) < BOTH_LIMIT - SYSTEM
    assert not list(both.packages.glob("tensorflow*"))
    directory = tmp_path_factory.mktemp("c")
    valkey, model_server = Valkey(directory), ImagesModelServer(directory, lite0_models, both)
    gateway = ImagesGateway(directory, model_server.address, both, valkey.url)
    started: tuple[Process, ...] = (valkey, model_server, gateway)
    try:
        for process in started:
            process.start()
        with gateway.client() as client:
            assert 200 == client.post("/embed", content=example("cat")).status_code
            (model,) = client.get("/models").json()["models"]
        assert ["openvino: it computes the golden vectors"] == [said.partition(",")[0] for said in model["engines"]]
    finally:
        for process in started:
            process.destroy()


def test_what_is_not_there_any_more_is_told(tmp_path: Path) -> None:
    """A pattern that finds nothing has been overtaken by a newer package: an error, and nothing is removed."""
    (tmp_path / "numpy").mkdir()
    command = [sys.executable, str(IMAGE / "slim.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 1 == done.returncode
    assert f"Expected something like */**/tests in {tmp_path}; nothing is." in done.stderr
    assert (tmp_path / "numpy").exists()


def test_bytecode_is_not_written_just_anywhere() -> None:
    """Without a place for it the script would write beside the sources."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPYCACHEPREFIX"}
    command = [sys.executable, str(IMAGE / "bytecode.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (2, True) == (done.returncode, "PYTHONPYCACHEPREFIX" in done.stderr)
