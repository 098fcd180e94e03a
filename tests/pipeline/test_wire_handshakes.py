"""TLS to MLflow and to the auth service: a handshake has its time-out as a whole."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from devstack.proxy import Proxy
from tests.wire import bearer, call

#: The beginning of a handshake record that promises 16 KiB, and of a ServerHello in it.
BEGINNING = b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb"


def drip(connection: socket.socket) -> None:
    """Goes on with the handshake by a byte now and then, for longer than the test lasts."""
    with connection, suppress(OSError):
        connection.sendall(BEGINNING)
        for _ in range(600):
            time.sleep(0.1)
            connection.sendall(b"\0")


@pytest.fixture
def dripping() -> Iterator[str]:
    """The address of a server whose handshakes come byte by byte."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=listener.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("whose", "seconds", "status"),
    [
        ("MLFLOW_SERVER_URL", "MLFLOW_CONNECT_TIMEOUT", 504),
        ("HOKUSAI_AUTH_SERVICE_URL", "AUTH_TIMEOUT", 503),
    ],
)
def test_one_that_comes_byte_by_byte_ends_in_time(
    start_front: Callable[..., Proxy],
    dripping: str,
    key: str,
    whose: str,
    seconds: str,
    status: int,
) -> None:
    proxy = start_front(**{whose: dripping, seconds: 1}, MLFLOW_RETRY_DEADLINE=0)
    began = time.monotonic()
    assert call(proxy.url, "GET", "/api/mlflow/version", bearer(key)).status == status
    assert time.monotonic() - began < 15
