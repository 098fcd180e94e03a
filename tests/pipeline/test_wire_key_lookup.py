"""Sessions whose key changes or ends without an announcement, with an auth service that is asked
by the key's id."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from typing import Any

import pytest

from app.health.faults import fault
from devstack.proxy import Proxy
from devstack.server import Running
from tests.conftest import KeyedAuthService
from tests.fault_proxy import FaultProxy
from tests.pipeline.signing_in import (
    CREATE,
    HOME,
    NAVIGATION,
    OWN,
    SEARCH,
    SIGN_IN,
    SIGN_OUT,
    cookie_of,
    sign_in,
)
from tests.upstreams import Upstream, eventually
from tests.wire import Response, call

WHOAMI = "/mlflow/whoami"
HEALTH = "/api/health/mlflow"
LOOKED_UP = "look-up of key_id="


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[KeyedAuthService]:
    """An auth service with look-ups, which logs each."""
    made = KeyedAuthService(tmp_path_factory.mktemp("auth"), redis_url)
    made.environment["AUTH_SERVICE_LOG_LEVEL"] = "info"
    with Running() as running:
        yield running.start(made)


@pytest.fixture(scope="module")
def following(start_front: Callable[..., Proxy], service: KeyedAuthService) -> Proxy:
    """A proxy whose sessions follow their keys within a second."""
    return start_front(
        HOKUSAI_AUTH_SERVICE_URL=service.url,
        AUTH_LOOKUP_TOKEN=service.lookup_token,
        AUTH_CACHE_TTL=1,
        AUTH_TIMEOUT=20,
    )


def get(front: Proxy, session: str, target: str = SEARCH, *fields: str) -> Response:
    return call(front.url, "GET", target, session, *fields)


def becomes(status: int, front: Proxy, session: str) -> None:
    eventually(lambda: get(front, session).status == status, f"a {status}")


def look_ups(service: KeyedAuthService, key_id: str) -> int:
    return service.log.read_text().count(LOOKED_UP + key_id)


def test_a_session_gets_the_rights_that_its_key_has_now(
    following: Proxy, service: KeyedAuthService, upstream: Upstream
) -> None:
    made = service.create_key(scopes=["read", "write"], limit=1000)
    session = cookie_of(sign_in(following, made.key))
    assert call(following.url, "POST", CREATE, session, OWN, body=b"{}").status == 200
    service.change(made.key_id, scopes=("read",), rate_limit_per_hour=500)
    eventually(lambda: get(following, session, WHOAMI).json["may"] == ["read"], "the change")
    refused = call(following.url, "POST", CREATE, session, OWN, body=b"{}")
    assert refused.error == (403, "PERMISSION_DENIED")
    assert refused.one("X-RateLimit-Limit") == "500"
    assert b"of 500 requests an hour left" in get(following, session, SIGN_IN, *NAVIGATION).body
    service.change(made.key_id, scopes=("write",), user_id="bob")
    eventually(lambda: "write" in get(following, session, WHOAMI).json["may"], "the next change")
    upstream.forget()
    assert call(following.url, "POST", CREATE, session, OWN, body=b"{}").status == 200
    assert upstream.requests[0].one("X-Hokusai-User-Id") == "bob"


def test_a_session_ends_with_its_key(
    following: Proxy, service: KeyedAuthService, upstream: Upstream
) -> None:
    made = service.create_key()
    session, other = (cookie_of(sign_in(following, made.key)) for _ in range(2))
    assert get(following, session).status == 200
    service.store.revoke(made.key_id)
    becomes(401, following, session)
    assert get(following, session).error == (401, "UNAUTHENTICATED")
    page = get(following, other, HOME, *NAVIGATION)
    assert page.status == 401
    assert b"Your session has ended; sign in again." in page.body


def test_a_session_that_its_key_has_left_does_not_come_back(
    following: Proxy, service: KeyedAuthService, upstream: Upstream
) -> None:
    made = service.create_key()
    session = cookie_of(sign_in(following, made.key))
    service.change(made.key_id, allowed_networks=(ip_network("203.0.113.0/24"),))
    becomes(401, following, session)
    service.change(made.key_id, allowed_networks=())
    later = cookie_of(sign_in(following, made.key))
    becomes(200, following, later)
    assert get(following, session).status == 401


def test_one_look_up_serves_all_sessions_of_a_key_in_all_workers(
    start_front: Callable[..., Proxy], service: KeyedAuthService, upstream: Upstream
) -> None:
    front = start_front(
        HOKUSAI_AUTH_SERVICE_URL=service.url,
        AUTH_LOOKUP_TOKEN=service.lookup_token,
        WEB_CONCURRENCY=2,
        AUTH_CACHE_TTL=600,
        AUTH_TIMEOUT=20,
    )
    made = service.create_key()
    sessions = [cookie_of(sign_in(front, made.key)) for _ in range(3)]
    with ThreadPoolExecutor(12) as browsers:
        found = browsers.map(lambda number: get(front, sessions[number % 3]).status, range(60))
        assert set(found) == {200}
    assert look_ups(service, made.key_id) == 1
    assert made.key not in service.log.read_text()


# --- no answer -----------------------------------------------------------------------------------


def test_in_an_outage_a_session_goes_on_for_a_while_then_it_is_503(
    start_front: Callable[..., Proxy], service: KeyedAuthService, upstream: Upstream
) -> None:
    with FaultProxy(service.port) as way:
        front = start_front(
            HOKUSAI_AUTH_SERVICE_URL=f"http://{way.address}",
            AUTH_LOOKUP_TOKEN=service.lookup_token,
            AUTH_CACHE_TTL=1,
            AUTH_STALE_TTL=4,
            AUTH_RETRY_INTERVAL=0.2,
        )
        made = service.create_key()
        session, leaving = (cookie_of(sign_in(front, made.key)) for _ in range(2))
        assert get(front, session).status == 200
        way.refuse()
        seen = Counter(iter(lambda: get(front, session).status, 503))
        assert seen.keys() == {200}
        refused = get(front, session)
        assert refused.error == (503, "TEMPORARILY_UNAVAILABLE")
        assert "Your session cannot be checked" in refused.json["message"]
        assert b"cannot be checked" in get(front, session, SIGN_IN, *NAVIGATION).body
        assert call(front.url, "POST", SIGN_OUT, leaving, OWN).status == 303
        way.heal()
        becomes(200, front, session)
        assert get(front, leaving).status == 401


def test_whoever_refuses_the_token_signs_nobody_out(
    start_front: Callable[..., Proxy], service: KeyedAuthService, upstream: Upstream
) -> None:
    front = start_front(
        HOKUSAI_AUTH_SERVICE_URL=service.url,
        AUTH_LOOKUP_TOKEN="another",
        AUTH_CACHE_TTL=1,
        AUTH_STALE_TTL=1,
        AUTH_RETRY_INTERVAL=0.2,
        HEALTH_CACHE_TTL=0,
    )
    session = cookie_of(sign_in(front, service.create_key().key))
    assert get(front, session).status == 200
    becomes(503, front, session)
    check = call(front.url, "GET", HEALTH).json["checks"]["auth_service"]
    assert check["status"] == "degraded"
    assert check["message"].startswith(str(fault("auth.no look-up", status=401)))


# --- no look-up ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[KeyedAuthService]:
    """An auth service without look-ups."""
    made = KeyedAuthService(tmp_path_factory.mktemp("auth"), redis_url)
    made.environment["AUTH_SERVICE_LOOKUP_TOKEN"] = ""
    with Running() as running:
        yield running.start(made)


def test_an_auth_service_without_look_ups_signs_nobody_out(
    start_front: Callable[..., Proxy], plain: KeyedAuthService, upstream: Upstream
) -> None:
    front = start_front(
        HOKUSAI_AUTH_SERVICE_URL=plain.url,
        AUTH_LOOKUP_TOKEN="a-token",
        AUTH_CACHE_TTL=0.2,
        AUTH_STALE_TTL=0,
        HEALTH_CACHE_TTL=0,
    )
    made = plain.create_key()
    session = cookie_of(sign_in(front, made.key))
    plain.change(made.key_id, scopes=("read",))
    for _ in range(15):
        assert get(front, session, WHOAMI).json["may"] == ["read", "write", "delete"]
        upstream.stopping.wait(0.1)
    lines = [line for line in front.log_lines() if "offers no look-up" in line["message"]]
    assert len(lines) == 1
    check = call(front.url, "GET", HEALTH).json["checks"]["auth_service"]
    assert check["message"].startswith(str(fault("auth.no look-up", status=404)))


def test_without_a_token_nothing_is_looked_up(
    start_front: Callable[..., Proxy], service: KeyedAuthService, upstream: Upstream
) -> None:
    front = start_front(HOKUSAI_AUTH_SERVICE_URL=service.url, AUTH_CACHE_TTL=0, AUTH_STALE_TTL=0)
    made: Any = service.create_key()
    session = cookie_of(sign_in(front, made.key))
    service.store.revoke(made.key_id)
    assert get(front, session).status == 200
    assert call(front.url, "GET", HEALTH).json["checks"]["auth_service"]["status"] == "healthy"
    assert look_ups(service, made.key_id) == 0
