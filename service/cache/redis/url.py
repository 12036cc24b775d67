"""Where Redis or Valkey is, written as an address: one server, whatever Sentinel says, or the nodes of a cluster."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

SCHEMES = (
    *("redis://", "rediss://", "unix://"),
    *("redis+sentinel://", "rediss+sentinel://", "redis+cluster://", "rediss+cluster://"),
)

Kind = Literal["single", "sentinel", "cluster"]

_PORTS = {"sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True, slots=True)
class Place:
    """An address, taken apart.

    Attributes:
        url: as redis-py reads it: `redis://`, `rediss://` or `unix://`, with user, password, database and query. The
            host in it is the first one.
        nodes: host and port of each Sentinel or node; empty for a single server.
        service: the name under which Sentinel knows the master; empty without Sentinel.
    """

    kind: Kind
    url: str
    nodes: tuple[tuple[str, int], ...] = ()
    service: str = ""


def place(url: str) -> Place:
    """Take an address apart.

    Args:
        url: `redis://[user:password@]host[:port][/database]`, or with `+sentinel` several hosts separated by commas
            and `/service[/database]`, or with `+cluster` several hosts and no path; `rediss` for TLS.

    Raises:
        ValueError: it is none of these; the message has no password in it.
    """
    if not url.startswith(SCHEMES):
        raise ValueError(f"expected an address that begins with one of {', '.join(SCHEMES)}")
    scheme, _, rest = url.partition("://")
    plain, _, kind = scheme.partition("+")
    if kind not in ("sentinel", "cluster"):
        return Place("single", url)
    rest, _, query = rest.partition("?")
    whom, _, path = rest.partition("/")
    login, at, hosts = whom.rpartition("@")
    nodes = tuple(_node(host, _PORTS[kind]) for host in hosts.split(","))
    service, _, database = path.strip("/").partition("/")
    if kind == "cluster" and path.strip("/"):
        raise ValueError("expected redis+cluster:// without a path: a cluster has one database")
    if kind == "sentinel" and (not service or not (database or "0").isdecimal()):
        raise ValueError("expected redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE, SERVICE as Sentinel knows it")
    first = hosts.split(",")[0]
    return Place(
        "sentinel" if kind == "sentinel" else "cluster",
        f"{plain}://{login}{at}{first}/{database or 0}" + (f"?{query}" if query else ""),
        nodes,
        service,
    )


def _node(host: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{host}")
        found = (parts.hostname or "", parts.port or port)
    except ValueError:
        found = ("", port)
    if not found[0]:
        raise ValueError("expected hosts such as one.example:6379,two.example:6379")
    return found
