"""redis-py's clients with short timeouts, no retries of their own, and few system calls.

One server, a Sentinel's master, or a cluster; the URL's grammar is in config/redis_url.py.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
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

CHANNEL = "hokusai:auth:revoked"

#: Maximum connections of one worker to each server; redis_link.py needs fewer.
MAX_CONNECTIONS = 128

#: Hash slots of a cluster.
SLOTS = 16384

#: Redirections of one command in a cluster, and tries while its slot moves, the last ones 50 ms
#: apart; redis-py's own 16 take half a second.
REDIRECTS = 5

#: Seconds of age up to which a connection to a single server is reused: its name may have moved
#: while the old server still accepts. Sentinel and cluster clients look up the current server.
MAX_AGE = 60.0


def connect(url: str, timeout: float) -> Any:
    """Return a client for the kind of Redis that the URL names; None for memory://. It connects on
    first use. Raises ValueError as config.redis_url.parse does."""
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
    """Return the options common to all connections, under redis-py's names."""
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
        options.setdefault("ssl_password", "")  # else OpenSSL would prompt on the terminal
    return {name: value for name, value in options.items() if value is not None}


def _one_server(address: RedisUrl, options: dict[str, Any]) -> "OneServer":
    """Return a client for redis:// or unix://."""
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
    """redis-py's client, which reuses a connection without polling it first: under gevent that
    poll, and the library's records, cost as much as the command. A broken connection is replaced,
    and its command sent again."""

    def __init__(self, connection_pool: redis.ConnectionPool) -> None:
        super().__init__(connection_pool=connection_pool)
        self._idle: list[Any] = []

    def execute_command(self, *words: Any, **options: Any) -> Any:
        """Send a command and return its result; raises what redis-py raises."""
        while True:
            reused = bool(self._idle)
            connection = self._idle.pop() if reused else self.connection_pool.get_connection()
            connected_at = getattr(connection, "connected_at", math.inf)  # absent: a Unix socket
            if reused and time.monotonic() - connected_at > MAX_AGE:
                connection.disconnect()  # the next command connects
            try:
                return self._ask(connection, words, options)
            except redis.ConnectionError:
                if not reused:
                    raise

    def close(self) -> None:
        """Close all connections. redis-py does not close those of a pool passed to it."""
        self.close_idle()
        self.connection_pool.disconnect()

    def check(self) -> None:
        """Raise WrongKind for a node of a cluster, or a Sentinel: both respond to some commands as
        a single Redis does."""
        try:
            hello = self.execute_command("HELLO")
        except redis.ResponseError:
            return  # older than Redis 6
        pairs = (
            hello if isinstance(hello, dict) else dict(zip(hello[::2], hello[1::2], strict=True))
        )
        mode = pairs.get(b"mode", b"")
        if mode in (b"cluster", b"sentinel"):  # others come from a proxy in front of it
            raise WrongKind(mode.decode())

    def close_idle(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            connection = self._idle.pop()
            connection.disconnect()
            self.connection_pool.release(connection)

    def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Any:
        """Send the same command as redis-py's, without its wrapper for legacy arguments."""
        return self.execute_command("EVALSHA", sha, numkeys, *keys_and_args)

    def _ask(self, connection: Any, words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        try:
            connection.send_command(*words)
            result = self.parse_response(  # type: ignore[no-untyped-call]
                connection, words[0], **options
            )
        except redis.ReadOnlyError:
            # This server was the primary. After a failover by DNS the name resolves to the new one.
            self._idle.append(connection)
            self.close_idle()
            raise
        except redis.ResponseError:
            self._idle.append(connection)
            raise
        except BaseException:
            connection.disconnect()
            self.connection_pool.release(connection)
            raise
        self._idle.append(connection)
        return result


class WrongKind(redis.ConnectionError):
    """The server is not of the kind in the URL; `kind` is "cluster" or "sentinel"."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"its mode is {kind}")
        self.kind = kind


class SomeNodesFail(RedisClusterException):
    """Some nodes of a cluster fail, and others execute commands; the cause is the error of one
    node."""


def _cluster(address: RedisUrl, options: dict[str, Any]) -> Any:
    """Return a client for a cluster, discovered through any of its nodes."""
    of_one = dict(options)
    if address.is_tls:
        options["ssl"] = True

    def known(announced: tuple[str | None, int]) -> tuple[str, int]:
        """Fill in the host: a cluster behind one address may omit it."""
        return announced[0] or address.hosts[0][0], announced[1]

    def make() -> RedisCluster:
        nodes = [
            ClusterNode(host, port)  # type: ignore[no-untyped-call]
            for host, port in address.hosts
        ]
        made = RedisCluster(
            startup_nodes=nodes, require_full_coverage=False, address_remap=known, **options
        )
        made.RedisClusterRequestTTL = REDIRECTS
        return made

    def alone(node: ClusterNode) -> OneServer:
        place = ((node.host, node.port),)
        return _one_server(replace(address, kind="redis", hosts=place), dict(of_one))

    return LazyCluster(make, alone)


class LazyCluster:
    """A RedisCluster that contacts its nodes at first use, not when it is made: a proxy starts
    while the cluster is down, as it does with a single Redis, and works without it."""

    def __init__(
        self, make: Callable[[], RedisCluster], alone: Callable[[ClusterNode], OneServer]
    ) -> None:
        """`alone` makes a client for one node."""
        self._make = make
        self._alone = alone
        self._made: RedisCluster | None = None

    def register_script(self, script: bytes) -> Script:
        """Return a callable Lua script, without contacting Redis."""
        return Script(self, script)  # type: ignore[arg-type]

    def close(self) -> None:
        """Close all connections, if there are any."""
        if self._made is not None:
            self._made.close()

    def check(self) -> None:
        """Raise SlotNotCoveredError if slots have no node, or a node that does not respond; that
        node's error if none responds."""
        failure, is_answered = None, False
        for node in self.get_primaries():
            why = self._ping(node)
            failure, is_answered = failure or why, is_answered or why is None
            if failure and is_answered:
                raise SlotNotCoveredError("a primary does not respond") from failure
        if failure:
            raise failure
        covered = sum(last - first + 1 for first, last in self.cluster_slots())
        if covered < SLOTS:
            raise SlotNotCoveredError(f"{SLOTS - covered} of {SLOTS} slots are not covered")
        if len(self.nodes_manager.slots_cache) < SLOTS:
            self.nodes_manager.initialize()  # redis-py read them before the cluster was whole

    def spread(self, name: str) -> list[str]:
        """Return names with this prefix, one for each primary: keys with it in braces are there."""
        found: dict[str, str] = {}
        nodes, tags = len(self.get_primaries()), (f"{name}-{n}" for n in range(SLOTS))
        while len(found) < nodes and (tag := next(tags, "")):  # may miss a node with few slots
            found.setdefault(self.get_node_from_key(tag).name, tag)
        return list(found.values())

    def _ping(self, node: ClusterNode) -> Exception | None:
        try:
            self.ping(target_nodes=node)
        except (redis.RedisError, OSError) as why:
            return None if isinstance(why, NoPermissionError) else why  # a refusal is a response
        return None

    def pubsub(self, **options: Any) -> Any:
        """Return a subscription on a connection apart. Where a command fails, redis-py makes all
        connections of the node anew; what a subscription there holds would be lost in silence."""
        one = self._alone(self.get_node_from_key(CHANNEL))
        return one.pubsub(**options)  # type: ignore[no-untyped-call]

    def publish(self, channel: str, message: str) -> int:
        """Publish through the node of the subscriptions: a node counts only its listeners."""
        options = {"target_nodes": self.get_node_from_key(channel)}
        return int(self.execute_command("PUBLISH", channel, message, **options))

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, name)
