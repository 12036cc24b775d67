"""Fixtures for all tests: the repository, its default model really exported, and data that may be absent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.e2e.processes import Valkey
from tests.exported_models import REPOSITORY, SQUASHED, export_once

# How long an example takes is the machine's affair, which others use at the same time.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a temporary directory that all workers of this test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def lite0_models(shared_directory: Path) -> Path:
    """Return a models directory with the default recipe in it, exported by the real command. Do not write to it."""
    return export_once(REPOSITORY / "recipe.yaml", shared_directory / "lite0_models")


@pytest.fixture(scope="session")
def squashed_lite0(shared_directory: Path) -> Path:
    """Return a version 2 of the default recipe's model whose vectors differ, not verified. Copy it by hard links."""
    recipe = shared_directory / f"squashed-{os.getpid()}.yaml"
    recipe.write_text(SQUASHED.replace("    weights", "    version: 2\n    weights"), encoding="utf-8")
    return export_once(recipe, shared_directory / "squashed_models", "--no-verify") / "lite0" / "2"


@pytest.fixture(scope="session")
def tower_models(shared_directory: Path) -> Path:
    """Return a models directory with both towers of a tiny CLIP and a tiny SigLIP. Do not write to it.

    See `tests.transformer_models.exported_towers`.
    """
    from tests.transformer_models import exported_towers  # noqa: PLC0415, imports KerasHub

    return exported_towers(shared_directory / "towers")


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Return a function from the name of a data set beside the checkout to its path; it skips where there is none."""

    def find(name: str) -> Path:
        path = REPOSITORY.parent / "shared" / "data" / name
        if not path.exists():
            pytest.skip(f"needs the data set {name}, which is not in ../shared/data beside the checkout")
        return path

    return find


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Return a function that notes whose client a test tries, by the package's name; the summary shows its version."""
    return lambda package: record_property("client", f"{package} {version(package)}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the drills counted and which clients were tried, before the closing line."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    for property_, title in (("drill", "drills"), ("client", "clients, unmodified")):
        lines = [str(value) for report in reports for name, value in report.user_properties if name == property_]
        if lines:
            terminalreporter.section(title)
            for line in dict.fromkeys(lines):
                terminalreporter.write_line(line)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One Valkey server for the module."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.destroy()
