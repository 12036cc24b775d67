"""Hooks, workflows and CI run what the Makefile has, and nothing else."""

import re
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))


def steps(path: Path) -> list[dict[str, str]]:
    """List the steps of all jobs of a workflow."""
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
    return [step for job in jobs for step in job.get("steps", [])]


def test_continuous_integration_runs_what_a_clone_runs() -> None:
    """On every Python that pyproject.toml supports."""
    document = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert ["3.11", "3.12", "3.13"] == document["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert [".ci/run"] == [step["run"] for step in document["jobs"]["test"]["steps"] if "run" in step]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_permissions_are_few(path: Path) -> None:
    """Every action has a major version or a digest; the token may read, and a job that needs more says so."""
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert [] == [name for name in used if not re.fullmatch(r"[\w./-]+@(v\d+|[0-9a-f]{40})", name)]
    assert {"contents": "read"} == yaml.safe_load(path.read_text(encoding="utf-8"))["permissions"]


def test_hooks_call_the_tools_of_the_makefile() -> None:
    """What a hook accepts, `make check` accepts too."""
    document = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert ["local"] == [source["repo"] for source in document["repos"]]
    programs = {hook["entry"].split()[0] for hook in document["repos"][0]["hooks"]}
    assert {".venv/bin/ruff", ".venv/bin/python", ".venv/bin/lint-imports"} == programs
    for words in ("ruff check", "ruff format --check", "-m mypy", "lint-imports"):
        assert words in MAKEFILE


def test_verbs_of_continuous_integration_exist() -> None:
    """.ci/run names verbs of the Makefile."""
    listed = re.search(r"for step in (.*); do", (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8"))
    assert listed is not None
    assert set(listed[1].split()) <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
