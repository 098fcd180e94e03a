"""A header field that is not passed on is named, to the caller in the answer and in the log."""

from collections.abc import Callable
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.upstreams import Answer, Upstream, eventually, send, sized
from tests.wire import Response, bearer, call

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
NAMED = "X-Hokusai-Dropped-Headers"


@pytest.fixture
def ask(front: Proxy, upstream: Upstream, key: str) -> Callable[..., Response]:
    """A search with these header lines."""
    return lambda *fields: call(front.url, "GET", SEARCH, bearer(key), *fields)


@pytest.mark.parametrize(
    "field",
    [
        "X-Hokusai-User-Id: root",
        "X-MLflow-Authorization: Basic cm9vdDpyb290",
        "X-MLflow-User: root",
        "Remote-User: root",
        "X-Remote-User: root",
        "X-Auth-Request-User: root",
        "X-User: root",
        "X-Forwarded-User: root",
        "X-Forwarded-Access-Token: root",
        "X-Amzn-Oidc-Data: root",
        "X-Original-URL: /evil",
        "Proxy: http://evil.test",
        "traceparent: nonsense",
    ],
    ids=lambda field: field.partition(":")[0],
)
def test_a_dropped_field_is_named_in_the_answer(ask: Callable[..., Response], field: str) -> None:
    name = field.partition(":")[0]
    assert (ask(field).one(NAMED) or "").lower() == name.lower()


def test_what_every_proxy_removes_is_not_named(ask: Callable[..., Response]) -> None:
    fields = (
        "Cookie: a=b",
        "Forwarded: for=203.0.113.7",
        "X-Forwarded-For: 203.0.113.7",
        "X-Forwarded-Proto: https",
        "X-Real-IP: 203.0.113.7",
        "X-Request-ID: 0123456789",
        "Via: 1.1 front",
        "Connection: X-Private",
        "X-Private: 1",
        "X-Other: 1",
    )
    assert ask(*fields).one(NAMED) is None


def test_many_dropped_fields_are_named_within_bounds(ask: Callable[..., Response]) -> None:
    fields = [f"X-User-{'long' * 100}-{number}: 1" for number in range(30)]
    named = ask(*fields).one(NAMED) or ""
    assert named.endswith("and others")
    assert len(named) < 800


def test_a_cookie_of_mlflow_is_dropped_and_named(
    ask: Callable[..., Response], upstream: Upstream
) -> None:
    upstream.answers(Answer(send(sized(b"{}", 200, ("Set-Cookie", "session=1")))))
    answer = ask()
    assert (answer.all("Set-Cookie"), answer.one(NAMED)) == ([], "Set-Cookie")


def test_dropped_fields_are_logged_and_counted(front: Proxy, ask: Callable[..., Response]) -> None:
    before = counted(front)
    request_id = ask("X-User: root").one("X-Request-ID")
    eventually(lambda: line_of(front, request_id), "the line in the log")
    assert [line["dropped_headers"] for line in line_of(front, request_id)] == ["X-User"]
    assert counted(front) == before + 1


def line_of(front: Proxy, request_id: str | None) -> list[dict[str, Any]]:
    """The access log's line about a request."""
    lines = (line for line in front.log_lines() if line["logger"] == "hokusai.access")
    return [line for line in lines if line["request_id"] == request_id]


def counted(front: Proxy) -> float:
    """Requests that lost a field, so far."""
    text = call(front.url, "GET", "/metrics").body.decode()
    name = "hokusai_proxy_dropped_header_requests_total "
    return sum(float(line[len(name) :]) for line in text.splitlines() if line.startswith(name))
