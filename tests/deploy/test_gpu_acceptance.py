"""deploy/gpu/accept: the whole procedure against the embedded model server, and what it says where it cannot begin."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench.capacity.costs import gpu_rates
from tests.exported_models import REPOSITORY, export

SCRIPT = REPOSITORY / "deploy" / "gpu" / "acceptance.py"
RECIPE = """
models:
  - name: lite0
    backbone: MobileNet
    weights: random
    input: {size: 32}
    outputs:
      - {name: early, layer: conv_pw_3_relu, pooling: avg}
      - {name: middle, layer: conv_pw_7_relu, pooling: avg}
      - {name: top, layer: conv_pw_13_relu, pooling: avg}
"""


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import what the command runs, which is no package's."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module("acceptance")


@pytest.mark.timeout(1200)
def test_the_procedure_passes_on_the_embedded_model_server(tmp_path: Path) -> None:
    """Every step is made or says why not; a record of the CPU is none that capacity is planned by."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    models = tmp_path / "models"
    done = export(recipe, models, timeout=600)
    assert 0 == done.returncode, done.stderr
    planned = REPOSITORY / "docs" / "gpu.json"
    before = planned.exists() and planned.read_bytes()
    words = [sys.executable, str(SCRIPT), "--cpu", "--quick", f"--models={models}", f"--out={tmp_path}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    record = json.loads((tmp_path / "acceptance.json").read_text())
    verdicts = {step: {f["holds"] for f in record["findings"] if f["step"] == step} for step in "abcdefgh"}
    assert {"a": {None}} | {"d": {True}} | {step: {True, None} for step in "bcefgh"} == verdicts
    assert {"1", "8", "32"} == record["images/s"].keys()
    assert before == (planned.exists() and planned.read_bytes())
    with pytest.raises(SystemExit, match="Expected the record of deploy/gpu/accept"):
        gpu_rates(tmp_path / "acceptance.json")


def test_without_a_gpu_it_says_so(modules: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    """In one sentence, with the option that tries it all the same."""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert 2 == modules.main([])
    assert "--cpu tries the procedure" in capsys.readouterr().err  # type: ignore[attr-defined]


def test_a_gpu_that_cannot_compute_ends_it(modules: ModuleType, tmp_path: Path) -> None:
    """Nothing is started; the step that failed is in the report."""
    steps, machine = importlib.import_module("steps"), importlib.import_module("machine")

    class Unused(machine.EmbeddedServer):  # type: ignore[misc, name-defined]
        def start(self, *_: object, **__: object) -> float:
            raise AssertionError("it is not started")

    gpu = machine.Gpu("NVIDIA B200", 10.0, "580.65.06", 183359)
    trial = steps.Trial("m", tmp_path, Unused(tmp_path, "m"), gpu, True, tmp_path, lambda _: None)
    modules._try_all(trial)
    assert [("a", False)] == [(found.step, found.holds) for found in trial.findings]


def test_a_server_that_does_not_start_fails_its_step(modules: ModuleType, tmp_path: Path) -> None:
    """The end of its log is the figure, and the other steps are left out."""
    steps, machine = importlib.import_module("steps"), importlib.import_module("machine")

    class Broken(machine.EmbeddedServer):  # type: ignore[misc, name-defined]
        def start(self, *_: object, **__: object) -> float:
            raise machine.NotStarted("CUDA_ERROR_UNSUPPORTED_PTX_VERSION")

    version = tmp_path / "version"
    version.mkdir()
    trial = steps.Trial("m", version, Broken(tmp_path, "m"), None, True, tmp_path, lambda _: None)
    modules._try_all(trial)
    last = trial.findings[-1]
    assert ("b", False) == (last.step, last.holds)
    assert "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" in last.figure


def test_the_page_shows_a_run_on_the_cpu(repository: Path) -> None:
    """docs/acceptance.md is the report of a whole run with the default recipe: nothing failed."""
    text = (repository / "docs" / "acceptance.md").read_text(encoding="utf-8")
    assert "lite0 on the CPU" in text
    assert "| FAILED |" not in text
    assert {f"| {step} |" for step in "abcdefgh"} <= {line[:5] for line in text.splitlines()}
