"""Forwarding: what is sent again, and what never is."""

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.request.errors import UpstreamReset, UpstreamTimeout, UpstreamUnreachable
from app.upstream.streaming import Body
from tests.app.samples import READ
from tests.app.upstream.forwarders import (
    NO_BODY,
    OK,
    POOL,
    TEXT,
    MakeForwarder,
    asked_for,
    count_connects,
    forward,
    whole,
)
from tests.upstreams import (
    WAIT_LIMIT,
    Answer,
    Upstream,
    pause,
    refused_port,
    reset,
    send,
    silence,
    sized,
)


def reset_then_ok(mlflow: Upstream, resets: int = 1) -> None:
    mlflow.answers(*[Answer(reset())] * resets, OK)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_read_that_met_a_reset_goes_once_more(
    mlflow: Upstream, make_forwarder: MakeForwarder, method: str
) -> None:
    reset_then_ok(mlflow)
    answer = forward(make_forwarder(mlflow.url, mlflow_retry_deadline=5.0), method)
    assert answer.status == 200
    assert len(mlflow.requests) == 2


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("content", [b"", b"{}"])
def test_what_may_have_been_carried_out_never_does(
    mlflow: Upstream, make_forwarder: MakeForwarder, method: str, content: bytes
) -> None:
    reset_then_ok(mlflow)
    with pytest.raises(UpstreamReset):
        forward(make_forwarder(mlflow.url, mlflow_retry_deadline=5.0), method, body=whole(content))
    assert len(mlflow.requests) == 1


def test_a_read_that_timed_out_does_not_go_once_more(
    mlflow: Upstream, make_forwarder: MakeForwarder
) -> None:
    mlflow.answers(Answer(silence()), OK)
    with pytest.raises(UpstreamTimeout):
        forward(make_forwarder(mlflow.url, mlflow_retry_deadline=5.0, mlflow_read_timeout=0.1))
    assert asked_for(mlflow, b"/version") == 1


def test_an_end_to_trying(mlflow: Upstream, make_forwarder: MakeForwarder) -> None:
    mlflow.answers(Answer(reset()))
    with pytest.raises(UpstreamReset):
        forward(make_forwarder(mlflow.url, mlflow_retry_deadline=5.0))
    assert len(mlflow.requests) == 3


@pytest.mark.parametrize(
    "make_body", [lambda: whole(b"{}"), lambda: Body(iter([b"{}"]), 2)], ids=["whole", "in pieces"]
)
def test_what_was_not_sent_is_tried_until_the_deadline(
    make_forwarder: MakeForwarder, make_body: Callable[[], Body]
) -> None:
    with refused_port() as port:
        forwarder = make_forwarder(f"http://127.0.0.1:{port}", mlflow_retry_deadline=0.2)
        began = time.monotonic()
        with pytest.raises(UpstreamUnreachable):
            forward(forwarder, "POST", body=make_body())
        assert count_connects(forwarder)() > 1
        assert 0.1 < time.monotonic() - began < 3


def test_an_mlflow_that_starts_meanwhile_gets_the_whole_body(make_forwarder: MakeForwarder) -> None:
    received = b""

    def start_in_a_moment() -> None:
        nonlocal received
        time.sleep(0.1)
        listener.listen()
        connection, _ = listener.accept()
        with connection:
            while not received.endswith(b"abcdef"):
                received += connection.recv(4096)
            connection.sendall(sized(b"{}"))

    with socket.socket() as listener, ThreadPoolExecutor(1) as threads:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = threads.submit(start_in_a_moment)
        forwarder = make_forwarder(f"http://127.0.0.1:{port}", mlflow_retry_deadline=5.0)
        body = Body(iter([b"abc", b"def"]), 6)
        assert forward(forwarder, "POST", body=body).status == 200
        server.result(WAIT_LIMIT)
    assert received.startswith(b"POST /version HTTP/1.1\r\n")


@pytest.mark.parametrize("status", [502, 503, 504])
def test_the_error_page_of_something_in_between_is_asked_past(
    mlflow: Upstream, make_forwarder: MakeForwarder, status: int
) -> None:
    page = Answer(send(sized(b"<html>", status, ("Content-Type", "text/html"))))
    mlflow.answers(page, OK)
    forwarder = make_forwarder(mlflow.url, mlflow_retry_deadline=5.0)
    assert forward(forwarder).status == 200
    mlflow.answers(page, OK)
    assert forward(forwarder, "POST", body=whole(b"{}")).status == status


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_read_that_found_a_full_pool_is_sent_again(
    mlflow: Upstream, make_forwarder: MakeForwarder, method: str
) -> None:
    """A search is a POST that reads. MLflow's own wait does not use up the retry deadline."""
    mlflow.answers(Answer(pause(0.5), send(sized(POOL, 400))), OK)
    forwarder = make_forwarder(mlflow.url, mlflow_retry_deadline=0.3)
    body = whole(b"{}") if method == "POST" else NO_BODY
    assert forward(forwarder, method, route=READ, body=body).status == 200
    assert len(mlflow.requests) == 2


def test_mlflows_own_page_is_not_asked_past(
    mlflow: Upstream, make_forwarder: MakeForwarder
) -> None:
    page = b"Endpoint: /x disabled due to the mlflow server running in `--artifacts-only` mode."
    mlflow.answers(Answer(send(sized(page, 503, TEXT))), OK)
    answer = forward(make_forwarder(mlflow.url, mlflow_retry_deadline=5.0))
    assert (answer.status, answer.data, len(mlflow.requests)) == (503, page, 1)
