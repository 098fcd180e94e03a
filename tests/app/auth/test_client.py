"""The auth service's client: its question, and the responses yes, no and throttled."""

import contextlib
import json
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest

from app.auth import answer
from app.auth.answer import retry_after_seconds
from app.auth.client import AuthService
from app.request.errors import AuthServiceUnavailable, RateLimited
from app.request.principal import Principal
from tests.app.auth.auth_service import ANN, IP, PATIENT, YES, says
from tests.app.samples import KEY
from tests.upstreams import Answer, Upstream, chunked, send

# --- the question --------------------------------------------------------------------------------


def test_the_question_is_the_contracts(client: AuthService, server: Upstream) -> None:
    server.answers(says(YES))
    client.validate(KEY, IP)
    (asked,) = server.requests
    assert asked.line == b"POST /api/v1/keys/validate HTTP/1.1"
    assert asked.one("Authorization") == f"Bearer {KEY}"
    assert asked.one("Content-Type") == "application/json"
    assert json.loads(asked.body) == {"service_id": "platform", "client_ip": IP}
    assert KEY.encode() not in asked.body


def test_a_base_path_is_kept(server: Upstream, make_client: Callable[..., AuthService]) -> None:
    server.answers(says(YES))
    make_client(f"{server.url}/internal").validate(KEY, IP)
    assert server.requests[0].target == b"/internal/api/v1/keys/validate"


def test_a_ping_carries_no_key(client: AuthService, server: Upstream) -> None:
    server.answers(says({}, 401))
    assert client.ping(PATIENT)[0] == 401
    assert server.requests[0].all("Authorization") == []


def test_connections_are_reused(client: AuthService, server: Upstream) -> None:
    server.answers(says(YES), says({}, 401), says({}, 404), says({}, 500), says(YES))
    for _ in range(5):
        with contextlib.suppress(AuthServiceUnavailable):
            client.validate(KEY, IP)
    assert server.connections == 1


def test_one_that_was_idle_is_not(client: AuthService, server: Upstream) -> None:
    """A server closes it after 2 s (gunicorn) or 5 s (uvicorn), maybe just as it is used again."""
    server.answers(says(YES))
    client.validate(KEY, IP)
    time.sleep(1.1)
    client.validate(KEY, IP)
    assert server.connections == 2


# --- yes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({}, {}),
        ({"user_id": ..., "user": {"id": "bob"}}, {"user_id": "bob"}),
        ({"user_id": None, "user": {"id": 17}}, {"user_id": "17"}),
        ({"user_id": "ann", "user": {"id": "bob"}}, {}),
        ({"user_id": 42, "key_id": 7}, {"user_id": "42", "key_id": "7"}),
        ({"user_id": " ann "}, {}),
        ({"service_id": "other"}, {"service_id": "other"}),
        ({"service_id": None}, {}),
        ({"workspaces": ["team-b", "team-a"]}, {"workspaces": ("team-b", "team-a")}),
        (
            {"workspaces": None, "scopes": ["workspace:aa"]},
            {"scopes": frozenset(("workspace:aa",)), "workspaces": ("aa",)},
        ),
        (
            {"workspaces": ["team-b"], "scopes": ["workspace:aa", "workspace:team-b"]},
            {
                "scopes": frozenset(("workspace:aa", "workspace:team-b")),
                "workspaces": ("team-b", "aa"),
            },
        ),
        ({"workspaces": ["Team", "a", "a_b", "-a", "a/b", "", "x" * 64]}, {"workspaces": ()}),
        ({"scopes": []}, {"scopes": frozenset()}),
        ({"scopes": None}, {"scopes": frozenset()}),
        ({"scopes": ...}, {"scopes": frozenset()}),
        ({"scopes": ["a", "b", "a"]}, {"scopes": frozenset(("a", "b"))}),
        ({"rate_limit_per_hour": 1000}, {"limit_per_hour": 1000}),
        ({"rate_limit_per_hour": 0}, {"limit_per_hour": 0}),
        ({"rate_limit_per_hour": 99.0}, {"limit_per_hour": 99}),
        ({"rate_limit_per_hour": None}, {}),
        ({"is_admin": True}, {"is_admin": True}),
        ({"is_admin": "true"}, {}),
        ({"is_admin": 1}, {}),
        ({"roles": ["admin"], "email": "ann@example.com"}, {}),
        ({"valid": True, "is_valid": True, "plan": {"nested": [1]}, "unknown": None}, {}),
    ],
)
def test_a_yes(
    client: AuthService, server: Upstream, answer: dict[str, Any], expected: dict[str, Any]
) -> None:
    content = {name: value for name, value in (YES | answer).items() if value is not ...}
    server.answers(says(content))
    facts = {name: getattr(ANN, name) for name in Principal.__slots__}
    assert client.validate(KEY, IP) == Principal(**facts | expected)


def test_a_yes_may_come_in_chunks(client: AuthService, server: Upstream) -> None:
    body = json.dumps(YES).encode()
    server.answers(Answer(send(chunked(body[:10], body[10:]))))
    assert client.validate(KEY, IP) == ANN


# --- no ------------------------------------------------------------------------------------------


NO = {
    "valid is false": says({"valid": False}),
    "is_valid is false": says({"is_valid": False}),
    "a whole answer, and valid is false": says(YES | {"valid": False}),
    "one of the two is false": says(YES | {"valid": True, "is_valid": False}),
    "401": says({"detail": "unknown key"}, 401),
    "403": says({"detail": "not from this address"}, 403),
    "404": says({}, 404),
    "401 without a word": says(b"", 401),
    "403 in plain text": says(b"not json", 403),
    "404 in HTML": says(b"<html>no</html>", 404),
}


@pytest.mark.parametrize("case", NO)
def test_a_no(client: AuthService, server: Upstream, case: str) -> None:
    server.answers(NO[case])
    assert client.validate(KEY, IP) is None


# --- throttled -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ([("Retry-After", "17")], "17"),
        ([("Retry-After", "1.5")], "2"),
        ([("Retry-After", "0")], "1"),
        ([], "10"),
        ([("Retry-After", "soon")], "10"),
    ],
)
def test_throttled(
    client: AuthService, server: Upstream, fields: list[tuple[str, str]], told: str
) -> None:
    server.answers(says({}, 429, *fields))
    with pytest.raises(RateLimited) as caught:
        client.validate(KEY, IP)
    assert caught.value.headers["Retry-After"] == told


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1", 1),
        ("120", 120),
        ("0", 1),
        ("-5", 1),
        ("2.1", 3),
        ("999999", 3600),
        ("1e9", 3600),
        ("", 7),
        ("tomorrow", 7),
        ("nan", 7),
        ("inf", 7),
        ("Wed, 99 Foo 2026 00:00:00 GMT", 7),
    ],
)
def test_a_retry_after_becomes_whole_seconds(value: str, seconds: int) -> None:
    assert retry_after_seconds(value, 7) == seconds


@pytest.mark.parametrize(("ahead", "seconds"), [(90, 90), (-90, 1), (90_000, 3600)])
def test_a_retry_after_may_be_a_date(ahead: float, seconds: int) -> None:
    date = formatdate(time.time() + ahead, usegmt=True)
    assert retry_after_seconds(date, 7) == pytest.approx(seconds, abs=2)


# --- when a key ends -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "until", "is_unread"),
    [
        (None, None, False),
        ("2030-01-01T00:00:00Z", 1893456000.0, False),
        ("2030-01-01T01:00:00+01:00", 1893456000.0, False),
        (1893456000, 1893456000.0, False),
        (0, None, False),
        ("0001-01-01T00:00:00Z", None, False),
        ("2030-01-01T00:00:00", None, True),
        (1893456000000, None, True),
        ("next week", None, True),
        (True, None, True),
    ],
)
def test_when_a_key_ends_is_read_or_the_log_says_that_it_is_not(
    server: Upstream,
    client: AuthService,
    caplog: pytest.LogCaptureFixture,
    said: object,
    until: float | None,
    is_unread: bool,
) -> None:
    answer._say_that_it_is_unread.cache_clear()
    server.answers(says(YES | {"expires_at": said}))
    for _ in range(2):
        found = client.validate(KEY, IP)
        assert found is not None
        assert found.expires_at == until
    lines = [line for line in caplog.messages if "expires_at" in line]
    assert len(lines) == is_unread, "once"
