"""Forwarding: responses of MLflow about the proxy, which are not for the caller."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from app.request.errors import UpstreamOverloaded, UpstreamRefusal, UpstreamReset, UpstreamTimeout
from app.request.route_table import Route
from app.upstream.forwarding import Upstream as Forwarder
from tests.app.samples import CREATE, READ, TRANSFER, inbound, permit
from tests.app.upstream.forwarders import NO_BODY, OK, POOL, forward, whole
from tests.upstreams import Answer, Upstream, chunked, close, head, pause, send, silence, sized


@pytest.mark.parametrize("framed", [sized, chunked])
@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"You are not authenticated.", "MLFLOW_UPSTREAM_TOKEN"),
        (403, b"Permission denied", "MLFLOW_UPSTREAM_USERNAME"),
        (403, b"Invalid Host header - possible DNS rebinding", "--allowed-hosts"),
    ],
)
def test_a_refusal_of_the_proxy_is_not_one_of_the_callers_key(
    mlflow: Upstream,
    forwarder: Forwarder,
    framed: Callable[..., bytes],
    status: int,
    body: bytes,
    said: str,
) -> None:
    mlflow.answers(Answer(send(framed(body, status=status))))
    with pytest.raises(UpstreamRefusal, match=said) as caught:
        forward(forwarder, "POST", body=whole(b"{}"))
    assert "WWW-Authenticate" not in caught.value.headers


def test_what_s3_says_of_mlflows_own_key_is_not_about_the_proxys(
    mlflow: Upstream, forwarder: Forwarder
) -> None:
    body = b'{"error_code": "UNAUTHENTICATED", "message": "Failed to list artifacts in s3://b: no"}'
    mlflow.answers(Answer(send(sized(body, 401))))
    answer = forward(forwarder, "GET", route=TRANSFER)
    assert (answer.status, answer.data) == (401, body)
    with pytest.raises(UpstreamRefusal):
        forward(forwarder, "GET", route=READ)


@pytest.mark.parametrize(("method", "route"), [("GET", READ), ("POST", CREATE)])
def test_a_full_pool_of_mlflows_may_be_repeated(
    mlflow: Upstream, forwarder: Forwarder, method: str, route: Route
) -> None:
    mlflow.answers(Answer(send(sized(POOL, 400, ("Content-Type", "application/json")))))
    with pytest.raises(UpstreamOverloaded, match="Nothing was done") as caught:
        forward(forwarder, method, route=route)
    assert caught.value.headers == {"Retry-After": "5"}


def test_a_full_pool_bounds_the_writes_that_follow(mlflow: Upstream, forwarder: Forwarder) -> None:
    """One write is sent once: it may have done a part. The bound is that of the instance."""
    mlflow.answers(Answer(send(sized(POOL, 400))), OK)
    with pytest.raises(UpstreamOverloaded):
        forward(forwarder, "POST", route=CREATE)
    assert len(mlflow.requests) == 1
    assert forwarder._writes.bound is not None
    assert forward(forwarder, "POST", route=CREATE).status == 200
    assert not forwarder._writes._running


@pytest.mark.parametrize("pieces", [sized(POOL, 400), chunked(POOL[:40], POOL[40:], status=400)])
def test_a_full_pool_is_known_though_its_words_come_in_pieces(
    mlflow: Upstream, forwarder: Forwarder, pieces: bytes
) -> None:
    middle = pieces.index(POOL[:40]) + 40
    mlflow.answers(Answer(send(pieces[:middle]), pause(0.2), send(pieces[middle:])))
    with pytest.raises(UpstreamOverloaded, match="Nothing was done"):
        forward(forwarder, "GET", route=READ)


@pytest.mark.slow
def test_a_refusal_that_stops_in_its_body_is_a_time_out_and_not_repeated(
    mlflow: Upstream, forwarder: Forwarder
) -> None:
    """As a break it would be asked three times, and each waits for the whole time limit."""
    mlflow.answers(Answer(send(sized(POOL, 400)[:-5]), silence()))
    with pytest.raises(UpstreamTimeout, match="then stalled"):
        forward(forwarder, "GET", route=READ)
    assert len(mlflow.requests) == 1


def test_a_full_pool_in_the_middle_of_several_steps_is_mlflows_own_answer(
    mlflow: Upstream, forwarder: Forwarder
) -> None:
    """A model version that is there already must not be made once more."""
    mlflow.answers(Answer(send(sized(POOL, 400))))
    answer = forward(forwarder, "POST", route=replace(CREATE, partial=True))
    assert (answer.status, answer.data) == (400, POOL)


@pytest.mark.parametrize("framed", [sized, chunked])
@pytest.mark.parametrize("status", [400, 403, 503])
@pytest.mark.parametrize("size", [0, 10, 100_000])
def test_an_answer_that_was_looked_at_comes_back_whole(
    mlflow: Upstream, forwarder: Forwarder, framed: Callable[..., bytes], status: int, size: int
) -> None:
    body = bytes(n % 251 for n in range(size))
    pieces = [body] if size or framed is sized else []
    mlflow.answers(Answer(send(framed(*pieces, status=status))))
    for _ in range(2):
        answer = forwarder.forward(permit(inbound("POST", "/mlflow/version")), NO_BODY)
        read = b"".join(iter(lambda: answer.read1(7000, decode_content=False), b""))  # noqa: B023
        answer.close()
        assert (answer.status, read) == (status, body)
    assert mlflow.connections == 1, "and its connection is used again"


def test_an_answer_that_breaks_off_while_it_is_looked_at(
    mlflow: Upstream, forwarder: Forwarder
) -> None:
    mlflow.answers(Answer(send(head(403, ("Content-Length", "17"))), close()))
    with pytest.raises(UpstreamReset):
        forward(forwarder, "POST", body=whole(b"{}"))
