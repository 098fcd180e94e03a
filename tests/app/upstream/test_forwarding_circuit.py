"""Forwarding: what opens the circuit, and what an open circuit lets through."""

import socket
import time
from collections.abc import Iterator

import pytest

from app.request.errors import CircuitOpen, ClientGone, UpstreamTimeout, UpstreamUnreachable
from app.request.route_table import Route
from app.upstream.names import NAMES
from app.upstream.streaming import Body
from tests.app.samples import READ, TRANSFER
from tests.app.upstream.forwarders import (
    OK,
    QUICK,
    MakeForwarder,
    asked_for,
    count_connects,
    forward,
    whole,
)
from tests.upstreams import Answer, Upstream, eventually, refused_port, reset, send, silence, sized


def test_an_unreachable_mlflow_opens_the_circuit(make_forwarder: MakeForwarder) -> None:
    with refused_port() as port:
        forwarder = make_forwarder(f"http://127.0.0.1:{port}", fail_max=2)
        attempts = count_connects(forwarder)
        for _ in range(2):
            with pytest.raises(UpstreamUnreachable):
                forward(forwarder)
        with pytest.raises(CircuitOpen, match="Nothing was sent") as caught:
            forward(forwarder)
        assert attempts() == 2
    assert 1 <= int(str(caught.value.headers["Retry-After"])) <= 60


def test_of_two_addresses_the_one_that_hangs_gives_way(
    mlflow: Upstream, make_forwarder: MakeForwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two MLflows under one name: the first accepts connections, and never answers."""
    both = [(socket.AF_INET, ("127.0.0.2",)), (socket.AF_INET, ("127.0.0.1",))]
    monkeypatch.setattr(NAMES, "addresses", lambda host, timeout: both)
    with socket.create_server(("127.0.0.2", mlflow.port)):
        forwarder = make_forwarder(
            f"http://two.test:{mlflow.port}", mlflow_read_timeout=0.3, health_timeout=0.2
        )
        with pytest.raises(UpstreamTimeout):
            forward(forwarder)
        eventually(lambda: asked_for(mlflow, b"/health"), "the question to the other")
        assert forward(forwarder).status == 200
        assert forwarder.circuit.state == "closed"


def test_a_silent_mlflow_opens_the_circuit(mlflow: Upstream, make_forwarder: MakeForwarder) -> None:
    mlflow.answers(Answer(silence()))
    forwarder = make_forwarder(mlflow.url, mlflow_read_timeout=0.1, health_timeout=0.1)
    with pytest.raises(UpstreamTimeout):
        forward(forwarder)
    eventually(lambda: forwarder.circuit.state == "open", "the circuit's opening")
    with pytest.raises(CircuitOpen):
        forward(forwarder)
    assert [asked.target for asked in mlflow.requests] == [b"/version", b"/health", b"/health"]


@pytest.mark.parametrize("route", [READ, TRANSFER])
def test_a_slow_mlflow_does_not(
    mlflow: Upstream, make_forwarder: MakeForwarder, route: Route
) -> None:
    mlflow.answers_by(lambda asked: OK if asked.target == b"/health" else Answer(silence()))
    forwarder = make_forwarder(mlflow.url, **QUICK, fail_max=1)
    for _ in range(3):
        with pytest.raises(UpstreamTimeout):
            forward(forwarder, route=route)
        mlflow.wait_for(lambda: asked_for(mlflow, b"/health") > 0, "the question")
    assert forwarder.circuit.state == "closed"


def test_an_open_circuit_asks_health_and_lets_no_request_probe(
    mlflow: Upstream, make_forwarder: MakeForwarder
) -> None:
    """A caller's slow search, upload or create would decide for everybody, or be lost."""
    forwarder = make_forwarder(mlflow.url, reset_timeout=0.05, health_timeout=0.2)
    mlflow.answers(Answer(silence()))
    forwarder.circuit.trip()
    time.sleep(0.06)
    with pytest.raises(CircuitOpen):
        forward(forwarder, "POST", body=whole(b"{}"))
    assert [asked.target for asked in mlflow.requests] == [b"/health"]
    time.sleep(0.06)
    mlflow.answers(Answer(reset()))
    with pytest.raises(CircuitOpen):
        forward(forwarder)
    assert forwarder.circuit.state == "half-open", "a connection that breaks says nothing"
    mlflow.answers(OK)
    assert forward(forwarder).status == 200
    assert forwarder.circuit.state == "closed"


@pytest.mark.parametrize("status", [400, 404, 500, 501, 503])
def test_what_mlflow_says_does_not(
    mlflow: Upstream, make_forwarder: MakeForwarder, status: int
) -> None:
    """Its errors are often the caller's doing."""
    mlflow.answers(Answer(send(sized(b"{}", status, ("Content-Type", "application/json")))))
    forwarder = make_forwarder(mlflow.url, fail_max=1)
    for _ in range(3):
        assert forward(forwarder).status == status


def test_a_client_that_hangs_up_does_not(mlflow: Upstream, make_forwarder: MakeForwarder) -> None:
    def body() -> Iterator[bytes]:
        raise ClientGone("7 of 7 bytes did not come")
        yield b""

    forwarder = make_forwarder(mlflow.url, fail_max=1)
    for _ in range(3):
        with pytest.raises(ClientGone):
            forward(forwarder, "PUT", body=Body(body(), 7))
    assert forward(forwarder).status == 200


def test_health_asks_past_an_open_circuit(mlflow: Upstream, make_forwarder: MakeForwarder) -> None:
    forwarder = make_forwarder(mlflow.url)
    forwarder.circuit.trip()
    assert forwarder.ask("/health", 1.0).data == b"{}"
    with pytest.raises(CircuitOpen):
        forward(forwarder)
