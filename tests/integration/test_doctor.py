"""`microtome doctor` on set-ups that are broken: what it says of each is in docs/doctor.md, word for word."""

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from microtome.commands.cli import main
from microtome.commands.doctor import command, here
from microtome.commands.doctor.here import Finding
from tests.e2e.processes import Valkey, free_port
from tests.exported_models import REPOSITORY

RECIPE = """models:
  - name: lite0
    backbone: EfficientNetLite0
    weights: imagenet
    outputs: [{name: top, layer: top_activation}]
"""
Case = Callable[["Place"], list[str]]


class Place:
    """A set-up that works: a folder with a recipe, a Valkey with a user, ports that are free."""

    def __init__(self, folder: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch, exported: Path) -> None:
        self.folder, self.valkey, self.monkeypatch, self.exported = folder, valkey, monkeypatch, exported
        self.ports = [free_port(), free_port()]
        (folder / "recipe.yaml").write_text(RECIPE)
        with valkey.client() as client:
            client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">s3cret", "~mt1*", "+@all")
            client.config_set("maxmemory", "64mb")
            client.config_set("maxmemory-policy", "allkeys-lru")

    @property
    def version(self) -> Path:
        """An exported version, to break."""
        target = self.folder / "models" / "lite0" / "1"
        if not target.exists():
            shutil.copytree(self.exported / "lite0" / "1", target)
        return target

    def redis(self, login: str = "app:s3cret", port: int = 0) -> list[str]:
        """The option."""
        return [f"--redis=redis://{login}@127.0.0.1:{port or self.valkey.port}"]

    def plain(self, text: str) -> str:
        """A line without what differs from machine to machine."""
        for port, name in zip([self.valkey.port, *self.ports], ("6379", "8000", "8500"), strict=True):
            text = re.sub(rf"\b{port}\b", name, text)
        text = re.sub(r"(Valkey \d+)[.\d]+", r"\1", text.replace(f"{self.folder}{os.sep}", ""))
        text = re.sub(r"process \d+ \(.*\)(?=\. )", "process 4711 (python -m service)", text)
        return re.sub(r"(make run ARGS=\")?(microtome up )?--port \d+\"?", "microtome up --port 8001", text)


def refused(place: Place) -> list[str]:
    """Nothing listens at the address of Redis."""
    return place.redis(port=place.ports[1])


def wrong_password(place: Place) -> list[str]:
    """Redis, with a wrong password."""
    return place.redis("app:wrong")


def few_rights(place: Place) -> list[str]:
    """Redis, with a user that may not write."""
    with place.valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "-set")
    return place.redis()


def full_memory(place: Place) -> list[str]:
    """Redis refuses new values when it is full."""
    with place.valkey.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
    return place.redis()


def taken_port(place: Place) -> list[str]:
    """Another program has the port."""
    listener = socket.create_server(("127.0.0.1", place.ports[0]))
    place.monkeypatch.setattr(place, "listener", listener, raising=False)
    place.monkeypatch.setattr(command, "_gateway", lambda _: iter([Finding("failed", "", "cannot be reached")]))
    return []


def half_written(place: Place) -> list[str]:
    """A model's folder is written in part."""
    (place.version / "assets.extra" / "manifest.json").unlink()
    return []


def cut_graph(place: Place) -> list[str]:
    """A model's graph is cut off."""
    file = place.version / "saved_model.pb"
    file.write_bytes(file.read_bytes()[:1_000_000])
    return []


def damaged_manifest(place: Place) -> list[str]:
    """A manifest is damaged."""
    (place.version / "assets.extra" / "manifest.json").write_text('{"manifest_version": 2, "fingerprint"')
    return []


def silent_server(place: Place) -> list[str]:
    """No model server answers."""
    return [f"--server=127.0.0.1:{place.ports[1]}", "--model=lite0"]


def malformed_setting(place: Place) -> list[str]:
    """Settings that are none."""
    place.monkeypatch.setenv("MICROTOME_DRAIN", "soon")
    place.monkeypatch.setenv("MICROTOME_MAX_IMAGE", "4")
    return []


def small_memory(place: Place) -> list[str]:
    """A container with 512 MiB."""
    place.monkeypatch.setattr("microtome.machine.memory", lambda: 512 << 20)
    return []


def wrong_version(place: Place) -> list[str]:
    """Another release of TensorFlow."""
    place.monkeypatch.setattr(here, "version", lambda name: "2.19.0" if name == "tensorflow" else version(name))
    return []


def missing_wheel(place: Place) -> list[str]:
    """One of the two wheels is missing."""

    def found(name: str) -> str:
        if name == "microtome-server":
            raise PackageNotFoundError(name)
        return version(name)

    place.monkeypatch.setattr(here, "version", found)
    return []


def invalid_recipe(place: Place) -> list[str]:
    """A recipe names no backbone."""
    (place.folder / "recipe.yaml").write_text(RECIPE.replace("EfficientNetLite0", "EfficientNetLite9"))
    return []


def closed_folder(place: Place) -> list[str]:
    """The models folder cannot be written."""
    (place.folder / "notes.txt").touch()
    return [f"--models-dir={place.folder}/notes.txt/models"]


CASES: dict[str, Case] = {
    str(case.__doc__).rstrip("."): case
    for case in (
        refused,
        wrong_password,
        few_rights,
        full_memory,
        taken_port,
        half_written,
        cut_graph,
        damaged_manifest,
        silent_server,
        malformed_setting,
        small_memory,
        wrong_version,
        missing_wheel,
        invalid_recipe,
        closed_folder,
    )
}


@pytest.fixture
def place(tmp_path: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch, lite0_models: Path) -> Iterator[Place]:
    """The set-up, as the current directory, without this machine's settings."""
    for name in [name for name in os.environ if name.startswith("MICROTOME_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("microtome.machine.cores", lambda: 2)
    made = Place(tmp_path, valkey, monkeypatch, lite0_models)
    yield made
    listener = getattr(made, "listener", None)
    if listener:
        listener.close()


def doctor(place: Place, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, Any]]]:
    """Run it in this process; return the exit code and what it found."""
    code = main(["doctor", "--json", f"--port={place.ports[0]}", *words])
    return code, json.loads(capsys.readouterr().out)


def test_a_set_up_that_works_has_no_fault(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """What is still to be done is a warning; each line has what was checked and what was found."""
    code, found = doctor(place, capsys, "--no-golden", *place.redis())
    assert 0 == code
    assert {"recipe lite0": "warning"} == {one["about"]: one["state"] for one in found if one["state"] != "ok"}
    assert {"versions", "settings", "memory", "cores", "models folder", "temporary files"} <= {
        one["about"] for one in found
    }
    assert main(["doctor", "--no-golden", f"--port={place.ports[0]}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(re.match(r"(ok|warning) +\S", line) for line in lines[:-1])
    assert "\x1b" not in "".join(lines)
    assert lines[-1] == f"{len(lines) - 2} ok, 1 warning"


@pytest.mark.parametrize("name", CASES)
def test_what_is_broken_is_said_with_what_to_do(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what is broken fails, in the words of docs/doctor.md, which has a line for each."""
    code, found = doctor(place, capsys, "--no-golden", *CASES[name](place))
    worst = "failed" if code else "warning"
    broken = [one for one in found if one["state"] == worst and one["about"] != "recipe lite0"]
    assert broken
    text = (REPOSITORY / "docs" / "doctor.md").read_text(encoding="utf-8")
    for one in broken:
        assert one["advice"]
        words = place.plain(f"{one['about']}: {one['said']} {one['advice']}")
        assert f"| {name} | `{worst}` {words} |" in text


def test_golden_vectors_are_computed_by_the_engine(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """In a process of its own: one version is right, one deviates, and one cannot be run."""
    manifest = place.version / "assets.extra" / "manifest.json"
    for other in ("other", "third"):
        shutil.copytree(place.version, place.folder / "models" / other / "1")
    changed = json.loads(manifest.read_bytes())
    for one in changed["golden"]["vectors"]["top"]:
        one["norm"] *= 1.01
    manifest.write_text(json.dumps(changed))
    (place.folder / "models" / "third" / "1" / "saved_model.pb").write_bytes(b"\x08\x01")
    code, found = doctor(place, capsys)
    said = {one["about"]: one for one in found if one["about"].startswith("golden")}
    assert (1, ["failed", "ok", "failed"]) == (code, [one["state"] for one in said.values()])
    wrong = said["golden vectors lite0 1"]
    words = re.sub(r"\d\.\de-\d\d", "1.0e-02", f"{wrong['about']}: {wrong['said']} {wrong['advice']}")
    assert f"`failed` {words} |" in (REPOSITORY / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert "auto cannot run it" in said["golden vectors third 1"]["said"]


def test_a_check_that_hangs_or_breaks_is_a_finding() -> None:
    """None keeps the others from being made, and none ends in a traceback."""

    def hangs() -> Iterator[Finding]:
        yield Finding("ok", "first", "is there")
        time.sleep(30)

    def breaks() -> Iterator[Finding]:
        raise RuntimeError("so it is")

    assert ["is there", "no answer within 0 s."] == [one.said for one in command._within(0.3, "x", hangs)]
    (found,) = command._within(5, "x", breaks)
    assert ("failed", "cannot be checked: RuntimeError: so it is.") == (found.state, found.said)
