"""The auth service's client: which failures open the circuit, and which are about one key."""

import contextlib
import time
from collections.abc import Callable

import pytest

from app.auth.client import IN_A_ROW, AuthService
from app.request.errors import AuthServiceUnavailable, RateLimited
from app.upstream.circuit import Circuit
from tests.app.auth.auth_service import IP, TIMEOUT, YES, says
from tests.app.samples import KEY
from tests.upstreams import Answer, Received, Upstream, reset, silence


def test_a_service_that_fails_is_left_alone_for_a_while(
    server: Upstream, make_client: Callable[..., AuthService]
) -> None:
    client = make_client(server.url, fail_max=2)
    server.answers(says({}, 500))
    for _ in range(5):
        with pytest.raises(AuthServiceUnavailable):
            client.validate(KEY, IP)
    assert len(server.requests) == 2


CLEAR = {"yes": says(YES), "no": says({}, 401), "later": says({}, 429)}


@pytest.mark.parametrize("case", CLEAR)
def test_a_clear_answer_is_no_failure(
    server: Upstream, make_client: Callable[..., AuthService], case: str
) -> None:
    client = make_client(server.url, fail_max=1)
    server.answers(CLEAR[case])
    for _ in range(3):
        with contextlib.suppress(RateLimited):
            client.validate(KEY, IP)
    assert len(server.requests) == 3


ABOUT_ONE_KEY = {
    "a form of key that it refuses": says({"detail": "not a key"}, 422),
    "400": says({}, 400),
    "no user": says({"user_id": None, "key_id": "key-1"}),
    "an odd limit": says(YES | {"rate_limit_per_hour": -1}),
    "neither yes nor no": says(YES | {"valid": "maybe"}),
    "too much": says(YES | {"workspaces": ["x" * 100] * 1000}),
}


@pytest.mark.parametrize("case", ABOUT_ONE_KEY)
def test_what_it_says_of_one_key_keeps_nobody_else_out(
    server: Upstream, make_client: Callable[..., AuthService], case: str
) -> None:
    client = make_client(server.url, fail_max=1)
    server.answers(ABOUT_ONE_KEY[case])
    for _ in range(3):
        with pytest.raises(AuthServiceUnavailable):
            client.validate(KEY, IP)
    assert client.circuit.state == "closed"
    server.answers(says(YES))
    assert client.validate("hk_test_another", IP) is not None


FAILURES = {
    "500": says({}, 500),
    "reset": Answer(reset()),
    "delay": Answer(silence()),
    "page": says(b"<html>"),
}


@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.parametrize(
    ("was_good", "without_a_key", "state"),
    [
        (False, says({}, 401), "closed"),
        (False, says({"valid": False}), "closed"),
        (False, says(YES), "open"),
        (False, None, "open"),
        (True, says({}, 401), "open"),
    ],
)
def test_a_key_at_which_it_fails_keeps_nobody_else_out(
    server: Upstream,
    make_client: Callable[..., AuthService],
    case: str,
    was_good: bool,
    without_a_key: Answer | None,
    state: str,
) -> None:
    """Anybody can make up a key that is too long for its hash function, or whose refusal it
    delays."""

    def answer(question: Received) -> Answer:
        has_key = question.one("Authorization") is not None
        return FAILURES[case] if has_key else without_a_key or FAILURES[case]

    server.answers_by(answer)
    client = make_client(server.url, TIMEOUT, fail_max=2)
    for _ in range(3):
        with pytest.raises(AuthServiceUnavailable):
            client.validate(KEY, IP, lambda: was_good)
    assert client.circuit.state == state


@pytest.mark.parametrize("case", [*ABOUT_ONE_KEY, *FAILURES])
def test_no_decision_on_several_keys_is_remembered_until_there_is_one(
    server: Upstream, make_client: Callable[..., AuthService], case: str
) -> None:
    client = make_client(server.url, TIMEOUT)
    failure = (ABOUT_ONE_KEY | FAILURES)[case]
    server.answers_by(lambda asked: failure if asked.one("Authorization") else says({}, 401))
    for number in range(IN_A_ROW):
        assert client.without_decision == ""
        with pytest.raises(AuthServiceUnavailable):
            client.validate(f"hk_test_{number}", IP, lambda: False)
    assert "the auth service" in client.without_decision
    assert "hk_test" not in client.without_decision
    server.answers(says({}, 401))
    assert client.validate(KEY, IP) is None
    assert client.without_decision == ""


def test_a_made_up_key_that_is_the_probe_keeps_no_circuit_open(
    server: Upstream, make_client: Callable[..., AuthService]
) -> None:
    client = make_client(server.url, TIMEOUT, fail_max=1)
    client.circuit = Circuit("auth_service", 1, 0.05)
    server.answers(Answer(reset()))
    with pytest.raises(AuthServiceUnavailable):
        client.validate(KEY, IP)
    assert client.circuit.state == "open"
    time.sleep(0.1)
    server.answers_by(
        lambda asked: says({}, 401) if asked.one("Authorization") is None else FAILURES["delay"]
    )
    with pytest.raises(AuthServiceUnavailable):
        client.validate("hk_test_made_up", IP, lambda: False)
    assert client.circuit.state == "closed"


def test_a_made_up_key_closes_no_circuit_that_opened_meanwhile(
    server: Upstream, make_client: Callable[..., AuthService]
) -> None:
    client = make_client(server.url, TIMEOUT, fail_max=1)

    def answer(question: Received) -> Answer:
        if question.one("Authorization") is None:
            return says({}, 401)
        client.circuit.trip()  # keys that were good lately got no answer
        return FAILURES["reset"]

    server.answers_by(answer)
    with pytest.raises(AuthServiceUnavailable):
        client.validate("hk_test_made_up", IP, lambda: False)
    assert client.circuit.state == "open"
