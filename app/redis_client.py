"""redis-py's clients as this proxy wants them: short time-outs, no retries of their own, few system
calls. One server, a sentinel's master, or a cluster, by the URL's scheme.
"""

import contextlib
import math
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.commands.core import Script
from redis.retry import Retry
from redis.sentinel import Sentinel

from app.names import open_socket

#: Connections that one worker opens at most; more callers wait REDIS_TIMEOUT for one.
MAX_CONNECTIONS = 128

#: Seconds after its connect for which a connection to a single server is reused: its name may have
#: moved while the old server still accepts. Sentinel and cluster clients ask who serves.
MAX_AGE = 60.0


def _open_socket(connection: Any) -> socket.socket:
    """redis-py's own version looks the name up without a timeout."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    if connection.socket_keepalive:
        options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
        more = connection.socket_keepalive_options or {}
        options += [(socket.IPPROTO_TCP, name, value) for name, value in more.items()]
    timeout = connection.socket_connect_timeout
    opened = open_socket(connection.host, int(connection.port), timeout, options)
    opened.settimeout(connection.socket_timeout)
    connection.connected_at = time.monotonic()
    return opened


# The one place that all kinds of clients share, TLS included: those of Sentinel and of a cluster
# make connections by themselves, and take no class for them.
redis.Connection._connect = _open_socket  # type: ignore[method-assign]


def connect(url: str, timeout: float) -> Any:
    """A client for the URL's scheme; None for memory://. It connects on first use."""
    scheme = urlsplit(url).scheme
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": MAX_CONNECTIONS,
    }
    if scheme == "memory":
        return None
    if scheme == "redis+sentinel":
        return _sentinel(url, options)
    if scheme == "redis+cluster":
        return _cluster(url, options)
    if scheme == "redis":
        options["connection_class"] = _Connection
    pool = redis.BlockingConnectionPool.from_url(url, timeout=timeout, **options)
    return OneServer(connection_pool=pool)


class _Connection(redis.Connection):
    """redis-py's, which sends a command with one call of the system: gevent's sendall makes four
    out of it, and this is done for each request."""

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Sends a packed command; whatever is not all sent at once is the library's to send."""
        sock = self._sock
        if sock is not None and len(command) == 1:
            with contextlib.suppress(OSError):  # the library meets it again, and says so
                sent = sock.send(command[0])
                if sent == len(command[0]):
                    return
                command = [command[0][sent:]]
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]


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


def _sentinel(url: str, options: dict[str, Any]) -> Any:
    """redis+sentinel://[user:password@]host:port,host:port/service[/database]"""
    credentials, hosts, path = _several_hosts(url)
    service, _, database = path.partition("/")
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        hosts, sentinel_kwargs=options, **options, **credentials
    )
    return sentinel.master_for(  # type: ignore[no-untyped-call]
        service, db=int(database or 0)
    )


def _cluster(url: str, options: dict[str, Any]) -> Any:
    """redis+cluster://[user:password@]host:port,host:port"""
    credentials, hosts, _ = _several_hosts(url)

    def make() -> RedisCluster:
        nodes = [
            ClusterNode(host, port)  # type: ignore[no-untyped-call]
            for host, port in hosts
        ]
        return RedisCluster(startup_nodes=nodes, **options, **credentials)

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

    def publish(self, channel: str, message: str) -> int:
        """Through the node at which redis-py subscribes: a node counts its own listeners only."""
        options = {"target_nodes": self.get_node_from_key(channel)}
        return int(self.execute_command("PUBLISH", channel, message, **options))

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, name)


def _several_hosts(url: str) -> tuple[dict[str, Any], list[tuple[str, int]], str]:
    """(credentials, [(host, port)], path without its first slash) of a URL with several hosts."""
    rest = url.partition("://")[2]
    authority, _, path = rest.partition("/")
    userinfo, at, hosts = authority.rpartition("@")
    credentials: dict[str, Any] = {}
    if at:
        username, _, password = userinfo.partition(":")
        credentials = {"username": unquote(username), "password": unquote(password)}
    pairs = [host.rpartition(":") for host in hosts.split(",")]
    listed = [(name, int(port)) for name, _, port in pairs]
    return {name: value for name, value in credentials.items() if value}, listed, path
