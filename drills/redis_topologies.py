"""A Redis with replicas and sentinels, and a Redis cluster: real ones, on this machine."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from devstack.ports import HOST, free_port
from devstack.redis import Redis, find_server
from devstack.server import Server
from tests.upstreams import eventually

#: Seconds of silence after which sentinels and cluster nodes take one for dead; in production 5 to
#: 30.
SILENCE = 1.0

SERVICE = "mymaster"
SLOTS = 16384


class Node(Redis):
    """A Redis with more options."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder)
        self.command += options
        self.client = redis.Redis(port=self.port)

    def ask(self, *command: object) -> Any:
        """The answer to one command."""
        return self.client.execute_command(*command)  # type: ignore[no-untyped-call]


class Sentinel(Redis):
    """One sentinel of three, which watch `master`."""

    name = "sentinel"

    def __init__(self, folder: Path, master: Redis) -> None:
        super().__init__(folder)
        file = folder / "sentinel.conf"
        lines = (
            f"bind {HOST}",
            f"port {self.port}",
            f"sentinel monitor {SERVICE} {HOST} {master.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {int(1000 * SILENCE)}",
            f"sentinel failover-timeout {SERVICE} 3000",
        )
        folder.mkdir(parents=True)
        file.write_text("\n".join(lines) + "\n")
        self.command = [find_server(), str(file), "--sentinel"]
        self.client = redis.Redis(port=self.port, decode_responses=True)

    def master_port(self) -> int:
        """Of the Redis that it takes for the master."""
        address: Any = self.client.sentinel_get_master_addr_by_name(SERVICE)
        return int(address[1])

    def knows_all(self) -> bool:
        """Whether it has found the replica and both other sentinels, so that it can fail over."""
        state: Any = self.client.sentinel_master(SERVICE)
        return (state["num-slaves"], state["num-other-sentinels"]) == (1, 2)


class Sentinels:
    """A master, its replica, and three sentinels; `url` is for REDIS_URL."""

    def __init__(self, folder: Path) -> None:
        self.master = Node(folder / "master")
        self.replica = Node(folder / "replica", "--replicaof", HOST, str(self.master.port))
        self.sentinels = [Sentinel(folder / f"sentinel-{n}", self.master) for n in range(3)]
        hosts = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"redis+sentinel://{hosts}/{SERVICE}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Runs them all; they are ready to fail over."""
        with running(self.master, self.replica):
            # Sentinels look for replicas every 10 s, and when they start.
            replication = self.master.client.info
            eventually(lambda: replication("replication")["connected_slaves"], "a replica")
            with running(*self.sentinels):
                eventually(lambda: all(one.knows_all() for one in self.sentinels), "that they met")
                yield

    def has_failed_over(self) -> bool:
        """Whether all sentinels name the replica as the master, and it takes writes."""
        return self.replica.client.role()[0] == b"master" and all(
            sentinel.master_port() == self.replica.port for sentinel in self.sentinels
        )


class Cluster:
    """Three nodes without replicas, each with a third of the slots; `url` is for REDIS_URL."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [
            Node(
                folder / f"node-{number}",
                *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
                *("--cluster-node-timeout", str(int(1000 * SILENCE))),
            )
            for number in range(3)
        ]
        hosts = ",".join(f"{HOST}:{node.port}" for node in self.nodes)
        self.url = f"redis+cluster://{hosts}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Runs the nodes, as one cluster."""
        with running(*self.nodes):
            self._join()
            yield

    def _join(self) -> None:
        first, *others = self.nodes
        for number, node in enumerate(self.nodes):
            slots = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            node.ask("CLUSTER ADDSLOTSRANGE", *slots)
            node.ask("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for node in others:
            bus = first.command[first.command.index("--cluster-port") + 1]
            node.ask("CLUSTER MEET", HOST, first.port, bus)
        eventually(self.is_whole, "a whole cluster")

    def is_whole(self) -> bool:
        """Whether every node finds that all slots are served."""
        infos = [node.ask("CLUSTER INFO") for node in self.nodes]
        return all(
            info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3" for info in infos
        )


@contextmanager
def running(*servers: Node | Sentinel) -> Iterator[None]:
    """Starts them all; they end with the block."""
    with ExitStack() as ends:
        for server in servers:
            server.start()
            ends.callback(Server.kill, server)
            ends.callback(server.client.close)
        for server in servers:
            server.wait_until_ready()
        yield
