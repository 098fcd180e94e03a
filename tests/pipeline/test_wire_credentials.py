"""One key in one of four forms; anything else is refused before MLflow hears of it."""

import base64
from collections.abc import Callable
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.upstreams import Upstream
from tests.wire import Response, Wire, bearer, call, request

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
DETAILED = "/api/health/mlflow/detailed"

UNAUTHENTICATED = (401, "UNAUTHENTICATED")
BAD_REQUEST = (400, "BAD_REQUEST")


def ask(front: Proxy, *fields: str | bytes, target: str = SEARCH) -> Response:
    return call(front.url, "GET", target, *fields)


def basic(text: str, encoding: str = "utf-8") -> str:
    return f"Authorization: Basic {base64.b64encode(text.encode(encoding)).decode()}"


ACCEPTED = {
    "Bearer": lambda key: [f"Authorization: Bearer {key}"],
    "Bearer in small letters": lambda key: [f"authorization: bearer {key}"],
    "Bearer with more blanks": lambda key: [f"Authorization:  Bearer   {key}  "],
    "ApiKey": lambda key: [f"Authorization: ApiKey {key}"],
    "ApiKey in capitals": lambda key: [f"AUTHORIZATION: APIKEY {key}"],
    "Basic": lambda key: [basic(f"ann:{key}")],
    "Basic without a user": lambda key: [basic(f":{key}")],
    "Basic with another user": lambda key: [basic(f"Katsushika 北斎:{key}")],
    "X-API-Key": lambda key: [f"X-API-Key: {key}"],
    "x-api-key": lambda key: [f"x-api-key: {key}"],
    "the same in two fields": lambda key: [f"X-API-Key: {key}", f"Authorization: Bearer {key}"],
    "the same in two forms": lambda key: [f"X-API-Key: {key}", basic(f"ann:{key}")],
    "the same field twice": lambda key: [f"X-API-Key: {key}", f"X-API-Key: {key}"],
}


@pytest.mark.parametrize("form", ACCEPTED)
@pytest.mark.parametrize("target", [SEARCH, DETAILED])
def test_a_key_is_taken_in_each_of_its_forms(
    front: Proxy, upstream: Upstream, key: str, form: str, target: str
) -> None:
    assert ask(front, *ACCEPTED[form](key), target=target).status == 200


REFUSED: dict[str, Callable[[str], list[str | bytes]]] = {
    "nothing": lambda key: [],
    "an empty Authorization": lambda key: ["Authorization:"],
    "an empty Bearer": lambda key: ["Authorization: Bearer"],
    "a blank Bearer": lambda key: ["Authorization: Bearer   "],
    "an empty X-API-Key": lambda key: ["X-API-Key:"],
    "an empty Basic": lambda key: ["Authorization: Basic"],
    "an unknown key": lambda key: [bearer("hk_test_unknown")],
    "a key and one letter more": lambda key: [bearer(key + "a")],
    "a key in capitals": lambda key: [bearer(key.upper())],
    "a key that is too long": lambda key: [bearer("a" * 600)],
    "a key with a blank": lambda key: [bearer(f"{key} {key}")],
    "a key that is not ASCII": lambda key: [f"Authorization: Bearer {key}\xfc"],
    "an unknown scheme": lambda key: [f"Authorization: Digest {key}"],
    "no scheme": lambda key: [f"Authorization: {key}"],
    "Basic that is no base64": lambda key: [f"Authorization: Basic ann:{key}"],
    "Basic without a colon": lambda key: [basic(key)],
    "Basic with the key as the user": lambda key: [basic(f"{key}:")],
    "Basic that is not UTF-8": lambda key: [basic("\xfc", "latin-1")],
    "a cookie": lambda key: [f"Cookie: api_key={key}"],
    "a field of another name": lambda key: [f"X-Auth-Token: {key}"],
    "a field with an underscore": lambda key: [f"X_API_Key: {key}"],
    "Proxy-Authorization": lambda key: [f"Proxy-Authorization: Bearer {key}"],
}


@pytest.mark.parametrize("form", REFUSED)
@pytest.mark.parametrize("target", [SEARCH, DETAILED])
def test_anything_else_is_401(
    front: Proxy, upstream: Upstream, key: str, form: str, target: str
) -> None:
    upstream.forget()
    answer = ask(front, *REFUSED[form](key), target=target)
    assert answer.error == UNAUTHENTICATED
    # Each in a field of its own: Java's HttpClient finds Basic only at the beginning of one.
    assert answer.all("WWW-Authenticate") == [
        'Bearer realm="mlflow"',
        'Basic realm="mlflow", charset="UTF-8"',
    ]
    assert key not in answer.body.decode()
    assert upstream.requests == []


@pytest.mark.parametrize("target", [SEARCH, DETAILED])
def test_two_different_keys_are_400(
    front: Proxy, upstream: Upstream, auth_service: Any, key: str, target: str
) -> None:
    other = auth_service.create_key().key
    for fields in (
        (bearer(key), f"X-API-Key: {other}"),
        (bearer(other), f"X-API-Key: {key}"),
        (basic(f"ann:{key}"), f"X-API-Key: {other}"),
        (f"X-API-Key: {key}", f"X-API-Key: {other}"),
        (bearer(key), bearer(other)),
        (bearer(key), basic(f"ann:{other}")),
        (bearer(key), "X-API-Key: hk_test_unknown"),
    ):
        answer = ask(front, *fields, target=target)
        assert answer.error == BAD_REQUEST
        assert key not in answer.body.decode()
        assert other not in answer.body.decode()
    assert upstream.requests == []


@pytest.mark.parametrize(
    "query",
    [
        "api_key={}",
        "apikey={}",
        "API_KEY={}",
        "api-key=anything",
        "x-api-key={}",
        "access_token=anything",
        "a=1&api%5Fkey={}",
        "anything={}",
        "filter=name%3D'{}'",
        "{}",
        "%68k_test_0123456789abcdef=1",
    ],
)
@pytest.mark.parametrize("target", [SEARCH, DETAILED])
def test_a_key_in_the_query_is_refused_with_the_place_where_it_belongs(
    front: Proxy, upstream: Upstream, key: str, target: str, query: str
) -> None:
    answer = ask(front, bearer(key), target=f"{target}?{query.format(key)}")
    assert answer.error == BAD_REQUEST
    assert "Authorization: Bearer" in answer.json["message"]
    assert key not in answer.body.decode()
    assert [asked for asked in upstream.requests if asked.target.startswith(b"/api/2.0/")] == []


def test_each_request_of_a_connection_needs_its_own_key(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    with Wire(front.url) as wire:
        assert wire.ask(request("GET", SEARCH, bearer(key))).status == 200
        assert wire.ask(request("GET", SEARCH)).error == UNAUTHENTICATED
        assert wire.ask(request("GET", SEARCH, bearer(key))).status == 200


# --- too many failed attempts --------------------------------------------------------------------


@pytest.mark.slow
def test_failed_attempts_are_limited_by_address(
    start_front: Callable[..., Proxy], upstream: Upstream, auth_service: Any
) -> None:
    """Whoever was let in before stays in; who is new, or guesses, waits."""
    limit = 5
    front = start_front(AUTH_FAILURE_LIMIT=limit, TRUSTED_PROXY_HOPS=1)
    here, elsewhere = "X-Forwarded-For: 198.51.100.1", "X-Forwarded-For: 198.51.100.2"
    known, fresh = auth_service.create_key().key, auth_service.create_key().key
    assert ask(front, bearer(known), here).status == 200

    guesses = [bearer(f"hk_test_guess{number}") for number in range(limit)]
    assert [ask(front, guess, here).status for guess in guesses] == [401] * limit
    for attempt in (guesses[0], bearer("hk_test_another"), bearer(fresh)):
        answer = ask(front, attempt, here)
        assert answer.error == (429, "REQUEST_LIMIT_EXCEEDED")
        assert 1 <= int(answer.one("Retry-After") or 0) <= 60
        assert answer.one("X-RateLimit-Limit") == str(limit)
        assert answer.one("X-RateLimit-Remaining") == "0"

    assert ask(front, bearer(known), here).status == 200
    assert ask(front, bearer(fresh), elsewhere).status == 200
    assert ask(front, here).error == UNAUTHENTICATED, "no key is no attempt"
    assert ask(front, guesses[0], elsewhere).error == UNAUTHENTICATED
