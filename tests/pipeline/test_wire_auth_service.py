"""What the auth service says, and what the proxy says then: never 401 for an outage."""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from time import time

import pytest

from devstack.proxy import Proxy
from tests.upstreams import (
    Answer,
    Upstream,
    chunked,
    close,
    head,
    pause,
    refused_port,
    reset,
    send,
    silence,
    sized,
    until,
)
from tests.wire import Response, bearer, call

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
CREATE = "/api/mlflow/api/2.0/mlflow/runs/create"

UNAVAILABLE = (503, "TEMPORARILY_UNAVAILABLE")

VALID = {
    "user_id": "ann",
    "key_id": "key_1",
    "service_id": "platform",
    "scopes": ["read", "write"],
    "rate_limit_per_hour": None,
}


@pytest.fixture(scope="module")
def service() -> Iterator[Upstream]:
    """A fake auth service."""
    with Upstream() as fake:
        yield fake


@pytest.fixture(scope="module")
def fronted(start_front: Callable[..., Proxy], service: Upstream) -> Proxy:
    """A proxy that asks the fake auth service, and waits 0.3 s for it."""
    return start_front(
        HOKUSAI_AUTH_SERVICE_URL=service.url, AUTH_TIMEOUT=0.3, AUTH_RETRY_INTERVAL=0
    )


def fresh_key() -> str:
    return f"hk_test_{uuid.uuid4().hex}"


def ask(proxy: Proxy, service: Upstream, answer: Answer, target: str = SEARCH) -> Response:
    """The proxy's answer to a key that nobody has seen before, while the service answers so."""
    service.forget()
    service.answers(answer)
    method = "POST" if target == CREATE else "GET"
    answer_of_proxy = call(proxy.url, method, target, bearer(fresh_key()))
    assert str(service.port) not in answer_of_proxy.body.decode()
    return answer_of_proxy


def said(content: object, status: int = 200, *fields: tuple[str, str]) -> Answer:
    body = json.dumps(content).encode()
    return Answer(send(sized(body, status, ("Content-Type", "application/json"), *fields)))


# --- the question --------------------------------------------------------------------------------


def test_the_question_is_the_one_of_the_contract(
    fronted: Proxy, service: Upstream, upstream: Upstream
) -> None:
    service.forget()
    service.answers(said(VALID, 200, ("Set-Cookie", "user=ann")))
    keys = [fresh_key(), fresh_key()]
    for key in keys:
        field = "X-API-Key: " + key
        assert call(fronted.url, "GET", SEARCH, field, "Cookie: a=b").status == 200
    for asked, key in zip(service.requests, keys, strict=True):
        assert asked.line == b"POST /api/v1/keys/validate HTTP/1.1"
        assert asked.one("Authorization") == f"Bearer {key}"
        assert asked.all("Cookie") == []
        assert json.loads(asked.body) == {"service_id": "platform", "client_ip": "127.0.0.1"}


# --- the answers ---------------------------------------------------------------------------------

YES = {
    "as in the contract": VALID,
    "said twice": VALID | {"valid": True, "is_valid": True},
    "with a nested user": {"user": {"id": "ann"}, "key_id": "key_1", "scopes": ["read"]},
    "with numbers as ids": {"user": {"id": 7}, "key_id": 8, "scopes": ["mlflow:read"]},
    "with more than we know": VALID | {"email": "a@b.test", "plan": {"name": "gold"}, "x": [1]},
    "as an administrator": {"user_id": "ann", "key_id": "key_1", "is_admin": True},
}


@pytest.mark.parametrize("name", YES)
def test_a_yes_lets_the_request_through(
    fronted: Proxy, service: Upstream, upstream: Upstream, name: str
) -> None:
    assert ask(fronted, service, said(YES[name])).status == 200
    seen = upstream.requests[0]
    assert seen.one("X-Hokusai-User-Id") in ("ann", "7")
    assert seen.one("X-Hokusai-Key-Id") in ("key_1", "8")
    assert seen.one("X-Hokusai-Service-Id") == "platform"


NO = {
    "valid is false": said({"valid": False}),
    "is_valid is false": said({"is_valid": False}),
    "one of them is false": said(VALID | {"valid": True, "is_valid": False}),
    "401": said({"detail": "unknown key"}, 401),
    "403": said({"detail": "not from this address"}, 403),
    "404": said({}, 404),
    "401 in HTML": Answer(send(sized(b"<html>", 401, ("Content-Type", "text/html")))),
}


@pytest.mark.parametrize("name", NO)
def test_a_no_is_401(fronted: Proxy, service: Upstream, upstream: Upstream, name: str) -> None:
    assert ask(fronted, service, NO[name]).error == (401, "UNAUTHENTICATED")
    assert upstream.requests == []


def without(*names: str) -> dict[str, object]:
    return {name: value for name, value in VALID.items() if name not in names}


NO_ANSWER = {
    "500": said({}, 500),
    "502": said({}, 502),
    "503": said({}, 503, ("Retry-After", "60")),
    "201": said(VALID, 201),
    "204": Answer(send(head(204))),
    "400": said({}, 400),
    "a redirect": said({}, 302, ("Location", "/login")),
    "a login page": Answer(
        send(sized(b"<html>Sign in</html>", 200, ("Content-Type", "text/html")))
    ),
    "nothing": Answer(send(sized(b""))),
    "not JSON": Answer(send(sized(b"valid"))),
    "half of its JSON": Answer(send(sized(json.dumps(VALID).encode()[:-1]))),
    "a list": said([VALID]),
    "a string": said("valid"),
    "true": said(True),
    "null": said(None),
    "no key id": said(without("key_id")),
    "an empty key id": said(VALID | {"key_id": " "}),
    "a key id that is none": said(VALID | {"key_id": ["key_1"]}),
    "no user": said(without("user_id")),
    "a user without an id": said(without("user_id") | {"user": {"name": "ann"}}),
    "scopes that are none": said(VALID | {"scopes": "admin"}),
    "scopes of the wrong kind": said(VALID | {"scopes": [{"name": "admin"}]}),
    "a limit that is none": said(VALID | {"rate_limit_per_hour": "many"}),
    "a negative limit": said(VALID | {"rate_limit_per_hour": -1}),
    "neither yes nor no": said(VALID | {"valid": "yes"}),
    "too much": said(VALID | {"more": "x" * 100_000}),
    "too deep": Answer(send(sized(b"[" * 50_000))),
    "not UTF-8": Answer(send(sized(b'{"user_id": "\xff"}'))),
    "garbage": Answer(send(b"220 smtp.test\r\n\r\n"), close()),
    "a closed connection": Answer(close()),
    "a reset": Answer(reset()),
    "half an answer": Answer(send(sized(json.dumps(VALID).encode())[:-1]), close()),
    "half a chunked answer": Answer(send(chunked(json.dumps(VALID).encode(), last=False)), close()),
    "silence": Answer(silence()),
    "silence in the body": Answer(send(head(200, ("Content-Length", "9"))), silence()),
    "a trickle": Answer(
        send(head(200, ("Content-Length", "90"))), *((send(b" "), pause(0.1)) * 9), silence()
    ),
}


@pytest.mark.parametrize("name", NO_ANSWER)
def test_what_is_neither_is_503(
    fronted: Proxy, service: Upstream, upstream: Upstream, name: str
) -> None:
    answer = ask(fronted, service, NO_ANSWER[name])
    assert answer.error == UNAVAILABLE
    assert answer.one("Retry-After") == "10", "MLflow's client gives up after seven of these"
    assert upstream.requests == []


@pytest.mark.parametrize("name", ["500", "a reset", "silence"])
def test_what_is_neither_is_429_where_something_would_be_created(
    fronted: Proxy, service: Upstream, upstream: Upstream, name: str
) -> None:
    """MLflow's client repeats a create on 429 only."""
    answer = ask(fronted, service, NO_ANSWER[name], CREATE)
    assert answer.error == (429, "TEMPORARILY_UNAVAILABLE")
    assert answer.one("Retry-After") == "10"
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("7", range(7, 8)),
        ("1.5", range(2, 3)),
        ("", range(10, 11)),
        ("soon", range(10, 11)),
        ("-1", range(1, 2)),
        ("999999", range(3600, 3601)),
        ("in ten minutes", range(500, 601)),
    ],
)
@pytest.mark.parametrize("target", [SEARCH, CREATE])
def test_a_throttled_validation_is_429_with_its_whole_retry_after(
    fronted: Proxy, service: Upstream, upstream: Upstream, target: str, given: str, told: range
) -> None:
    if given == "in ten minutes":
        given = formatdate(time() + 600, usegmt=True)
    fields = (("Retry-After", given),) if given else ()
    answer = ask(fronted, service, said({}, 429, *fields), target)
    assert answer.error == (429, "REQUEST_LIMIT_EXCEEDED")
    assert int(answer.one("Retry-After") or 0) in told
    assert upstream.requests == []


def test_a_service_that_refuses_connections_is_503(
    start_front: Callable[..., Proxy], upstream: Upstream
) -> None:
    with refused_port() as port:
        proxy = start_front(HOKUSAI_AUTH_SERVICE_URL=f"http://127.0.0.1:{port}")
        for method, target, status in (("GET", SEARCH, 503), ("POST", CREATE, 429)):
            for key in (fresh_key(), fresh_key()):
                answer = call(proxy.url, method, target, bearer(key))
                assert answer.error == (status, "TEMPORARILY_UNAVAILABLE")
                assert int(answer.one("Retry-After") or 0) >= 1
                assert str(port) not in answer.body.decode()
        assert call(proxy.url, "GET", "/health").status == 200
    assert upstream.requests == []


def test_a_known_key_goes_on_while_the_service_is_silent(
    start_front: Callable[..., Proxy], service: Upstream, upstream: Upstream
) -> None:
    proxy = start_front(
        HOKUSAI_AUTH_SERVICE_URL=service.url,
        AUTH_TIMEOUT=0.3,
        AUTH_CACHE_TTL=0,
        AUTH_RETRY_INTERVAL=60,
    )
    service.forget()
    service.answers(said(VALID), Answer(silence()))
    known = fresh_key()
    answers = [call(proxy.url, "GET", SEARCH, bearer(known)).status for _ in range(5)]
    assert answers == [200] * 5
    assert len(service.requests) == 2, "it is not asked again at once"


# --- one question at a time ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_two_workers(start_front: Callable[..., Proxy], service: Upstream) -> Proxy:
    return start_front(HOKUSAI_AUTH_SERVICE_URL=service.url, WEB_CONCURRENCY=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a yes", "a no", "no answer"])
def test_requests_at_once_with_one_new_key_make_one_call(
    with_two_workers: Proxy, service: Upstream, upstream: Upstream, name: str
) -> None:
    """By all workers of an instance together."""
    go_on = threading.Event()
    content, status, expected = {
        "a yes": (VALID, 200, 200),
        "a no": ({}, 401, 401),
        "no answer": ({}, 500, 503),
    }[name]
    service.forget()
    service.answers(Answer(until(go_on), *said(content, status).steps))
    key = fresh_key()
    with ThreadPoolExecutor(20) as clients:
        asking = [
            clients.submit(call, with_two_workers.url, "GET", SEARCH, bearer(key))
            for _ in range(20)
        ]
        service.wait_for(lambda: service.requests != [], "a question")
        go_on.set()
        answers = [each.result().status for each in asking]
    assert answers == [expected] * 20
    assert len(service.requests) == 1
