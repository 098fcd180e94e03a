"""Connections to Redis: redis-py's, with the proxy's name look-ups and fewer system calls."""

import contextlib
import socket
import time
from typing import Any

import redis

from app.upstream.names import open_socket


def _open_socket(connection: Any) -> socket.socket:
    """Open a socket; redis-py's version looks up the name without a timeout."""
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


# The one place that all kinds of clients share, TLS included: Sentinel and cluster clients make
# connections by themselves, and accept no connection class.
redis.Connection._connect = _open_socket  # type: ignore[method-assign]


class PlainConnection(redis.Connection):
    """redis-py's connection, which sends a command in one system call: gevent's sendall needs four,
    and this runs for each request."""

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send a packed command; leave what is not sent at once to the library."""
        sock = self._sock
        if sock is not None and len(command) == 1:
            with contextlib.suppress(OSError):  # the library gets the same error, and reports it
                sent = sock.send(command[0])
                if sent == len(command[0]):
                    return
                command = [command[0][sent:]]
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]
