"""An upload that ends in the middle, byte by byte: no HTTP library sends less than it announced."""

import contextlib
import socket
import ssl
from collections.abc import Mapping

import certifi

from app.doctor import explain
from app.doctor.command_line import Options


def send_half(options: Options, path: str, headers: Mapping[str, str], content: bytes) -> None:
    """PUTs the first half of the content, announced as the whole, and hangs up.

    Raises Failed if there is no connection; that nobody reads to the end is no failure.
    """
    host, port = options.target.host, options.target.port
    lines = [f"PUT {path} HTTP/1.1", f"Host: {host}:{port}", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join((*lines, "", "")).encode("latin-1")
    try:
        connection = socket.create_connection((host, port), options.timeout)
    except OSError as error:
        raise explain.network(error, f"{host}:{port}") from error
    with connection, _encrypted(connection, options) as stream, contextlib.suppress(OSError):
        stream.sendall(head + content[: len(content) // 2])
        stream.shutdown(socket.SHUT_WR)
        while stream.recv(65536):  # until the other side has seen the end
            pass


def _encrypted(connection: socket.socket, options: Options) -> socket.socket:
    if not options.target.tls:
        return connection
    context = ssl.create_default_context(cafile=options.ca_file or certifi.where())
    try:
        return context.wrap_socket(connection, server_hostname=options.target.host)
    except OSError as error:
        raise explain.network(error, options.target.host) from error
