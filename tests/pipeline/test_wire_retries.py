"""What can do no harm is tried again; what may have been carried out is never sent twice."""

from collections.abc import Callable
from itertools import product

import pytest

from devstack.proxy import Proxy
from tests.upstreams import OK, Answer, Upstream, close, reset, send, sized
from tests.wire import Response, bearer, call

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
UNREACHABLE = (502, "TEMPORARILY_UNAVAILABLE")

#: app/upstream/retries.py: tries of one request, and retries that are granted out of the blue.
TRIES, BUDGET = 3, 10


@pytest.fixture(scope="module")
def retrying(start_front: Callable[..., Proxy]) -> Proxy:
    """A proxy that tries again; its budget for that suffices for the tests that share it."""
    return start_front(MLFLOW_RETRY_DEADLINE=5)


def ask(proxy: Proxy, key: str, method: str = "GET", body: bytes = b"") -> Response:
    return call(proxy.url, method, SEARCH, bearer(key), body=body)


def test_a_read_that_meets_a_dead_connection_goes_once_more(
    retrying: Proxy, upstream: Upstream, key: str
) -> None:
    for method in ("GET", "HEAD"):
        for end in (close(), reset()):
            upstream.forget()
            upstream.answers(OK, Answer(end), OK)
            assert ask(retrying, key, method).status == 200  # now a connection is pooled
            assert ask(retrying, key, method).status == 200
            assert len(upstream.requests) == 3


def test_a_read_is_tried_three_times_at_most(retrying: Proxy, upstream: Upstream, key: str) -> None:
    upstream.answers(Answer(reset()))
    assert ask(retrying, key).error == UNREACHABLE
    assert len(upstream.requests) == TRIES


def test_in_an_outage_retries_are_a_small_part_of_the_traffic(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    retrying = start_front(MLFLOW_RETRY_DEADLINE=5)
    upstream.answers(Answer(reset()))
    for _ in range(40):
        assert ask(retrying, key).error == UNREACHABLE
    assert 40 < len(upstream.requests) <= 40 + BUDGET + 4


def test_what_may_have_been_carried_out_is_never_sent_twice(
    retrying: Proxy, upstream: Upstream, key: str
) -> None:
    bodies = (b"", b"{}", bytes(200_000))
    methods = ("POST", "PUT", "PATCH", "DELETE")
    for end, body, method in product((close(), reset()), bodies, methods):
        upstream.forget()
        upstream.answers(OK, Answer(end), OK)
        assert ask(retrying, key).status == 200  # now a connection is pooled
        answer = ask(retrying, key, method, body)
        assert answer.error == UNREACHABLE
        assert "may have executed" in answer.json["message"]
        assert [asked.method for asked in upstream.requests] == [b"GET", method.encode()]


def test_a_connection_that_mlflow_closed_is_not_used_for_a_post(
    retrying: Proxy, upstream: Upstream, key: str
) -> None:
    for _ in range(20):
        assert ask(retrying, key, "POST", b"{}").status == 200
        upstream.drop_connections()
        upstream.wait_for(lambda: upstream.open_connections == 0)
    assert len(upstream.requests) == 20


JSON = ("Content-Type", "application/json")


def test_mlflows_own_errors_are_not_repeated(retrying: Proxy, upstream: Upstream, key: str) -> None:
    statuses = (408, 429, 500, 502, 503, 504)
    for status in statuses:
        upstream.answers(Answer(send(sized(b"{}", status, JSON))))
        assert ask(retrying, key).status == status
    assert len(upstream.requests) == len(statuses)


def test_the_error_page_of_something_in_between_is_for_reads_only(
    retrying: Proxy, upstream: Upstream, key: str
) -> None:
    page = Answer(send(sized(b"<html>", 503, ("Content-Type", "text/html"))))
    upstream.answers(page, OK)
    assert ask(retrying, key).status == 200
    assert len(upstream.requests) == 2
    upstream.answers(page, OK)
    assert ask(retrying, key, "POST").status == 503
    assert len(upstream.requests) == 3
