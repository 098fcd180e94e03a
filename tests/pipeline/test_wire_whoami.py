"""whoami at the wire: what a key is and what is left of it, and never the key."""

import json
import time
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.pipeline.signing_in import BROWSER, NAVIGATION, OWN, SIGN_IN, cookie_of, sign_in
from tests.upstreams import Upstream
from tests.wire import bearer, call

PATHS = ("/api/mlflow/whoami", "/mlflow/whoami")

#: Other paths that any valid key may use.
OWN_PATHS = (
    "/api/health/mlflow/detailed",
    "/mlflow/health/mlflow/self-test/seen",
    "/status",
)

WEEK = 7 * 86400


def ask(front: Proxy, *fields: str, path: str = PATHS[0]) -> dict[str, Any]:
    answer = call(front.url, "GET", path, *fields)
    assert answer.status == 200, answer.body
    assert answer.one("Cache-Control") == "no-store"
    found: dict[str, Any] = json.loads(answer.body)
    return found


@pytest.mark.parametrize("path", PATHS)
def test_it_says_what_the_key_is(
    front: Proxy, upstream: Upstream, auth_service: Any, path: str
) -> None:
    made = auth_service.create_key(
        scopes=["write", "billing", "workspace:bb", "workspace:aa"],
        limit=5,
        expires_in=30 * 86400,
    )
    found = ask(front, bearer(made.key), path=path)
    until = found.pop("expires_at")
    assert abs(_seconds(until) - time.time() - 30 * 86400) < 60
    more_at = found["limit"].pop("more_at")
    assert 0 <= _seconds(more_at) - time.time() <= 3660
    assert found == {
        "user_id": "ann",
        "key_id": made.key_id,
        "service_id": "platform",
        "scopes": ["billing", "workspace:aa", "workspace:bb", "write"],
        "workspaces": ["bb", "aa"],
        "may": ["read", "write", "delete"],
        "limit": {"requests_per_hour": 5, "remaining": 5},
    }
    assert upstream.requests == []


def test_it_counts_against_no_limit_and_shows_what_does(front: Proxy, auth_service: Any) -> None:
    key = auth_service.create_key(scopes=["read"], limit=3).key
    for left in (3, 2, 1, 0):
        for _ in range(2):
            assert ask(front, bearer(key))["limit"]["remaining"] == left
        call(front.url, "GET", "/api/mlflow/version", bearer(key))


def test_a_key_without_limit_expiry_or_scopes_may_ask(front: Proxy, auth_service: Any) -> None:
    key = auth_service.create_key(scopes=[]).key
    found = ask(front, f"X-API-Key: {key}")
    assert (found["limit"], found["expires_at"], found["may"]) == (None, None, [])


def test_a_session_sees_the_count_of_sessions(front: Proxy, auth_service: Any) -> None:
    key = auth_service.create_key(scopes=["read"], limit=9).key
    cookie = cookie_of(sign_in(front, key))  # counts as one
    call(front.url, "GET", "/api/mlflow/version", bearer(key))
    call(front.url, "GET", "/api/mlflow/version", bearer(key))
    assert ask(front, *BROWSER, OWN, cookie, path=PATHS[1])["limit"]["remaining"] == 8
    assert ask(front, bearer(key))["limit"]["remaining"] == 7


@pytest.mark.parametrize("path", PATHS)
def test_without_a_valid_key_it_is_401(front: Proxy, path: str) -> None:
    for fields in ([], [bearer("hk_test_unknown")]):
        assert call(front.url, "GET", path, *fields).status == 401


def test_a_key_in_the_query_is_refused(front: Proxy) -> None:
    assert call(front.url, "GET", f"{PATHS[0]}?api_key=hk_test_x").status == 400


@pytest.mark.parametrize(("left", "is_soon"), [(WEEK - 600, True), (WEEK + 600, False)])
def test_every_answer_says_that_the_key_expires_soon(
    front: Proxy, auth_service: Any, left: int, is_soon: bool
) -> None:
    key = auth_service.create_key(scopes=["read"], expires_in=left).key
    for method, path, status in (
        ("GET", "/api/mlflow/version", 200),
        ("POST", "/api/mlflow/api/2.0/mlflow/runs/create", 403),
        ("GET", PATHS[0], 200),
        *(("GET", path, 200) for path in OWN_PATHS),
    ):
        answer = call(front.url, method, path, bearer(key))
        assert answer.status == status
        named = answer.all("X-Hokusai-Key-Expires")
        assert [abs(_seconds(n) - time.time() - left) < 60 for n in named] == [True] * is_soon


@pytest.mark.parametrize("path", OWN_PATHS)
def test_the_proxys_own_answers_show_what_is_left(
    front: Proxy, auth_service: Any, path: str
) -> None:
    key = auth_service.create_key(scopes=["read"], limit=9).key
    assert call(front.url, "GET", path, bearer(key)).one("X-RateLimit-Remaining") == "9"
    cookie = cookie_of(sign_in(front, key))
    assert call(front.url, "GET", path, cookie).one("X-RateLimit-Remaining") == "8"


def test_the_page_after_sign_in_shows_the_limit_and_the_expiry(
    front: Proxy, auth_service: Any
) -> None:
    made = auth_service.create_key(scopes=["read"], limit=9, expires_in=86400)
    cookie = cookie_of(sign_in(front, made.key))
    page = call(front.url, "GET", SIGN_IN, *NAVIGATION, cookie).body.decode()
    assert "8 of 9 requests an hour left" in page
    assert "The key expires soon" in page
    assert made.key not in page


def _seconds(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
