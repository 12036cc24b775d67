"""What redis-py's classes for Sentinel and for clusters want instead of an address: keyword arguments."""

from typing import Any

from redis.connection import SSLConnection, parse_url

from service.cache.redis.url import Place

Options = dict[str, Any]


def options(where: Place) -> tuple[Options, Options]:
    """Return the arguments for the servers, and those for the Sentinels.

    `?sentinel_username=` and `?sentinel_password=` are the Sentinels' own; what is said of TLS holds for both.
    """
    servers: Options = dict(parse_url(where.url))  # type: ignore[no-untyped-call]
    servers["ssl"] = servers.pop("connection_class", None) is SSLConnection
    for name in ("host", "port"):
        servers.pop(name, None)
    if where.kind == "cluster":
        servers.pop("db", None)
    sentinels = {name: servers.pop(name) for name in list(servers) if name.startswith("sentinel_")}
    sentinels = {name.removeprefix("sentinel_"): value for name, value in sentinels.items()}
    return servers, sentinels | {name: value for name, value in servers.items() if name.startswith("ssl")}
