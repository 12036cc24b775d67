"""Finding out early, and in words, that a port cannot be had."""

import os
import socket
from collections.abc import Iterator

import pytest

from microtome.commands.up import addresses
from microtome.commands.up.errors import CannotStart


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that this very process listens on."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        yield listener.getsockname()[1]


def test_a_free_port_is_left_free() -> None:
    """Claiming looks and lets go: the gateway can listen on the port afterwards."""
    port = addresses.claim("127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", port)) as listener:
        assert listener.getsockname()[1] == port


@pytest.fixture(autouse=True)
def _without_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the command had been typed; make test runs these tests below make."""
    monkeypatch.delenv("MAKELEVEL", raising=False)


def test_the_hint_is_what_one_types(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below make, options go through ARGS."""
    with pytest.raises(CannotStart, match=r"choose another port: microtome up --port \d+$"):
        addresses.claim("127.0.0.1", taken)
    monkeypatch.setenv("MAKELEVEL", "1")
    with pytest.raises(CannotStart, match=r'choose another port: make run ARGS="--port \d+"$'):
        addresses.claim("127.0.0.1", taken)


def test_the_hint_keeps_the_other_options(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one typed, with another port."""
    monkeypatch.setattr(
        "sys.argv", ["microtome", "up", "--recipe", "my recipe.yaml", "--port", str(taken), "--host=::1"]
    )
    with pytest.raises(CannotStart, match=r"microtome up --recipe 'my recipe.yaml' --host=::1 --port \d+$"):
        addresses.claim("127.0.0.1", taken)


def test_a_taken_port_names_its_holder_and_a_way_out(taken: int) -> None:
    """The message names the process, and a --port that is free."""
    with pytest.raises(CannotStart, match=rf"Port {taken} is taken by process {os.getpid()} \(.*--port (\d+)$"):
        addresses.claim("127.0.0.1", taken)


def test_the_suggested_port_is_free(taken: int) -> None:
    """Following the message gets through."""
    with pytest.raises(CannotStart) as refusal:
        addresses.claim("127.0.0.1", taken)
    suggested = int(str(refusal.value).rsplit(" ", 1)[1])
    assert addresses.claim("127.0.0.1", suggested) == suggested


def test_the_message_names_the_option_that_chose_the_port(taken: int) -> None:
    """The gateway has two of them."""
    with pytest.raises(CannotStart, match=r"choose another port: microtome up --grpc-port \d+$"):
        addresses.claim("127.0.0.1", taken, "--grpc-port")


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_a_foreign_host_is_refused_in_words(host: str) -> None:
    """An address that is not this machine's is said to be that, not an errno."""
    with pytest.raises(CannotStart, match=f"--host {host} is not an address of this machine"):
        addresses.claim(host, 0)
