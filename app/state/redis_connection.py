"""Connections to Redis: redis-py's, opened through our name look-ups, with fewer system calls."""

import contextlib
import socket
import time
from typing import Any

import redis

from app.upstream.names import open_socket


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


class PlainConnection(redis.Connection):
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
