"""What addresses stand for, and what is asked of a DNS server."""

import asyncio
from collections.abc import Sequence

import pytest

from service.model_server.names import Name, Place, looked_up, understood
from service.model_server.replicas import Replicas
from tests.drill.names import Names


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("dns:///model-server:8500", Name("model-server", 8500)),
        ("dns:model-server:8500", Name("model-server", 8500)),
        ("dns://10.0.0.10:5353/model-server:8500", Name("model-server", 8500, "10.0.0.10:5353")),
        ("model-server:8500", Name("model-server", 8500)),
        ("localhost:8500", Name("localhost", 8500)),
        ("10.0.0.1:8500", Place("10.0.0.1:8500")),
        ("[::1]:8500", Place("[::1]:8500")),
        ("dns:///10.0.0.1:8500", Place("10.0.0.1:8500")),
        ("ipv4:10.0.0.1:8500", Place("ipv4:10.0.0.1:8500")),
        ("unix:/run/model-server.sock", Place("unix:/run/model-server.sock")),
    ],
)
def test_only_names_are_looked_up(address: str, expected: Name | Place) -> None:
    """IP addresses, sockets and gRPC's other schemes are left as they are."""
    assert expected == understood(address)


async def test_a_dns_server_of_ones_own_is_asked() -> None:
    """For all addresses of the name; a name that it does not know is an error, and so is one without addresses."""
    with Names("127.0.0.1", "model-server") as names:
        names.ready = ("127.0.0.2", "127.0.0.3")
        assert ["127.0.0.2", "127.0.0.3"] == list(await looked_up("model-server", 1, names.authority))
        with pytest.raises(OSError, match="knows no address"):
            await looked_up("another", 1, names.authority)
        names.ready = ()
        with pytest.raises(OSError, match="knows no address"):
            await looked_up("model-server", 1, names.authority)


async def test_the_systems_resolver_is_asked_by_default() -> None:
    """As for any other program."""
    assert {"127.0.0.1", "::1"} & set(await looked_up("localhost", 1, None))
    with pytest.raises(OSError, match=r"."):
        await looked_up("no-such-name.invalid", 1, None)


class Resolver:
    """Answers what a test says; None when it fails."""

    def __init__(self, *found: str) -> None:
        self.found: Sequence[str] | None = found
        self.asked = 0

    async def __call__(self, host: str, port: int, dns_server: str | None) -> Sequence[str]:
        """Answer, and count."""
        assert (host, port, dns_server) == ("model-server", 9, None)
        self.asked += 1
        if self.found is None:
            raise OSError("no server answers")
        return self.found


async def known(replicas: Replicas, resolver: Resolver) -> str:
    """What is said of the servers after the next lookup but one: port 9 answers nothing."""
    asked = resolver.asked
    async with asyncio.timeout(20):
        while resolver.asked < asked + 2:  # noqa: ASYNC110, polled like a name
            await asyncio.sleep(0.02)
    with pytest.raises(Exception, match="cannot be reached"):
        await replicas.versions("toy", timeout=2.0)
    return str(replicas.trouble())


async def test_each_address_is_a_server_and_a_lookup_that_fails_changes_nothing() -> None:
    """Addresses come and go with the name's; without DNS the last ones stay, and it is said."""
    resolver = Resolver("127.0.0.2", "127.0.0.3")
    replicas = Replicas(["dns:///model-server:9"], lookup=resolver)
    with pytest.raises(Exception, match="cannot be reached"):
        await replicas.versions("toy", timeout=2.0)
    assert replicas.trouble() == "2 of 2 cannot be reached."
    resolver.found = ("127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.5")
    assert "3 of 3 cannot be reached." == await known(replicas, resolver)
    resolver.found = None
    assert "3 of 3 cannot be reached. model-server cannot be looked up: no server answers." == await known(
        replicas, resolver
    )
    await replicas.close()
