"""The processes that the end-to-end tests share, healed before each test and shown when one fails."""

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from tests.e2e.processes import Gateway, ModelServer, Process, Valkey, free_port


@dataclass(frozen=True)
class Stack:
    """All processes of a deployment."""

    valkey: Valkey
    model_server: ModelServer
    gateway: Gateway

    def processes(self) -> list[Process]:
        """In the order in which they are started."""
        return [getattr(self, field.name) for field in fields(self)]

    def heal(self) -> None:
        """Make all of them serve."""
        for process in self.processes():
            process.heal()


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory with a path short enough for sockets, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="microtome-e2e-", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture(scope="module")
def models(directory: Path, lite0_models: Path) -> Path:
    """This module's own copy of the exported models, made of hard links."""
    return Path(shutil.copytree(lite0_models, directory / "models", copy_function=os.link))


@pytest.fixture(scope="module")
def module_stack(directory: Path, models: Path) -> Iterator[Stack]:
    """The stack, not started; use `stack`."""
    valkey = Valkey(directory)
    model_server = ModelServer(directory, models)
    # Without a cache of its own the gateway has to ask Valkey, which is what the drills are about.
    gateway = Gateway(
        directory, model_server.address, "lite0,*", redis_url=valkey.url, cache_bytes=0, grpc_port=free_port()
    )
    stack = Stack(valkey, model_server, gateway)
    try:
        yield stack
    finally:
        for process in reversed(stack.processes()):
            process.destroy()


@pytest.fixture
def stack(module_stack: Stack) -> Stack:
    """Valkey, model server and gateway, all serving, whatever the test before did to them."""
    module_stack.heal()
    return module_stack


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of a failed test's processes."""
    report = yield
    if report.failed:
        values = getattr(item, "funcargs", {}).values()
        shared = [process for value in values if isinstance(value, Stack) for process in value.processes()]
        own = [value for value in values if isinstance(value, Process)]
        for process in dict.fromkeys(shared + own):
            report.sections.append((f"log of {process.name}", process.last_lines()))
    return report
