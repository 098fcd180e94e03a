"""What a session's key may do now: the question by its id, the responses, and none."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.auth.single_flight import SingleFlight
from app.request.errors import AuthServiceUnavailable, SessionEnded
from app.services import Services, build
from tests.app.auth.auth_service import IP, says
from tests.app.samples import principal, settings
from tests.upstreams import Answer, Exchange, Received, Upstream, reset

READS: dict[str, Any] = {"user_id": "ann", "key_id": "key-1", "scopes": ["read"]}
ENDED = says({"valid": False})
NOT_OFFERED = (404, 405, 501)

Make = Callable[..., Services]


@pytest.fixture
def make(server: Upstream) -> Iterator[Make]:
    """`make(auth_cache_ttl=0)`: the services of a worker without Redis that looks keys up."""
    made: list[Services] = []

    def make(**changes: Any) -> Services:
        given = {"redis_url": "memory://", "auth_lookup_token": "a-token"} | changes
        made.append(build(settings(auth_service_url=server.url, **given)))
        return made[-1]

    yield make
    for services in made:
        services.auth_service._session.close()


def begin(services: Services, ago: float = 0.0) -> str:
    """A session of a key that could read and write, so many seconds ago."""
    return services.sessions.begin(principal(), IP, time.time() - ago)


def scopes(services: Services, token: str) -> set[str]:
    return {*services.sessions.principal([token], IP).scopes}


def test_the_question_is_the_one_of_the_specification(server: Upstream, make: Make) -> None:
    server.answers(says(READS))
    services = make()
    token = begin(services)
    for _ in range(3):
        assert scopes(services, token) == {"read"}
    (asked,) = server.requests
    assert asked.line == b"POST /api/v1/keys/lookup HTTP/1.1"
    assert asked.one("Authorization") == "Bearer a-token"
    assert json.loads(asked.body) == {"key_id": "key-1", "service_id": "platform", "client_ip": IP}


def test_of_a_key_at_another_address_it_is_asked_again(server: Upstream, make: Make) -> None:
    server.answers(says(READS))
    services = make()
    for ip in (IP, "198.51.100.7"):
        token = services.sessions.begin(principal(), ip, time.time())
        services.sessions.principal([token], ip)
    assert [json.loads(asked.body)["client_ip"] for asked in server.requests] == [
        IP,
        "198.51.100.7",
    ]


NO_DECISION = {
    "400": says({}, 400),
    "401": says({}, 401),
    "403": says({}, 403),
    "429": says({}, 429),
    "500": says({}, 500),
    "a redirect": says({}, 302, ("Location", "/login")),
    "a reset": Answer(reset()),
    "a page": says(b"<html>"),
    "another key": says(READS | {"key_id": "key-2"}),
    "no key id": says({"user_id": "ann"}),
    "neither yes nor no": says(READS | {"valid": "maybe"}),
}


@pytest.mark.parametrize("case", NO_DECISION)
def test_no_decision_leaves_the_last_one_for_a_while_and_ends_no_session(
    server: Upstream, make: Make, case: str
) -> None:
    server.answers(NO_DECISION[case])
    services = make(auth_cache_ttl=60, auth_stale_ttl=600)
    recent, old = begin(services, 650), begin(services, 670)
    assert scopes(services, recent) == {"read", "write"}
    with pytest.raises(AuthServiceUnavailable, match="cannot be checked"):
        scopes(services, old)
    assert len(server.requests) == 1, "it is not asked again at once"


def test_after_an_outage_it_is_asked_again(server: Upstream, make: Make) -> None:
    server.answers(says({}, 500), says(READS))
    services = make(auth_retry_interval=0)
    token = begin(services)
    assert scopes(services, token) == {"read", "write"}
    assert scopes(services, token) == {"read"}


def test_a_look_up_that_fails_alone_opens_no_circuit(server: Upstream, make: Make) -> None:
    def answer(asked: Received) -> Answer:
        return says({}, 500 if asked.target.endswith(b"/lookup") else 401)

    server.answers_by(answer)
    services = make(circuit_fail_max=2, auth_retry_interval=0)
    token = begin(services)
    for _ in range(5):
        assert scopes(services, token) == {"read", "write"}
    assert services.auth_service.circuit.state == "closed"


# --- the key has ended ---------------------------------------------------------------------------


def test_a_session_whose_key_has_ended_ends_for_good(server: Upstream, make: Make) -> None:
    server.answers(ENDED, says(READS))
    services = make(auth_negative_ttl=0)
    token = begin(services)
    for _ in range(2):
        with pytest.raises(SessionEnded):
            scopes(services, token)
    assert len(server.requests) == 1


def test_a_later_sign_in_is_asked_about_anew(server: Upstream, make: Make) -> None:
    """Its key was validated since."""
    server.answers(ENDED, says(READS))
    services = make()
    first, second = begin(services), begin(services, 1)
    for token in (first, second):
        with pytest.raises(SessionEnded):
            scopes(services, token)
    assert len(server.requests) == 1
    assert scopes(services, begin(services)) == {"read"}
    assert len(server.requests) == 2


def test_a_key_that_is_revoked_while_it_is_looked_up_has_ended(
    server: Upstream, make: Make
) -> None:
    services = make()

    def revoke(exchange: Exchange) -> None:
        services.authenticator._cache.revocations.revoke("key-1")

    server.answers(Answer(revoke, *says(READS).steps))
    with pytest.raises(SessionEnded):
        scopes(services, begin(services, 30))


def test_a_key_that_expires_after_it_was_looked_up_has_ended(server: Upstream, make: Make) -> None:
    server.answers(says(READS | {"expires_at": time.time() + 0.5}), says({}, 500))
    services = make()
    token = begin(services)
    assert scopes(services, token) == {"read"}
    time.sleep(0.6)
    with pytest.raises(SessionEnded):
        scopes(services, token)


# --- no look-up ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", NOT_OFFERED)
def test_a_service_without_look_ups_leaves_sessions_as_they_are(
    server: Upstream, make: Make, status: int
) -> None:
    server.answers(says({}, status))
    services = make()
    for token in (begin(services, 30_000), begin(services)):
        for _ in range(2):
            assert scopes(services, token) == {"read", "write"}
    assert len(server.requests) == 1


def test_rights_that_were_taken_do_not_come_back_when_the_look_up_goes(
    server: Upstream, make: Make
) -> None:
    """A new version of the auth service may be rolled back."""
    server.answers(says(READS), says({}, 404))
    services = make(auth_cache_ttl=0, auth_stale_ttl=0)
    token = begin(services)
    for _ in range(2):
        assert scopes(services, token) == {"read"}
    assert len(server.requests) == 2


def test_a_key_that_has_ended_does_not_come_back_when_the_look_up_goes(
    server: Upstream, make: Make, tmp_path: Path
) -> None:
    """Nor at another worker."""
    server.answers(ENDED, says({}, 404))
    shared = {"instance_folder": str(tmp_path), "auth_cache_secret": "one"}
    for ago in (10, 20):
        services = make(auth_negative_ttl=0, auth_cache_ttl=0, **shared)
        with pytest.raises(SessionEnded):
            scopes(services, begin(services, ago))
    assert len(server.requests) == 2


# --- who waits -----------------------------------------------------------------------------------


def test_where_too_many_wait_nobody_else_does(
    server: Upstream, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SingleFlight, "is_full", True)
    services = make()
    assert scopes(services, begin(services)) == {"read", "write"}
    with pytest.raises(AuthServiceUnavailable):
        scopes(services, begin(services, 700))
    assert server.requests == []


def test_all_who_wait_are_counted() -> None:
    flights = SingleFlight(None, most_waiting=2)
    with flights.lock("a1", 1):
        assert not flights.is_full
        with flights.lock("b2", 1):
            assert flights.is_full
        assert not flights.is_full
