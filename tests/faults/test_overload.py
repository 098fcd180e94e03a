"""Places in flight: nobody takes another's, what is over is shed at once, and all come back."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from devstack.proxy import Proxy
from tests.drills import overload
from tests.drills.load import all_at_once
from tests.drills.report import kept
from tests.drills.stage import Stage
from tests.fault_proxy import FaultProxy
from tests.upstreams import (
    OK,
    Answer,
    Received,
    Upstream,
    chunk,
    close,
    eventually,
    generate,
    head,
    pause,
    reset,
    send,
    silence,
    sized,
    without_end,
)
from tests.wire import Response, Wire, bearer, call, request

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
CREATE = "/api/mlflow/api/2.0/mlflow/runs/create"
ARTIFACT = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/weights.bin"

SEEN = "/api/mlflow/health/mlflow/self-test/seen"

SILENT = Answer(silence())

#: Sized so that no socket's buffer takes it.
BIG = Answer(send(head(200, ("Content-Length", str(10**9)))), generate(10**9))


def ask(proxy: Proxy, key: str, method: str = "GET", target: str = SEARCH) -> Response:
    return call(proxy.url, method, target, bearer(key))


def take_a_place(proxy: Proxy, key: str, ends: ExitStack) -> Wire:
    """Begins a download that is not read to its end."""
    wire = ends.enter_context(Wire(proxy.url, receive_buffer=4096))
    assert wire.send(request("GET", ARTIFACT, bearer(key))).read_head()[0] == 200
    return wire


# --- caps ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timing
def test_a_key_over_its_cap_is_shed_at_once_and_no_other(
    stage: Stage, fake: Upstream, key: str
) -> None:
    proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url, MAX_IN_FLIGHT_PER_KEY=3)
    fake.answers_by(lambda asked: BIG if b"weights" in asked.target else OK)
    other = stage.key()
    with ExitStack() as ends:
        held = [take_a_place(proxy, key, ends) for _ in range(3)]
        for method, target, status in (
            ("GET", SEARCH, 503),
            ("POST", SEARCH, 503),
            ("POST", CREATE, 429),
            ("PUT", ARTIFACT, 503),
        ):
            began = time.monotonic()
            refused = ask(proxy, key, method, target)
            assert refused.error == (status, "TEMPORARILY_UNAVAILABLE")
            assert refused.one("Retry-After") == "5"
            assert time.monotonic() - began < 1
        assert len(fake.requests) == 3, "what is shed never reaches MLflow"
        assert ask(proxy, other).status == 200
        assert call(proxy.url, "GET", "/health").status == 200
        held[0].vanish()
        eventually(lambda: ask(proxy, key).status == 200, "a place")


def test_a_worker_over_its_cap_sheds_everybodys_and_stays_healthy(
    stage: Stage, fake: Upstream
) -> None:
    proxy = stage.proxy(
        MLFLOW_SERVER_URL=fake.url, MAX_IN_FLIGHT_PER_KEY=2, MAX_IN_FLIGHT=3, HEALTH_CACHE_TTL=0
    )
    fake.answers_by(lambda asked: BIG if b"weights" in asked.target else OK)
    first, second, third = stage.key(), stage.key(), stage.key()
    with ExitStack() as ends:
        for key in (first, first, second):
            take_a_place(proxy, key, ends)
        assert ask(proxy, third).error == (503, "TEMPORARILY_UNAVAILABLE")
        for path in ("/health", "/ready", "/api/health/mlflow", "/metrics"):
            assert call(proxy.url, "GET", path).status == 200, path
    eventually(lambda: ask(proxy, third).status == 200, "a place")


def test_strangers_that_wait_leave_connections_for_health_checks(
    stage: Stage, fake: Upstream
) -> None:
    """They wait for a place to get one of MLflow's static files, from many networks."""
    fake.answers(Answer(silence()))
    proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url, MAX_CONNECTIONS=40, TRUSTED_PROXY_HOPS=1)
    with ExitStack() as ends:
        for number in range(60):
            wire = ends.enter_context(Wire(proxy.url))
            of = f"X-Forwarded-For: 10.0.{number}.1"
            wire.send(request("GET", f"/mlflow/static-files/{number}.js", of))
        wire = ends.enter_context(Wire(proxy.url))
        wire.socket.settimeout(5)  # they wait for 10
        assert wire.ask(request("GET", "/health")).status == 200
    stage.clear()


def test_all_that_wait_together_leave_connections_for_health_checks(
    stage: Stage, fake: Upstream
) -> None:
    """For MLflow, for the auth service, and strangers for a place, all at the same time."""
    fake.answers(Answer(silence()))

    def decide(asked: Received) -> Answer:
        said = b'{"user_id": "ann", "key_id": "%s", "scopes": ["read"]}'
        key = str(asked.one("Authorization"))[-5:]
        return Answer(send(sized(said % key.encode()))) if "good" in key else SILENT

    with Upstream() as auth, ExitStack() as ends:
        auth.answers_by(decide)
        proxy = stage.proxy(
            MLFLOW_SERVER_URL=fake.url,
            HOKUSAI_AUTH_SERVICE_URL=auth.url,
            MAX_CONNECTIONS=80,
            TRUSTED_PROXY_HOPS=1,
            AUTH_TIMEOUT=10,
        )
        for number in range(2):
            assert call(proxy.url, "GET", SEEN, bearer(f"hk_test_good{number}")).status == 200
        for number in range(80):
            of = f"X-Forwarded-For: 10.0.{number}.1"
            for target, fields in (
                (ARTIFACT, [bearer(f"hk_test_good{number % 2}")]),
                (SEARCH, [bearer(f"hk_test_new_{number}"), of]),
                (f"/mlflow/static-files/{number}.js", [of]),
            ):
                wire = ends.enter_context(Wire(proxy.url))
                wire.send(request("GET", target, *fields))
        wire = ends.enter_context(Wire(proxy.url))
        wire.socket.settimeout(5)  # they wait for 10
        assert wire.ask(request("GET", "/health")).status == 200
        stage.clear()


@pytest.mark.slow
def test_of_many_at_once_as_many_go_on_as_there_are_places(
    stage: Stage, fake: Upstream, key: str
) -> None:
    proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url, MAX_IN_FLIGHT_PER_KEY=5)
    ask(proxy, key)
    fake.answers(Answer(pause(1.5), *OK.steps))
    statuses = [answer.status for answer in all_at_once(lambda number: ask(proxy, key), 40)]
    assert sorted(statuses) == [200] * 5 + [503] * 35
    assert len(fake.requests) == 1 + 5


@pytest.mark.timing
@pytest.mark.slow
def test_a_flood_of_slow_streams_of_one_key_is_not_felt_by_others(stage: Stage) -> None:
    row = overload.drill(stage, seconds=2, most_ms=1000)
    print(row.line())
    assert row.facts == kept(
        "other keys are served", "the flooding key gets 503", "the others are quick"
    ), row


# --- places come back ----------------------------------------------------------------------------

JSON = ("Content-Type", "application/json")
CHUNKED = "Transfer-Encoding: chunked"

Ending = Callable[[Proxy, str, Upstream, FaultProxy], object]


def complete(proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy) -> None:
    fake.answers(Answer(send(sized(bytes(1_000_000)))))
    assert call(proxy.url, "GET", ARTIFACT, bearer(key)).whole


def complete_without_a_body(proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy) -> None:
    fake.answers(Answer(send(head(304))))
    assert ask(proxy, key).status == 304
    fake.answers(Answer(send(head(200, ("Content-Length", "1000")))))
    assert ask(proxy, key, "HEAD").status == 200


def mlflows_own_error(proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy) -> None:
    fake.answers(Answer(send(sized(b"{}", 500, JSON))))
    assert ask(proxy, key).status == 500


def client_gone_in_the_download(proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy) -> None:
    fake.answers(BIG)
    with ExitStack() as ends:
        take_a_place(proxy, key, ends).vanish()


def client_gone_between_two_events(
    proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy
) -> None:
    events = send(head(200, ("Transfer-Encoding", "chunked"))), send(chunk(b"data: 1\n\n"))
    fake.answers(Answer(*events, pause(0.2), without_end(chunk(b"data: 2\n\n"))))
    with ExitStack() as ends:
        take_a_place(proxy, key, ends).vanish()


def client_gone_in_the_upload(proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy) -> None:
    with Wire(proxy.url) as wire:
        wire.send(
            request("PUT", ARTIFACT, bearer(key), "Content-Length: 900000", body=bytes(200_000))
        )


def client_gone_in_a_short_body(proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy) -> None:
    with Wire(proxy.url) as wire:
        wire.send(request("POST", SEARCH, bearer(key), "Content-Length: 900", body=b"{")).vanish()


def client_gone_before_the_answer(
    proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy
) -> None:
    fake.answers(Answer(pause(0.2), *OK.steps))
    with Wire(proxy.url) as wire:
        wire.send(request("GET", SEARCH, bearer(key))).vanish()


def client_stalls_in_the_upload(proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy) -> None:
    with Wire(proxy.url) as wire:
        wire.send(request("PUT", ARTIFACT, bearer(key), "Content-Length: 900000", body=b"."))
        assert wire.read().status == 408


def client_stalls_in_the_download(
    proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy
) -> None:
    fake.answers(BIG)
    with ExitStack() as ends:
        take_a_place(proxy, key, ends)
        fake.answers(OK)
        eventually(lambda: ask(proxy, key).status == 200, "the end of the stalled client")


def a_body_that_cannot_be_read(proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy) -> None:
    with Wire(proxy.url) as wire:
        wire.ask(request("POST", SEARCH, bearer(key), CHUNKED, body=b"zz\r\nhello\r\n0\r\n\r\n"))


def a_body_that_is_too_large(proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy) -> None:
    body = chunk(bytes(200_000)) + b"0\r\n\r\n"
    assert call(proxy.url, "POST", SEARCH, bearer(key), CHUNKED, body=body).status == 413


def mlflow_resets(proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy) -> None:
    fake.answers(Answer(reset()))
    assert ask(proxy, key).status == 502


def mlflow_answers_garbage(proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy) -> None:
    fake.answers(Answer(send(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), close()))
    assert ask(proxy, key).status == 502


def mlflow_breaks_off(proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy) -> None:
    fake.answers(Answer(send(sized(bytes(100_000))[:-1]), close()))
    assert not ask(proxy, key).whole


def mlflow_is_too_slow(proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy) -> None:
    fake.answers(Answer(silence()))
    assert ask(proxy, key).status == 504


def mlflow_stops_in_its_body(proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy) -> None:
    fake.answers(Answer(send(sized(bytes(100_000))[:-1]), silence()))
    assert not ask(proxy, key).whole


def mlflow_refuses(proxy: Proxy, key: str, fake: Upstream, faults: FaultProxy) -> None:
    faults.refuse()
    assert ask(proxy, key).status == 502
    faults.heal()


ENDINGS: list[Ending] = [
    complete,
    complete_without_a_body,
    mlflows_own_error,
    client_gone_in_the_download,
    client_gone_between_two_events,
    client_gone_in_the_upload,
    client_gone_in_a_short_body,
    client_gone_before_the_answer,
    client_stalls_in_the_upload,
    client_stalls_in_the_download,
    a_body_that_cannot_be_read,
    a_body_that_is_too_large,
    mlflow_resets,
    mlflow_answers_garbage,
    mlflow_breaks_off,
    mlflow_is_too_slow,
    mlflow_stops_in_its_body,
    mlflow_refuses,
]


@pytest.fixture(scope="module")
def one_place(stage: Stage, _faults: FaultProxy) -> Proxy:
    """A proxy with room for one request."""
    return stage.proxy(
        MLFLOW_SERVER_URL=_faults.url,
        MAX_IN_FLIGHT=1,
        CLIENT_IDLE_TIMEOUT=1,
        MLFLOW_READ_TIMEOUT=1,
        MLFLOW_ARTIFACT_READ_TIMEOUT=1,
        MLFLOW_RETRY_DEADLINE=0.1,
        CIRCUIT_FAIL_MAX=1_000_000,
        MAX_BUFFERED_BODY=100_000,
    )


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
def test_the_place_comes_back_after(
    one_place: Proxy, key: str, fake: Upstream, faults: FaultProxy, ending: Ending
) -> None:
    for _ in range(2):
        ending(one_place, key, fake, faults)
        fake.answers(OK)
        eventually(lambda: ask(one_place, key).status == 200, "the place's return")
    eventually(lambda: in_flight(one_place) == 1, "nothing in flight but the question itself")


def in_flight(proxy: Proxy) -> float:
    lines = call(proxy.url, "GET", "/metrics").body.decode().splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith("hokusai_proxy_in_flight"))
    return float(value)


@pytest.mark.slow
def test_the_place_comes_back_while_the_circuit_is_open(
    stage: Stage, faults: FaultProxy, key: str
) -> None:
    proxy = stage.proxy(
        MLFLOW_SERVER_URL=faults.url,
        MAX_IN_FLIGHT=1,
        MLFLOW_RETRY_DEADLINE=0,
        CIRCUIT_FAIL_MAX=1,
        CIRCUIT_RESET_TIMEOUT=0.3,
    )
    faults.refuse()
    assert ask(proxy, key).status == 502
    outcomes = {ask(proxy, key).json["message"].split(",")[0] for _ in range(5)}
    assert outcomes == {"MLflow does not respond"}
    faults.heal()
    threading.Event().wait(0.3)
    assert [ask(proxy, key).status for _ in range(3)] == [200] * 3
