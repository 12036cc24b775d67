"""Which part is full first: each part's use as a fraction of what it can take, so that all compare.

A part is full at 1. In the shipped cluster numbers are fixed; a cluster on paper has as many gateways, GPUs and Redis
shards as the rate needs, each used to `HEADROOM`, and what is compared there is what more of them makes worse.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

from bench.capacity.costs import Costs, Survey, traffic
from bench.capacity.shipped import Shipped

HEADROOM = 0.7
"""Planned use of a core or a GPU; beyond it waiting grows faster than work."""
TIE = 0.01
"""Parts whose uses differ by less than this part of them are full together."""

NODES, PODS = 5_000, 150_000
"""Of a Kubernetes cluster at most: https://kubernetes.io/docs/setup/best-practices/cluster-large/."""
REDIS_NODES = 1_000
"""Of a Redis cluster at most: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/."""
REDIS_CLIENTS = 10_000
"""Connections of a Redis or Valkey at most, by default: https://valkey.io/topics/clients."""
GATEWAY_CONNECTIONS = 8
"""Of a gateway to each Redis at most: service/cache/redis/client.py."""
DNS_BYTES, DNS_ADDRESS = 65_535, 16
"""Bytes of a DNS answer over TCP at most, and of an IPv4 address in one: RFC 1035, sections 4.2.2 and 4.1.3."""
SERIES = 10_000_000
"""Of one Prometheus: assumed, for a machine of its own with 64 GB."""
_MOST_RATE = 1e10


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster; assumed, and given on the command line.

    Attributes:
        cores: Of its processor.
        gpus: Where it has any.
        gbit: Of its network, each way, a second.
    """

    cores: int = 32
    gpus: int = 4
    gbit: float = 25.0


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a cluster.

    Attributes:
        name: In words.
        use: Of what it can take, a fraction.
        basis: How that is known: `measured`; `measured on ours`, for TensorFlow Serving; `documented`; `assumed`; or
            `a setting`.
    """

    name: str
    use: float
    basis: str = "measured"


Parts = Callable[[float], Sequence[Part]]
"""The parts' uses at a number of images a second."""


def first(parts: Sequence[Part]) -> list[Part]:
    """Return the part that is used most, and those that tie with it."""
    most = max(part.use for part in parts)
    return [part for part in parts if part.use >= most * (1 - TIE)]


def full_at(parts: Parts, name: str) -> float:
    """Return the images a second at which a part is full; infinite where it never is."""
    return _reached(lambda rate: next(part.use for part in parts(rate) if part.name == name))


def breaks_at(parts: Parts) -> tuple[float, list[Part]]:
    """Return the images a second at which the first part is full, and which part, or parts, that is."""
    rate = _reached(lambda rate: max(part.use for part in parts(rate)))
    return rate, first(parts(min(rate, _MOST_RATE)))


def _reached(use: Callable[[float], float]) -> float:
    low, high = 1.0, _MOST_RATE
    if use(high) < 1:
        return float("inf")
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if use(middle) >= 1 else (middle, high)
    return high


def shipped_parts(  # noqa: PLR0913, what differs
    costs: Costs, shipped: Shipped, hit_rate: float, rate: float, *, scaled: bool = False, gpu: bool = False
) -> list[Part]:
    """Return the uses of the shipped cluster's parts.

    Args:
        costs: Of an image.
        shipped: The cluster.
        hit_rate: Part of the images that Redis has.
        rate: Images a second.
        scaled: Whether autoscaling has made the most of it that it may.
        gpu: Whether model servers have a GPU each.
    """
    gateways, servers = (
        work.most if scaled else work.replicas
        for work in (shipped.gateway, shipped.gpu_server if gpu else shipped.server)
    )
    inference = costs.gpu if gpu else costs.inference / shipped.server_threads
    return [
        Part("gateways: cores", rate * costs.gateway(hit_rate) / (gateways * shipped.gateway.limit)),
        Part("gateways: event loops", rate * costs.loop(hit_rate) / (gateways * shipped.workers)),
        Part("model servers: GPUs" if gpu else "model servers: cores", rate * (1 - hit_rate) * inference / servers),
        Part("Redis: its core", rate * costs.valkey(hit_rate) / shipped.redis.replicas),
    ]


@dataclass(frozen=True, slots=True)
class Plan:
    """The numbers of a cluster on paper."""

    gateways: int
    gpus: int
    shards: int


def plan(costs: Costs, shipped: Shipped, hit_rate: float, rate: float) -> Plan:
    """Return how many gateways, as large as those shipped, GPUs and Redis shards work at `HEADROOM`."""
    gateway = max(costs.gateway(hit_rate) / shipped.gateway.limit, costs.loop(hit_rate) / shipped.workers)
    return Plan(
        ceil(rate * gateway / HEADROOM),
        ceil(rate * (1 - hit_rate) * costs.gpu / HEADROOM),
        max(1, ceil(rate * costs.valkey(hit_rate) / HEADROOM)),
    )


def grown_parts(  # noqa: PLR0913, PLR0917, what a cluster is
    costs: Costs, shipped: Shipped, survey: Survey, node: Node, hit_rate: float, rate: float
) -> list[Part]:
    """Return the uses of what grows with a cluster on paper, beside the work itself, which is at `HEADROOM`."""
    cluster = plan(costs, shipped, hit_rate, rate)
    processes, spare = cluster.gateways * shipped.workers, 1 - HEADROOM
    a_gateway, watching = rate / cluster.gateways, processes * survey.server_watch
    # The way to a model server and back is a choice among all of them, made for each image.
    watched = cluster.gpus * (survey.gateway_watch + a_gateway * (1 - hit_rate) * survey.gateway_choice)
    gateways_of_a_node = node.cores / shipped.gateway.limit
    ways = traffic(costs, survey, hit_rate)
    most = 1e9 / 8 * node.gbit
    gpu_nodes = ceil(cluster.gpus / node.gpus)
    pods = cluster.gateways + cluster.gpus + cluster.shards
    nodes = gpu_nodes + ceil((cluster.gateways * shipped.gateway.limit + cluster.shards) / node.cores)
    series = cluster.gateways * survey.gateway_series + cluster.gpus * survey.server_series
    return [
        Part("each gateway: watching and choosing among model servers", watched / spare / shipped.workers),
        Part("each model server: being watched", watching / spare / shipped.gpu_server.requested, "measured on ours"),
        Part("each Redis: connections", processes * GATEWAY_CONNECTIONS / REDIS_CLIENTS, "a setting"),
        Part("Redis: nodes of a cluster", cluster.shards / REDIS_NODES, "documented"),
        Part("DNS: addresses of one name", cluster.gpus * DNS_ADDRESS / DNS_BYTES, "documented"),
        Part("Kubernetes: nodes", nodes / NODES, "documented"),
        Part("Kubernetes: pods", pods / PODS, "documented"),
        Part("network of a node of gateways", gateways_of_a_node * a_gateway * sum(ways.values()) / most, "assumed"),
        Part(
            "network of a node of GPUs",
            node.gpus * rate * ways["gateways and model servers"] / max(1, cluster.gpus) / most,
            "assumed",
        ),
        Part("one Prometheus: series", series / SERIES, "assumed"),
        Part("autoscaling: most gateways", cluster.gateways / shipped.gateway.most, "a setting"),
        Part("autoscaling: most model servers", cluster.gpus / shipped.gpu_server.most, "a setting"),
    ]
