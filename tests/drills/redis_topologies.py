"""A Redis with replicas and sentinels, and a Redis cluster: real ones, on this machine."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

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


@dataclass(frozen=True)
class Way:
    """How one gets in: the address on which all listen, the password of the default user, TLS, and
    more options of the servers. `tls` is the folder of `make_certificates`; "" as the `program`
    is the one that `find_server` finds."""

    program: str = ""
    host: str = HOST
    password: str = ""
    tls: Path | None = None
    options: tuple[str, ...] = ()

    def server_options(self, port: int) -> tuple[str, ...]:
        """For the command line; they win over those before."""
        options = ("--bind", self.host, *self.options)
        if self.password:
            options += ("--requirepass", self.password, "--masterauth", self.password)
        if self.tls is not None:
            options += ("--port", "0", "--tls-port", str(port), *self.tls_options())
            options += ("--tls-replication", "yes", "--tls-cluster", "yes")
        return options

    def tls_options(self) -> tuple[str, ...]:
        """The server's certificate; clients need none."""
        files = {"--tls-cert-file": "server.crt", "--tls-key-file": "server.key"}
        pairs = [(name, str(self.tls / file)) for name, file in files.items() if self.tls]
        pairs += [("--tls-ca-cert-file", str(self.tls and self.tls / "ca.crt"))]
        return (*(word for pair in pairs for word in pair), "--tls-auth-clients", "no")

    def client(self, port: int, **options: Any) -> Any:
        """redis-py's own client."""
        if self.tls is not None:
            options |= {"ssl": True, "ssl_ca_certs": str(self.tls / "ca.crt")}
        return redis.Redis(self.host, port, password=self.password or None, **options)

    def url(self, scheme: str, ports: Iterable[int], rest: str = "", query: str = "") -> str:
        """For REDIS_URL; `scheme` is without TLS."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        hosts = ",".join(f"{host}:{port}" for port in ports)
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        if self.tls is not None:
            scheme = scheme.replace("redis", "rediss", 1)
            query = "&".join(filter(None, (query, f"ssl_ca_certs={self.tls}/ca.crt")))
        return f"{scheme}://{secret}{hosts}{rest}" + (f"?{query}" if query else "")


OPEN = Way()


class Node(Redis):
    """A Redis with more options."""

    def __init__(self, folder: Path, *options: str, way: Way = OPEN) -> None:
        super().__init__(folder)
        self.command[0] = way.program or self.command[0]
        self.command += (*way.server_options(self.port), *options)
        self.client = way.client(self.port)
        self.url = way.url("redis", [self.port], "/0")

    def is_ready(self) -> bool:
        """Whether it answers, or refuses, a PING."""
        try:
            return bool(self.client.ping())
        except redis.ResponseError:
            return True
        except redis.RedisError:
            return False

    def ask(self, *command: object) -> Any:
        """The answer to one command."""
        return self.client.execute_command(*command)


class Sentinel(Redis):
    """One sentinel of three, which watch `master`; `way` leads to the sentinel, whose password is
    not the master's."""

    name = "sentinel"

    def __init__(self, folder: Path, master: Node, way: Way = OPEN, to_master: Way = OPEN) -> None:
        super().__init__(folder)
        file = folder / "sentinel.conf"
        lines = [
            f"bind {way.host}",
            f"port {self.port}",
            f"sentinel monitor {SERVICE} {to_master.host} {master.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {int(1000 * SILENCE)}",
            f"sentinel failover-timeout {SERVICE} 3000",
        ]
        if to_master.password:
            lines.append(f"sentinel auth-pass {SERVICE} {to_master.password}")
        if way.password:
            lines += [f"requirepass {way.password}", f"sentinel sentinel-pass {way.password}"]
        if way.tls is not None:
            words = way.tls_options()
            lines += [f"{n.lstrip('-')} {v}" for n, v in zip(words[::2], words[1::2], strict=True)]
            lines += ["port 0", f"tls-port {self.port}", "tls-replication yes"]
        folder.mkdir(parents=True)
        file.write_text("\n".join(lines) + "\n")
        self.command = [way.program or find_server(), str(file), "--sentinel"]
        self.client = way.client(self.port, decode_responses=True)

    def is_ready(self) -> bool:
        """Whether it answers a PING."""
        with contextlib.suppress(redis.RedisError):
            return bool(self.client.ping())
        return False

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

    def __init__(self, folder: Path, way: Way = OPEN, sentinel_password: str = "") -> None:
        of_sentinels = replace(way, password=sentinel_password)
        self.master = Node(folder / "master", way=way)
        follow = ("--replicaof", way.host, str(self.master.port))
        self.replica = Node(folder / "replica", *follow, way=way)
        self.sentinels = [
            Sentinel(folder / f"sentinel-{n}", self.master, of_sentinels, way) for n in range(3)
        ]
        self.url = way.url(
            "redis+sentinel",
            [sentinel.port for sentinel in self.sentinels],
            f"/{SERVICE}",
            f"sentinel_password={quote(sentinel_password, safe='')}" if sentinel_password else "",
        )

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

    def __init__(self, folder: Path, way: Way = OPEN) -> None:
        self._way = way
        self.nodes = [
            Node(
                folder / f"node-{number}",
                *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
                *("--cluster-node-timeout", str(int(1000 * SILENCE))),
                way=way,
            )
            for number in range(3)
        ]
        self.url = way.url("redis+cluster", [node.port for node in self.nodes])

    @contextmanager
    def running(self) -> Iterator[None]:
        """Runs the nodes, as one cluster."""
        with running(*self.nodes):
            self.assign()
            self.join()
            yield

    def assign(self) -> None:
        """Gives each node its third; they do not know of each other yet."""
        for number, node in enumerate(self.nodes):
            slots = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            node.ask("CLUSTER ADDSLOTSRANGE", *slots)
            node.ask("CLUSTER SET-CONFIG-EPOCH", number + 1)

    def join(self) -> None:
        """Makes them one cluster."""
        first, *others = self.nodes
        for node in others:
            bus = first.command[first.command.index("--cluster-port") + 1]
            node.ask("CLUSTER MEET", self._way.host, first.port, bus)
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


def tls_server(folder: Path) -> str | None:
    """A server that speaks TLS, unlike that of the wheel: from the PATH, or Debian's package
    redis-tools, which has the program under the name of a tool of it. None if there is none."""
    tool = shutil.which("redis-check-rdb")
    if tool is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "redis-server").symlink_to(tool)
    programs = (shutil.which("redis-server"), shutil.which("valkey-server"))
    for program in (*programs, str(folder / "redis-server") if tool else None):
        if program and _speaks_tls(program):
            return program
    return None


def _speaks_tls(program: str) -> bool:
    command = [program, "--port", "0", "--tls-port", "1", "--tls-cert-file", "/none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return "Failed to configure TLS" in done.stdout


def make_certificates(folder: Path) -> Path:
    """Makes an authority, a server's certificate for this machine's own addresses, and a client's;
    returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    names = f"subjectAltName=IP:{HOST},IP:::1,DNS:localhost"
    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    _openssl(folder, *new, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test authority")
    for who in ("server", "client"):
        signed: tuple[str, ...] = ("-CA", "ca.crt", "-CAkey", "ca.key", "-addext", names)
        signed += ("-addext", "basicConstraints=critical,CA:FALSE")
        _openssl(
            folder,
            *new,
            *signed,
            "-keyout",
            f"{who}.key",
            "-out",
            f"{who}.crt",
            "-subj",
            f"/CN={who}",
        )
    return folder


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, capture_output=True, check=True)
