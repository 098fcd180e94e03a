"""What the kernel is told about a client's connection."""

import socket

import pytest

from app.server.client_socket import KEEPALIVE_IDLE, ClientSocket


@pytest.mark.skipif(KEEPALIVE_IDLE is None, reason="the kernel has no such option")
def test_nothing_in_between_forgets_a_client_that_waits_for_minutes() -> None:
    """An AWS network load balancer does so after 350 s of silence, Azure's after 240 s."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        ClientSocket(accepted, 60.0, 20.0)
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) <= 60
