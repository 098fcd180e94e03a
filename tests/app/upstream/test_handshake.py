"""The bound of a TLS handshake ends nothing else. That it ends a slow one: tests/pipeline."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from urllib3.exceptions import NewConnectionError

from app.upstream.connection import ConnectionTLS
from tests.drills.redis_topologies import make_certificates


@pytest.fixture
def echoing(tmp_path: Path) -> Iterator[int]:
    """The port of a server with TLS that sends back what comes."""
    folder = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as over_tls:
                while piece := over_tls.recv(4096):
                    over_tls.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def test_what_is_no_tls_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = ConnectionTLS("127.0.0.1", listener.getsockname()[1], timeout=5)

        def serve() -> None:
            answering, _ = listener.accept()
            with answering:
                answering.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                answering.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        began = time.monotonic()
        with pytest.raises(NewConnectionError, match="SSL"):
            connection.connect()
        assert time.monotonic() - began < 2
        thread.join()
        connection.close()


def test_the_bound_ends_with_the_handshake(echoing: int) -> None:
    connection = ConnectionTLS("127.0.0.1", echoing, timeout=0.5, cert_reqs=ssl.CERT_NONE)
    connection.connect()
    time.sleep(0.7)
    assert connection.sock is not None
    connection.sock.sendall(b"ping")
    assert connection.sock.recv(4) == b"ping"
    connection.close()
