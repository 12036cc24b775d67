"""The same servers as `redis_servers.py` for a command, which does one thing after the other."""

from typing import Any

from redis import Redis, RedisCluster, Sentinel
from redis.cluster import ClusterNode

from service.cache.redis.options import options
from service.cache.redis.url import place


def connected(url: str, *, seconds: float) -> Redis | RedisCluster:
    """Connect.

    Args:
        url: where, see `redis_url.py`.
        seconds: for connecting and for each answer.

    Raises:
        ValueError: the address has another form.
        redis.RedisError: nobody answers there.
    """
    where = place(url)
    timeouts: dict[str, Any] = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    if where.kind == "single":
        client: Redis | RedisCluster = Redis.from_url(where.url, **timeouts)
    else:
        servers, sentinels = options(where)
        if where.kind == "cluster":
            nodes = [ClusterNode(*node) for node in where.nodes]  # type: ignore[no-untyped-call]
            client = RedisCluster(startup_nodes=nodes, **servers, **timeouts)
        else:
            asked = Sentinel(where.nodes, sentinel_kwargs={**timeouts, **sentinels})  # type: ignore[no-untyped-call]
            client = asked.master_for(where.service, **servers, **timeouts)  # type: ignore[no-untyped-call]
    client.ping()
    return client
