"""redis-py's clients as this proxy wants them: short time-outs, no retries of their own, few system
calls. One server, a Sentinel's master, or a cluster; the URL's grammar is in config/redis_url.py.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.commands.core import Script
from redis.exceptions import NoPermissionError, RedisClusterException, SlotNotCoveredError
from redis.retry import Retry

from app.state.redis_connection import PlainConnection
from app.state.redis_sentinel import master_of
from config.redis_url import RedisUrl, parse

#: Connections that one worker opens at most, to each server; redis_link.py needs fewer.
MAX_CONNECTIONS = 128

#: Of a cluster.
SLOTS = 16384

#: Seconds after its connect for which a connection to a single server is reused: its name may have
#: moved while the old server still accepts. Sentinel and cluster clients ask who serves.
MAX_AGE = 60.0


def connect(url: str, timeout: float) -> Any:
    """A client for the kind of Redis that the URL names; None for memory://. It connects on first
    use. Raises ValueError as config.redis_url.parse does."""
    address = parse(url)
    options = _options(address, timeout)
    if address.kind == "memory":
        return None
    if address.kind == "sentinel":
        return master_of(address, options)
    if address.kind == "cluster":
        return _cluster(address, options)
    return _one_server(address, options)


def _options(address: RedisUrl, timeout: float) -> dict[str, Any]:
    """What every connection has in common, of every kind, under the names of redis-py."""
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": MAX_CONNECTIONS,
        "username": address.username,
        "password": address.password,
        "protocol": address.protocol,
        **address.tls,
    }
    if "ssl_certfile" in options:
        options.setdefault("ssl_password", "")  # without one OpenSSL would ask on the terminal
    return {name: value for name, value in options.items() if value is not None}


def _one_server(address: RedisUrl, options: dict[str, Any]) -> "OneServer":
    """redis:// and unix://"""
    options["db"] = address.database
    if address.kind == "unix":
        place: dict[str, Any] = {"path": address.path}
        options["connection_class"] = redis.UnixDomainSocketConnection
    else:
        host, port = address.hosts[0]
        place = {"host": host, "port": port}
        options["connection_class"] = redis.SSLConnection if address.is_tls else PlainConnection
    pool = redis.ConnectionPool(**options, **place)
    return OneServer(connection_pool=pool)


class OneServer(redis.Redis):
    """redis-py's client, which takes a connection again without asking whether it still stands:
    under gevent that poll, and what the library records, cost as much as the command. A connection
    that turns out to be broken is replaced, and its command sent again."""

    def __init__(self, connection_pool: redis.ConnectionPool) -> None:
        super().__init__(connection_pool=connection_pool)
        self._idle: list[Any] = []

    def execute_command(self, *words: Any, **options: Any) -> Any:
        """Sends a command and returns its answer; raises what redis-py raises."""
        while True:
            reused = bool(self._idle)
            connection = self._idle.pop() if reused else self.connection_pool.get_connection()
            connected_at = getattr(connection, "connected_at", math.inf)  # none: a Unix socket
            if reused and time.monotonic() - connected_at > MAX_AGE:
                connection.disconnect()  # the next command connects
            try:
                return self._ask(connection, words, options)
            except redis.ConnectionError:
                if not reused:
                    raise

    def close(self) -> None:
        """Closes all connections. redis-py leaves those of a pool that it was given."""
        self._close_idle()
        self.connection_pool.disconnect()

    def check(self) -> None:
        """Raises WrongKind where this is a node of a cluster, or a Sentinel: either answers some
        commands as a single Redis does."""
        try:
            hello = self.execute_command("HELLO")
        except redis.ResponseError:
            return  # of before Redis 6
        pairs = (
            hello if isinstance(hello, dict) else dict(zip(hello[::2], hello[1::2], strict=True))
        )
        mode = pairs.get(b"mode", b"")
        if mode in (b"cluster", b"sentinel"):  # others are words of a proxy in front of it
            raise WrongKind(mode.decode())

    def _close_idle(self) -> None:
        while self._idle:
            connection = self._idle.pop()
            connection.disconnect()
            self.connection_pool.release(connection)

    def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Any:
        """The same command as redis-py's, without its wrapper for arguments of old."""
        return self.execute_command("EVALSHA", sha, numkeys, *keys_and_args)

    def _ask(self, connection: Any, words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        try:
            connection.send_command(*words)
            answer = self.parse_response(  # type: ignore[no-untyped-call]
                connection, words[0], **options
            )
        except redis.ReadOnlyError:
            # This server was the primary. After a failover by DNS the name means the new one.
            self._idle.append(connection)
            self._close_idle()
            raise
        except redis.ResponseError:
            self._idle.append(connection)
            raise
        except BaseException:
            connection.disconnect()
            self.connection_pool.release(connection)
            raise
        self._idle.append(connection)
        return answer


class WrongKind(redis.ConnectionError):
    """Another kind of Redis than the URL says; `kind` is "cluster" or "sentinel"."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"it says that its mode is {kind}")
        self.kind = kind


class SomeNodesFail(RedisClusterException):
    """Some nodes of a cluster fail, and others carry out what is asked of them; its cause is what
    one of them raised."""


def _cluster(address: RedisUrl, options: dict[str, Any]) -> Any:
    """A cluster that is found through any of its nodes."""
    if address.is_tls:
        options["ssl"] = True

    def known(announced: tuple[str | None, int]) -> tuple[str, int]:
        """A cluster behind one address may leave the host out: it is the one that was asked."""
        return announced[0] or address.hosts[0][0], announced[1]

    def make() -> RedisCluster:
        nodes = [
            ClusterNode(host, port)  # type: ignore[no-untyped-call]
            for host, port in address.hosts
        ]
        return RedisCluster(
            startup_nodes=nodes, require_full_coverage=False, address_remap=known, **options
        )

    return LazyCluster(make)


class LazyCluster:
    """A RedisCluster that asks its nodes when it is first used, not when it is made: a proxy starts
    while the cluster is away, as it does with a single Redis, and goes on without it."""

    def __init__(self, make: Callable[[], RedisCluster]) -> None:
        self._make = make
        self._made: RedisCluster | None = None

    def register_script(self, script: bytes) -> Script:
        """A Lua script to be called; nobody is asked yet."""
        return Script(self, script)  # type: ignore[arg-type]

    def close(self) -> None:
        """Closes all connections, if there are any."""
        if self._made is not None:
            self._made.close()

    def check(self) -> None:
        """Raises SlotNotCoveredError where slots have no node, or one that does not answer; what
        such a node raises if none answers."""
        failure, is_answered = None, False
        for node in self.get_primaries():
            why = self._ping(node)
            failure, is_answered = failure or why, is_answered or why is None
            if failure and is_answered:
                raise SlotNotCoveredError("a primary gives no answer") from failure
        if failure:
            raise failure
        covered = sum(last - first + 1 for first, last in self.cluster_slots())
        if covered < SLOTS:
            raise SlotNotCoveredError(f"{SLOTS - covered} of {SLOTS} slots are not covered")

    def spread(self, name: str) -> list[str]:
        """Names that begin so, one for each primary: that one has the keys with it in braces."""
        found: dict[str, str] = {}
        nodes, tags = len(self.get_primaries()), (f"{name}-{n}" for n in range(SLOTS))
        while len(found) < nodes and (tag := next(tags, "")):  # few slots: may be left out
            found.setdefault(self.get_node_from_key(tag).name, tag)
        return list(found.values())

    def _ping(self, node: ClusterNode) -> Exception | None:
        try:
            self.ping(target_nodes=node)
        except (redis.RedisError, OSError) as why:
            return None if isinstance(why, NoPermissionError) else why  # refused is answered
        return None

    def publish(self, channel: str, message: str) -> int:
        """Through the node at which redis-py subscribes: a node counts its own listeners only."""
        options = {"target_nodes": self.get_node_from_key(channel)}
        return int(self.execute_command("PUBLISH", channel, message, **options))

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, name)
