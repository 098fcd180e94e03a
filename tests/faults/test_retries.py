"""What can do no harm is tried again, within a deadline and a budget; what went out is not."""

import threading
import time
from collections.abc import Callable

import pytest

from devstack.proxy import Proxy
from tests.drills.load import all_at_once, in_parallel
from tests.drills.stage import Stage
from tests.fault_proxy import CLIENT, FaultProxy
from tests.upstreams import (
    OK,
    Answer,
    Exchange,
    Received,
    Step,
    Upstream,
    close,
    reset,
    send,
    sized,
)
from tests.wire import Response, bearer, call

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
ARTIFACT = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/weights.bin"

#: app/upstream/retries.py: retries that are granted out of the blue, and per request.
BUDGET, PER_REQUEST = 10, 0.1


@pytest.fixture(scope="module")
def _proxy(stage: Stage, _faults: FaultProxy) -> Proxy:
    return stage.proxy(
        MLFLOW_SERVER_URL=_faults.url, CIRCUIT_FAIL_MAX=1_000_000, MAX_IN_FLIGHT_PER_KEY=1000
    )


@pytest.fixture
def proxy(_proxy: Proxy, faults: FaultProxy, fake: Upstream, key: str) -> Proxy:
    """A proxy whose way to the fake MLflow can be broken. Its circuit does not open, and its budget
    is full again."""
    for _ in range(round(BUDGET / PER_REQUEST)):
        assert call(_proxy.url, "GET", SEARCH, bearer(key)).status == 200
    fake.forget()
    return _proxy


@pytest.fixture
def ask(proxy: Proxy, key: str) -> Callable[..., Response]:
    """One request through that proxy."""

    def ask(method: str = "GET", body: bytes = b"", target: str = SEARCH) -> Response:
        return call(proxy.url, method, target, bearer(key), body=body)

    return ask


# --- failed connects -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "size", "target", "seconds"),
    [
        ("POST", 2, SEARCH, 0.3),
        ("POST", 64 * 1024, SEARCH, 1.0),
        ("DELETE", 0, SEARCH, 0.3),
        ("GET", 0, SEARCH, 1.0),
        ("PUT", 3_000_000, ARTIFACT, 0.3),
    ],
    ids=["a small POST", "a POST of 64 KiB", "a DELETE", "a GET", "an upload, none of it sent"],
)
def test_a_request_outlasts_a_restart_of_mlflow_and_arrives_once(
    ask: Callable[..., Response],
    faults: FaultProxy,
    fake: Upstream,
    method: str,
    size: int,
    target: str,
    seconds: float,
) -> None:
    faults.refuse()
    healing = threading.Timer(seconds, faults.heal)
    healing.start()
    began = time.monotonic()
    answer = ask(method, bytes(size), target)
    healing.join()
    assert answer.status == 200, answer
    assert time.monotonic() - began >= seconds
    assert [(asked.method, asked.length) for asked in fake.requests] == [(method.encode(), size)]


def test_the_deadline_ends_the_wait(stage: Stage, faults: FaultProxy, key: str) -> None:
    proxy = stage.proxy(MLFLOW_SERVER_URL=faults.url, MLFLOW_RETRY_DEADLINE=0.5)
    faults.refuse()
    began = time.monotonic()
    answer = call(proxy.url, "POST", SEARCH, bearer(key), body=b"{}")
    assert answer.error == (502, "TEMPORARILY_UNAVAILABLE")
    assert "Nothing was sent" in answer.json["message"]
    assert time.monotonic() - began < 2.5


def test_without_a_deadline_nothing_is_tried_again(
    stage: Stage, faults: FaultProxy, fake: Upstream, key: str
) -> None:
    proxy = stage.proxy(MLFLOW_SERVER_URL=faults.url, MLFLOW_RETRY_DEADLINE=0)
    fake.answers(Answer(reset()))
    assert call(proxy.url, "GET", SEARCH, bearer(key)).status == 502
    assert len(fake.requests) == 1


# --- after the bytes went out --------------------------------------------------------------------

PAGE = Answer(send(sized(b"<html>", 503, ("Content-Type", "text/html"))))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "fault",
    [Answer(reset()), Answer(close()), PAGE],
    ids=["a reset", "an end", "the page of an intermediary"],
)
def test_a_read_goes_again(
    ask: Callable[..., Response], fake: Upstream, fault: Answer, method: str
) -> None:
    fake.answers(fault, OK)
    assert ask(method).status == 200
    assert len(fake.requests) == 2


@pytest.mark.parametrize("cut", [0, 1, 300], ids=lambda bytes: f"after {bytes} of its bytes")
def test_a_post_whose_bytes_went_out_is_not_repeated(
    ask: Callable[..., Response], faults: FaultProxy, fake: Upstream, cut: int
) -> None:
    """Cut in the middle of the request: how much of it arrived nobody can know."""
    assert ask().status == 200
    faults.cut(after=cut, of=CLIENT)
    assert ask("POST", bytes(1000)).status == 502
    faults.heal()
    assert ask("POST", b"{}").status == 200
    whole = [asked for asked in fake.requests if asked.end == "whole"]
    assert [(asked.method, asked.length) for asked in whole] == [(b"GET", 0), (b"POST", 2)]


@pytest.mark.slow
def test_no_post_of_many_arrives_twice(proxy: Proxy, fake: Upstream, key: str) -> None:
    """On connections of all kinds: fresh, pooled, and such as end under the next request."""

    def by_number(asked: Received) -> Answer:
        return (OK, Answer(reset()), Answer(close()), Answer(*OK.steps, close()))[
            number_of(asked) % 4
        ]

    def post(number: int) -> int:
        return call(proxy.url, "POST", f"{SEARCH}?n={number}", bearer(key), body=b"{}").status

    fake.answers_by(by_number)
    statuses = in_parallel(post, 400, 8)
    arrived = [number_of(asked) for asked in fake.requests]
    assert len(set(arrived)) == len(arrived)
    assert {statuses[number] for number in arrived if number % 4 in (1, 2)} == {502}
    assert {number for number, status in enumerate(statuses) if status == 200} <= set(arrived)
    assert statuses.count(200) > 100, "a connection that ends may take one that could have gone"


def number_of(asked: Received) -> int:
    return int(asked.target.partition(b"?n=")[2])


# --- the budget ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_outage_does_not_multiply_the_traffic(proxy: Proxy, fake: Upstream, key: str) -> None:
    fake.answers(Answer(reset()))
    requests = 1000
    statuses = in_parallel(
        lambda n: call(proxy.url, "GET", SEARCH, bearer(key)).status, requests, 8
    )
    assert set(statuses) == {502}
    assert requests < fake.connections <= requests * (1 + PER_REQUEST) + BUDGET


@pytest.mark.slow
@pytest.mark.timing
def test_requests_that_may_not_wait_any_more_are_answered_at_once(
    ask: Callable[..., Response], faults: FaultProxy
) -> None:
    """The first ones of an outage wait for MLflow, and use up the budget; the others do not."""
    faults.refuse()
    all_at_once(lambda number: ask("POST"), BUDGET * 2)
    began = time.monotonic()
    assert [ask("POST").status for _ in range(5)] == [502] * 5
    assert time.monotonic() - began < 1


# --- dead pooled connections ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.parametrize("pooled", [1, 16])
@pytest.mark.parametrize("end", [close(), reset()], ids=["closed", "reset"])
def test_dead_pooled_connections_cost_a_read_nothing(
    ask: Callable[..., Response], fake: Upstream, end: Step, pooled: int
) -> None:
    """They look alive until they are used: a firewall that forgot them, a server that closes."""
    met: set[int] = set()

    def only_once(asked: Received) -> Answer:
        if asked.connection in met:
            return Answer(end)
        met.add(asked.connection)
        return Answer(meet, *OK.steps)

    def meet(exchange: Exchange) -> None:
        everybody.wait(20)

    everybody = threading.Barrier(pooled)
    fake.answers_by(only_once)
    assert {answer.status for answer in all_at_once(lambda number: ask(), pooled)} == {200}
    everybody = threading.Barrier(1)
    for _ in range(3):
        began = time.monotonic()
        assert ask().status == 200
        assert time.monotonic() - began < 0.5


def test_a_restart_of_mlflow_is_not_seen_by_reads_on_pooled_connections(
    ask: Callable[..., Response], faults: FaultProxy, fake: Upstream
) -> None:
    all_at_once(lambda number: ask(), 16)
    for _ in range(5):
        faults.reset()
        assert {answer.status for answer in all_at_once(lambda number: ask(), 8)} == {200}
