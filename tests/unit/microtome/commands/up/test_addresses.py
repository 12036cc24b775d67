"""Addresses as people, curl and the kernel want them."""

import socket
import tempfile
from pathlib import Path

import pytest

from microtome.commands.up.addresses import Endpoint, check_model_server, check_redis, private_socket, redis_trouble
from microtome.commands.up.errors import CannotStart


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("10.1.2.3", "http://10.1.2.3:8000"),
        ("localhost", "http://localhost:8000"),
    ],
)
def test_the_printed_address_can_be_visited(host: str, url: str) -> None:
    """All addresses at once are something to listen on, not something to visit."""
    assert Endpoint(host, 8000).url == url


def test_the_socket_lies_in_a_private_directory_that_goes_away() -> None:
    """No other user may talk to the model server, and nothing stays behind."""
    with private_socket() as path:
        assert path.parent.stat().st_mode & 0o777 == 0o700
        path.touch()
    assert not path.parent.exists()


def test_a_long_temporary_directory_is_avoided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses long socket paths, whatever TMPDIR says."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with private_socket() as path, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    "address", ["10.0.0.7:8500", "tfserving:8500", "[::1]:8500", "dns:///tf:8500", "unix:/run/models.sock"]
)
def test_addresses_of_model_servers(address: str) -> None:
    """The usual forms of gRPC pass."""
    check_model_server(address)


@pytest.mark.parametrize("address", ["tfserving", "http://tfserving:8501", "unix:models.sock", ":8500", "host:"])
def test_other_addresses_are_refused(address: str) -> None:
    """The message shows what would have been right."""
    with pytest.raises(CannotStart, match="expects host:port"):
        check_model_server(address)


def test_addresses_of_redis() -> None:
    """A bare host is not a Redis URL, and is refused before anything has been exported."""
    check_redis("redis://localhost:6379/0")
    check_redis("redis+sentinel://localhost:26379/vectors/0")
    with pytest.raises(CannotStart, match="expected an address that begins with one of redis://"):
        check_redis("localhost:6379")
    with pytest.raises(CannotStart, match="%XX") as told:
        check_redis("redis://:s3/cret@localhost")
    assert "s3" not in str(told.value)


def test_a_redis_that_does_not_answer_is_told_without_its_password(tmp_path: Path) -> None:
    """At start, in a sentence that says what follows; one node that answers is enough."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        up = listener.getsockname()[1]
        assert redis_trouble(f"redis://127.0.0.1:{up}/0") is None
        assert redis_trouble(f"redis+cluster://127.0.0.1:1,127.0.0.1:{up}") is None
    told = redis_trouble(f"redis://ann:secret@127.0.0.1:{up}/0")
    assert told is not None
    assert told.startswith(f"Redis does not answer at 127.0.0.1:{up} (Connection refused): until it does, vectors are")
    assert "secret" not in told
    assert "No such file" in str(redis_trouble(f"unix://{tmp_path}/redis.sock"))
