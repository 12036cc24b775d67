"""All processes of the drill, and what is done to them while requests run."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import redis

from tests.drill.balancer import Balancer
from tests.drill.names import Names
from tests.drill.pods import KEY, GatewayPod, ModelServerPod, gateway_pods, model_server_pods
from tests.drill.stated import stated, write_configuration
from tests.e2e.processes import Valkey, eventually
from tests.e2e.redis_topologies import SERVICE, Watched

AnyPod = TypeVar("AnyPod", GatewayPod, ModelServerPod)


@dataclass(frozen=True)
class Site:
    """A balancer, gateways, model servers, and Valkey with its replica and its Sentinel."""

    config: Path
    balancer: Balancer
    gateways: list[GatewayPod]
    model_servers: list[ModelServerPod]
    names: Names
    vectors: Watched
    ends: ExitStack

    def published(self, *without: ModelServerPod) -> None:
        """Tell the balancer which gateways there are, and the cluster's DNS which model servers are ready."""
        self.balancer.use([gateway.host for gateway in self.gateways])
        self.names.ready = tuple(server.host for server in self.model_servers if server not in without)

    def rollout(self, *words: str) -> None:
        """Run `microtome rollout` as deploy/README.md says, with a file in the ConfigMap's place."""
        servers = [word for server in self.model_servers for word in ("--server", server.address)]
        gateways = [word for gateway in self.gateways for word in ("--gateway", gateway.url)]
        options = ["--config", str(self.config), "--timeout", "90", *servers, *gateways]
        done = subprocess.run(
            [sys.executable, "-m", "microtome", "rollout", "lite0", *words, *options],
            env={**os.environ, "MICROTOME_API_KEY": KEY},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def master(self) -> Valkey:
        """The Valkey that Sentinel names as the master."""
        with redis.Redis(port=self.vectors.sentinel.port, socket_timeout=2.0) as client:
            _, port = client.sentinel_get_master_addr_by_name(SERVICE)
        return next(one for one in (self.vectors.master, self.vectors.replica) if one.port == int(port))

    def other(self, one: Valkey) -> Valkey:
        """The other of the two."""
        return self.vectors.replica if one is self.vectors.master else self.vectors.master

    def follows(self, one: Valkey) -> bool:
        """Whether it is a replica that has what its master has, and Sentinel knows of it."""
        try:
            with one.client() as client:
                told = client.info("replication")
            with redis.Redis(port=self.vectors.sentinel.port, socket_timeout=2.0) as client:
                known = {int(slave["port"]): str(slave["flags"]) for slave in client.sentinel_slaves(SERVICE)}
        except redis.RedisError:
            return False
        return told.get("master_link_status") == "up" and known.get(one.port) == "slave"


@contextmanager
def running(directory: Path, models: Path) -> Iterator[Site]:
    """Start everything in order, and end it."""
    # A network of this run's own among the loopback addresses, so that ports can be the stated ones.
    network = f"127.{os.getpid() >> 8 & 0x7F | 0x80}.{os.getpid() & 0xFF}"
    write_configuration(directory, models)
    with Names(f"{network}.1", "model-server") as names, ExitStack() as stack:
        vectors = Watched(directory)
        # Where a master that has a replica writes its dump.
        vectors.master.place = directory
        gateways = gateway_pods(directory, network, vectors.url, names.authority)
        told = stated("gateway", dict.fromkeys(("api-keys/keys", "managed-redis/url", "managed-redis/hmac-key"), ""))
        balancer = Balancer(directory, f"{network}.2", dict(told.ports), dict(told.ready))
        servers = model_server_pods(directory, network, models)
        site = Site(directory / "models.config", balancer, gateways, servers, names, vectors, stack)
        for process in (*vectors.processes(), *servers, *gateways, balancer):
            stack.callback(process.destroy)
        vectors.start()
        for pod in (*servers, *gateways):
            pod.launch()
        for server in servers:
            server.until_serving()
        site.published()
        for gateway in gateways:
            gateway.until_serving()
        balancer.start()
        yield site


def rolled(site: Site, pods: list[AnyPod]) -> None:
    """Replace pods as their Deployment does: one more at a time; the old is left by all, pauses, and gets SIGTERM.

    Pauses are the manifests' own: they are what the rest has for hearing of the change.
    """
    old = list(pods)
    left = []
    for number, pod in enumerate(old):
        pods[number] = pod.successor()
        site.ends.callback(pods[number].destroy)
        pods[number].start()
        site.published()
        left.append(time.monotonic())
    for pod, since in zip(old, left, strict=True):
        time.sleep(max(0.0, since + pod.pause - time.monotonic()))
        assert pod.terminate() == 0, pod.last_lines()


def restarted(site: Site, server: Valkey) -> None:
    """Restart a Valkey as an operator does: a replica, never the master."""
    if site.master() is server:
        with redis.Redis(port=site.vectors.sentinel.port, socket_timeout=2.0) as client:
            client.sentinel_failover(SERVICE)
        eventually(lambda: site.master() is not server, "the replica takes over", 60.0)
        eventually(lambda: site.follows(server), "the old master follows", 60.0)
    server.terminate()
    server.start()
    eventually(lambda: site.follows(server), "the restarted one follows", 60.0)
