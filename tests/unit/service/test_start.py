"""What the process does at its start, beside what the application does."""

import os
import re
import socket
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.processes import eventually, free_port

START = """
import asyncio, gc, uvicorn
from service.__main__ import _Server

async def application(scope, receive, send):
    raise AssertionError("it is not asked")

async def main():
    config = uvicorn.Config(application, port=0, log_level="error", lifespan="off")
    config.load()
    server = _Server(config, asyncio.Event())
    server.lifespan = config.lifespan_class(config)
    before = gc.get_freeze_count()
    await server.startup()
    print(before, gc.get_freeze_count() > 10_000)
    await server.shutdown()

asyncio.run(main())
"""


@pytest.mark.parametrize(("words", "said"), [("--port 1", "--port"), ("--workers none", "MICROTOME_WORKERS")])
def test_a_word_that_there_is_not_is_told(words: str, said: str) -> None:
    """It would otherwise be ignored in silence."""
    started = subprocess.run(
        [sys.executable, "-m", "service", *words.split()], capture_output=True, text=True, check=False
    )
    assert 2 == started.returncode
    assert said in started.stderr
    assert "Traceback" not in started.stderr


def environment(**settings: str) -> dict[str, str]:
    """Ours, with what a gateway needs and these settings; no model server is behind it."""
    given = {"MODEL_SERVER": "localhost:1", "MODELS": "a", "ALLOW_ANONYMOUS": "true", **settings}
    return {**os.environ, **{f"MICROTOME_{name}": value for name, value in given.items()}}


def test_a_wrong_address_of_redis_ends_the_start_in_one_sentence() -> None:
    """The address is configuration: it is told at start, not at each lookup, and without its password."""
    started = subprocess.run(
        [sys.executable, "-m", "service"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(REDIS_URL="redis://:s3cret@127.0.0.1:6379/?ssl_cert_reqs=none"),
    )
    assert 2 == started.returncode
    assert ["The gateway's settings are wrong:", started.stderr.splitlines()[-1]] == started.stderr.splitlines()
    assert "MICROTOME_REDIS_URL: " in started.stderr
    assert "ssl_cert_reqs" in started.stderr
    assert "s3cret" not in started.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_removed_setting_is_one_line_of_the_log(workers: str) -> None:
    """And the gateway goes on: here, until it cannot listen at its address, which is told in a line."""
    own = {"HOST": "192.0.2.1", "URL_TIMEOUT": "1", "WORKERS": workers}
    started = subprocess.run(
        [sys.executable, "-m", "service"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(**own),
    )
    assert "Cannot listen on 192.0.2.1 port 8000: Cannot assign requested address\n" in started.stderr
    assert (1, False) == (started.returncode, "Traceback" in started.stderr)
    assert 1 == started.stderr.count("MICROTOME_URL_TIMEOUT is no longer a setting")


@pytest.mark.parametrize("name", ["OPERATIONS_PORT", "GRPC_PORT"])
def test_a_port_that_is_taken_is_a_line(name: str) -> None:
    """Of whichever server; the gateway ends with 1, no traceback and no line of gRPC's own."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        started = subprocess.run(
            [sys.executable, "-m", "service"],
            capture_output=True,
            text=True,
            check=False,
            env=environment(PORT=str(free_port()), **{name: str(port)}),
        )
    assert (1, False) == (started.returncode, "Traceback" in started.stderr), started.stderr
    assert re.search(rf"^Cannot listen on 127\.0\.0\.1(:| port ){port}", started.stderr, re.MULTILINE), started.stderr
    assert not re.search(r"\.cc:|GRPC_VERBOSITY", started.stderr), started.stderr


def test_all_of_both_families_is_all_of_both(tmp_path: Path) -> None:
    """At `::` every port answers over IPv4 and over IPv6."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6, which this machine has not")
    ports = [free_port() for _ in range(3)]
    names = dict(zip(("PORT", "OPERATIONS_PORT", "GRPC_PORT"), map(str, ports), strict=True))
    log = (tmp_path / "log").open("wb")
    with (
        log,
        subprocess.Popen([sys.executable, "-m", "service"], env=environment(HOST="::", **names), stderr=log) as it,
    ):
        try:
            for address in ("127.0.0.1", "::1"):
                for port in ports:
                    eventually(partial(answers, address, port), f"{address} port {port} answers")
        finally:
            it.terminate()
    assert 0 == it.returncode, (tmp_path / "log").read_text()


def answers(address: str, port: int) -> bool:
    """Whether something listens there."""
    with suppress(OSError), socket.create_connection((address, port), timeout=2):
        return True
    return False


def test_what_the_start_has_made_is_kept_from_the_collector() -> None:
    """A full collection would hold all up for as long as Redis has time to answer."""
    started = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    assert started.stdout.split() == ["0", "True"]
