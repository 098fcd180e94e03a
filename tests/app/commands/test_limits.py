"""`flask limits`: what is used up, what is left, and a fresh start for a key or an address."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import redis

from devstack.proxy import Proxy
from tests.app.doctor.conftest import Finished
from tests.upstreams import refused_port
from tests.wire import bearer, call

Flask = Callable[..., Finished]
VERSION = "/api/mlflow/version"


@pytest.fixture
def flask(flask: Flask) -> Flask:
    """A Redis that is busy for a moment is waited for."""
    return partial(flask, REDIS_TIMEOUT="5")


@pytest.fixture
def limited(auth_service: Any) -> Any:
    """A key with a limit of five requests an hour."""
    return auth_service.create_key(scopes=["read"], limit=5)


def shown(flask: Flask, redis_url: str, *arguments: str) -> list[dict[str, Any]]:
    done = flask("limits", "show", "--json", *arguments, REDIS_URL=redis_url)
    assert done.status == 0, done.err
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


@pytest.mark.slow
def test_what_a_key_has_used_is_shown_and_cleared(
    flask: Flask, proxy: Proxy, redis_url: str, limited: Any
) -> None:
    def status() -> int:
        return call(proxy.url, "GET", VERSION, bearer(limited.key)).status

    assert shown(flask, redis_url, limited.key_id) == []
    assert [status() for _ in range(3)] == [200] * 3
    (count,) = shown(flask, redis_url, limited.key_id)
    assert (count["kind"], count["who"], count["period"]) == ("key", limited.key_id, "hour")
    assert (count["limit"], count["used"], count["left"], count["wait"]) == (5, 3, 2, 0)
    assert 3600 < count["forgotten"] <= 7200

    assert [status() for _ in range(3)] == [200, 200, 429]
    refused = call(proxy.url, "GET", VERSION, bearer(limited.key))
    (count,) = shown(flask, redis_url, limited.key_id)
    assert (count["used"], count["left"]) == (5, 0)
    assert abs(count["wait"] - int(refused.one("Retry-After") or 0)) < 60
    line = flask("limits", "show", limited.key_id, REDIS_URL=redis_url).out
    assert f"key {limited.key_id}: 5 of 5 requests in the last hour; next one in" in line

    done = flask("limits", "clear", limited.key_id, REDIS_URL=redis_url)
    assert (done.status, done.out) == (0, f"Forgotten: 1 counts of {limited.key_id}.\n")
    assert shown(flask, redis_url, limited.key_id) == []
    assert status() == 200


@pytest.mark.parametrize(("requests", "used"), [(1, 0), (4, 2), (5, 2)])
def test_it_tells_what_the_limiter_itself_goes_by(
    flask: Flask, redis_url: str, auth_service: Any, proxy: Proxy, requests: int, used: int
) -> None:
    """Also in the second hour, when the first one still counts in part."""
    key = auth_service.create_key(scopes=["read"], limit=5)
    for _ in range(requests):
        call(proxy.url, "GET", VERSION, bearer(key.key))
    client = redis.Redis.from_url(redis_url)
    (name,) = client.keys(f"LIMITS:*{key.key_id}*")
    client.pexpire(name, 1_900_000)  # its hour is over, and 1900 s of it still count
    (count,) = shown(flask, redis_url, key.key_id)
    assert (count["used"], count["left"], count["wait"]) == (used, 5 - used, 0)
    client.close()


@pytest.mark.slow
def test_failed_authentications_are_shown_by_address(
    flask: Flask, redis_url: str, start_proxy: Callable[..., Proxy]
) -> None:
    proxy = start_proxy(
        AUTH_FAILURE_LIMIT=3, TRUSTED_PROXY_HOPS=1, MLFLOW_SERVER_URL="http://127.0.0.1:9"
    )

    def status(number: int) -> int:
        fields = (bearer(f"hk_test_nobody_{number}"), "X-Forwarded-For: 203.0.113.77")
        return call(proxy.url, "GET", VERSION, *fields).status

    assert [status(number) for number in range(4)] == [401, 401, 401, 429]
    (count,) = shown(flask, redis_url, "--address", "203.0.113.77")
    assert (count["kind"], count["who"], count["limit"], count["used"]) == (
        "address",
        "203.0.113.77",
        3,
        3,
    )
    assert count in [
        known | {"forgotten": count["forgotten"], "wait": count["wait"]}
        for known in shown(flask, redis_url)
    ]
    assert flask("limits", "clear", "--address", "203.0.113.77", REDIS_URL=redis_url).status == 0
    assert status(9) == 401


@pytest.mark.parametrize("key_id", ["*", "[a-z]/{b}?ä\\"])
def test_an_odd_id_is_itself_and_no_pattern(
    flask: Flask, redis_url: str, limited: Any, proxy: Proxy, key_id: str
) -> None:
    call(proxy.url, "GET", VERSION, bearer(limited.key))
    assert shown(flask, redis_url, key_id) == []
    done = flask("limits", "clear", key_id, REDIS_URL=redis_url)
    assert done.out == f"Forgotten: 0 counts of {key_id}.\n"
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys(f"LIMITS:*{limited.key_id}*")


@pytest.mark.parametrize(
    ("command", "key_id", "url", "complaint"),
    [
        ("show", "key_1", "redis://ann:secret@127.0.0.1:{port}", "Redis cannot be reached"),
        ("clear", "key_1", "redis://ann:secret@127.0.0.1:{port}", "Redis cannot be reached"),
        ("show", "key_1", "redis+cluster://:secret@127.0.0.1:{port}", "Redis cannot be reached"),
        ("show", "key_1", "memory://", "in the proxy's own memory"),
        ("clear", "hk_test_0123456789", "memory://", "That is a key. Give its id"),
    ],
)
def test_what_is_wrong_is_said(
    flask: Flask, command: str, key_id: str, url: str, complaint: str
) -> None:
    with refused_port() as port:
        done = flask("limits", command, key_id, REDIS_URL=url.format(port=port))
    assert (done.status, done.out) == (1, "")
    assert complaint in done.err
    assert "secret" not in done.err
    assert "0123456789" not in done.err


def test_clearing_wants_to_know_whose(flask: Flask, redis_url: str) -> None:
    done = flask("limits", "clear", REDIS_URL=redis_url)
    assert done.status == 2
    assert "Say whose" in done.err
