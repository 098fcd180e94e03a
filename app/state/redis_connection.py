"""Connections to Redis: redis-py's, with the proxy's name look-ups and fewer system calls."""

import contextlib
import socket
import ssl
import time
from functools import lru_cache
from typing import Any

import redis

from app.upstream.names import open_socket

#: Seconds for which new connections share a TLS context. Then its files are read again.
TLS_AGE = 60.0


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


def _wrap(connection: Any, sock: socket.socket) -> ssl.SSLSocket:
    """Do the TLS handshake. redis-py's version makes a context for each connection, which blocks
    the worker for 20 ms."""
    names = "check_hostname cert_reqs certfile keyfile certificate_password ca_certs ca_path"
    options = (getattr(connection, name) for name in names.split())
    context = _context(time.monotonic() // TLS_AGE, *options)
    return context.wrap_socket(sock, server_hostname=connection.host)


@lru_cache(maxsize=2)
def _context(
    age: float,
    check_hostname: bool,
    verify_mode: ssl.VerifyMode,
    certfile: str | None,
    keyfile: str | None,
    password: str | None,
    ca_certs: str | None,
    ca_path: str | None,
) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = check_hostname
    context.verify_mode = verify_mode
    if certfile:
        context.load_cert_chain(certfile, keyfile, password)
    if ca_certs or ca_path:
        context.load_verify_locations(ca_certs, ca_path)
    return context


# The one place that all kinds of clients share: Sentinel and cluster clients make connections by
# themselves, and accept no connection class.
redis.Connection._connect = _open_socket  # type: ignore[method-assign]
redis.SSLConnection._wrap_socket_with_ssl = _wrap  # type: ignore[method-assign]


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
