"""MLflow's circuit, from outside: what opens it, what an open one costs, and how it closes."""

import threading
import time
from collections.abc import Callable
from statistics import median

import pytest

from devstack.proxy import Proxy
from tests.drills.load import all_at_once, timed
from tests.drills.stage import Quiet, Stage
from tests.fault_proxy import FaultProxy
from tests.upstreams import (
    OK,
    Answer,
    Received,
    Upstream,
    close,
    eventually,
    generate,
    head,
    pause,
    reset,
    send,
    silence,
    sized,
    until,
)
from tests.wire import Response, Wire, bearer, call, request

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
RUNS = "/api/mlflow/api/2.0/mlflow/runs"
CREATE = f"{RUNS}/create"
ARTIFACT = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/weights.bin"

FAIL_MAX, RESET_SECONDS = 5, 0.5

Start = Callable[..., Proxy]


@pytest.fixture
def start(stage: Stage, faults: FaultProxy) -> Start:
    """A proxy in front of the fake, with a circuit that opens and probes soon."""

    def start(**settings: object) -> Proxy:
        quick = {
            "MLFLOW_SERVER_URL": faults.url,
            "MLFLOW_READ_TIMEOUT": 1,
            "MLFLOW_ARTIFACT_READ_TIMEOUT": 1,
            "HEALTH_TIMEOUT": 0.4,
            "MLFLOW_RETRY_DEADLINE": 0.2,
            "CIRCUIT_FAIL_MAX": FAIL_MAX,
            "CIRCUIT_RESET_TIMEOUT": RESET_SECONDS,
        }
        return stage.proxy(**quick | settings)

    return start


def ask(proxy: Proxy, key: str, method: str = "GET", target: str = SEARCH) -> Response:
    return call(proxy.url, method, target, bearer(key))


def changes(proxy: Proxy) -> list[str]:
    """What the log says of MLflow's circuit, in order."""
    said = [line["message"] for line in proxy.log_lines() if line["logger"] == "hokusai.circuit"]
    return [line.removeprefix("circuit to mlflow is now ") for line in said if "mlflow" in line]


def is_open(proxy: Proxy) -> bool:
    return changes(proxy)[-1:] == ["open"]


@pytest.mark.slow
def test_failed_connects_in_a_row_open_it_and_one_answer_to_the_probe_closes_it(
    start: Start, faults: FaultProxy, fake: Upstream, key: str
) -> None:
    proxy = start()
    assert ask(proxy, key).status == 200
    faults.refuse()
    assert [ask(proxy, key).status for _ in range(FAIL_MAX + 3)] == [502] * FAIL_MAX + [503] * 3
    assert ask(proxy, key, "POST", CREATE).error == (429, "TEMPORARILY_UNAVAILABLE")
    assert changes(proxy) == ["open"]

    time.sleep(RESET_SECONDS)
    assert ask(proxy, key).status == 503, "the probe is the proxy's own"
    faults.heal()
    fake.forget()
    healed = time.monotonic()
    eventually(lambda: ask(proxy, key).status == 200, "a good probe")
    assert time.monotonic() - healed < RESET_SECONDS + 8
    assert [ask(proxy, key).status for _ in range(20)] == [200] * 20
    assert changes(proxy)[-2:] == ["half-open", "closed"]


@pytest.mark.slow
def test_a_frozen_mlflow_opens_it_long_before_a_request_times_out(
    start: Start, faults: FaultProxy, key: str
) -> None:
    """After 3 s in which nobody is answered, and five HEALTH_TIMEOUTs for two questions."""
    proxy = start(MLFLOW_READ_TIMEOUT=60, MLFLOW_ARTIFACT_READ_TIMEOUT=60)
    assert ask(proxy, key).status == 200
    faults.stall()
    with Wire(proxy.url) as wire:
        began = time.monotonic()
        wire.send(request("GET", SEARCH, bearer(key)))
        eventually(lambda: is_open(proxy), "the opening")
        assert time.monotonic() - began < 15
        assert ask(proxy, key).status == 503
    faults.heal()
    eventually(lambda: ask(proxy, key).status == 200, "the end of it")


def test_it_says_each_change_once_however_many_requests_there_are(
    start: Start, faults: FaultProxy, key: str
) -> None:
    proxy = start(CIRCUIT_RESET_TIMEOUT=60)
    faults.stall()
    statuses = [answer.status for answer in all_at_once(lambda number: ask(proxy, key), 60)]
    assert set(statuses) <= {504, 503}
    eventually(lambda: is_open(proxy), "the opening")
    assert {answer.status for answer in all_at_once(lambda number: ask(proxy, key), 60)} == {503}
    assert changes(proxy) == ["open"]


# --- slow, not dead ------------------------------------------------------------------------------

SLOW_CALLS = {"a search": ("POST", f"{RUNS}/search"), "an artifact": ("GET", ARTIFACT)}


def slow_but(asked: Received) -> Answer:
    """MLflow at work on everything but /health and experiments."""
    quick = b"/health" in asked.target or b"experiments" in asked.target
    return OK if quick else Answer(silence())


@pytest.mark.parametrize("call", SLOW_CALLS)
def test_one_callers_slow_calls_close_mlflow_for_nobody(
    start: Start, fake: Upstream, key: str, call: str
) -> None:
    proxy = start(
        MLFLOW_ARTIFACT_READ_TIMEOUT=0.3, MLFLOW_ARTIFACT_COPY_TIMEOUT=0.4, CIRCUIT_FAIL_MAX=1
    )
    fake.answers_by(slow_but)
    for _ in range(FAIL_MAX):
        assert ask(proxy, key, *SLOW_CALLS[call]).status == 504
    fake.wait_for(lambda: any(asked.target == b"/health" for asked in fake.requests))
    assert ask(proxy, key).status == 200
    assert changes(proxy) == []


@pytest.mark.slow
def test_an_mlflow_too_busy_to_answer_health_at_once_is_not_closed(
    start: Start, fake: Upstream, key: str
) -> None:
    """Many large searches at once keep its event loop from its turn for longer than
    HEALTH_TIMEOUT."""
    proxy = start(HEALTH_TIMEOUT=0.5)
    busy = Answer(pause(1.0), *OK.steps)
    fake.answers_by(lambda asked: busy if asked.target == b"/health" else slow_but(asked))
    for _ in range(FAIL_MAX):
        assert ask(proxy, key, *SLOW_CALLS["a search"]).status == 504
    time.sleep(2)
    assert ask(proxy, key).status == 200
    assert changes(proxy) == []


@pytest.mark.slow
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_the_first_request_to_an_open_circuit_may_be_a_slow_one(
    start: Start, faults: FaultProxy, fake: Upstream, key: str, method: str
) -> None:
    """It would have opened the circuit again, or been a write to nobody knows whom."""
    proxy = start(MLFLOW_ARTIFACT_COPY_TIMEOUT=0.4)
    faults.refuse()
    assert [ask(proxy, key).status for _ in range(FAIL_MAX)] == [502] * FAIL_MAX
    fake.answers_by(slow_but)
    faults.heal()
    time.sleep(RESET_SECONDS)
    assert ask(proxy, key, method, ARTIFACT).status == 504
    assert ask(proxy, key).status == 200
    assert changes(proxy) == ["open", "half-open", "closed"]


# --- open ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_open_circuit_answers_at_once(
    start: Start, faults: FaultProxy, key: str, alone: Quiet
) -> None:
    proxy = start(CIRCUIT_RESET_TIMEOUT=60)

    def answered() -> float:
        with Wire(proxy.url) as wire:
            asked = request("GET", SEARCH, bearer(key))
            return median(timed(lambda: wire.ask(asked).status).seconds for _ in range(200))

    with alone():
        closed = answered()
        faults.refuse()
        assert [ask(proxy, key).status for _ in range(FAIL_MAX)] == [502] * FAIL_MAX
        opened = answered()
    print(f"p50 closed {closed * 1000:.2f} ms, open {opened * 1000:.2f} ms")
    assert ask(proxy, key).status == 503
    assert opened < closed * 1.5


@pytest.mark.slow
@pytest.mark.parametrize("asking", [2, 40])
def test_one_of_many_requests_probes(
    start: Start, faults: FaultProxy, fake: Upstream, key: str, asking: int
) -> None:
    proxy = start(HEALTH_TIMEOUT=10)
    faults.refuse()
    assert [ask(proxy, key).status for _ in range(FAIL_MAX)] == [502] * FAIL_MAX
    go_on = threading.Event()
    probe = Answer(until(go_on), *OK.steps)
    fake.answers_by(lambda asked: probe if asked.target == b"/health" else OK)
    faults.heal()
    time.sleep(RESET_SECONDS)
    done: list[int] = []

    def probe_or_not(number: int) -> None:
        done.append(ask(proxy, key).status)
        if len(done) == asking - 1:
            go_on.set()

    all_at_once(probe_or_not, asking)
    assert done == [503] * (asking - 1) + [200]
    assert [asked.target for asked in fake.requests].count(b"/health") == 1
    assert len(fake.requests) == 2


# --- what does not open it -----------------------------------------------------------------------

ERRORS = {
    "its own 4xx": Answer(send(sized(b"{}", 404))),
    "its own 429": Answer(send(sized(b"{}", 429))),
    "its own 500": Answer(send(sized(b"{}", 500))),
    "its own 503": Answer(send(sized(b"{}", 503, ("Content-Type", "application/json")))),
    "a reset before the answer": Answer(reset()),
    "an end before the answer": Answer(close()),
    "garbage": Answer(send(b"\x00\x01garbage\r\n\r\n"), close()),
    "a body that breaks off": Answer(send(sized(bytes(100))[:-1]), close()),
}


def test_what_mlflow_answers_does_not_open_it(start: Start, fake: Upstream, key: str) -> None:
    proxy = start(CIRCUIT_FAIL_MAX=1)
    for name, answer in ERRORS.items():
        fake.answers(answer)
        for method in ("GET", "POST"):
            assert ask(proxy, key, method).status != 0, name
    fake.answers(OK)
    assert ask(proxy, key).status == 200
    assert changes(proxy) == []


def leave_at_once(wire: Wire, key: str) -> None:
    wire.send(request("GET", SEARCH, bearer(key)))


def leave_in_the_upload(wire: Wire, key: str) -> None:
    fields = (bearer(key), "Content-Length: 10000000")
    wire.send(request("PUT", ARTIFACT, *fields, body=bytes(500_000)))


def leave_in_the_download(wire: Wire, key: str) -> None:
    wire.send(request("GET", ARTIFACT, bearer(key)))
    assert wire.read_head()[0] == 200


def stall_in_the_upload(wire: Wire, key: str) -> None:
    leave_in_the_upload(wire, key)
    assert wire.read().status == 408


@pytest.mark.parametrize(
    "leave",
    [
        leave_at_once,
        leave_in_the_upload,
        leave_in_the_download,
        pytest.param(stall_in_the_upload, marks=pytest.mark.slow),
    ],
)
def test_what_clients_do_does_not_open_it(
    start: Start, fake: Upstream, key: str, leave: Callable[[Wire, str], None]
) -> None:
    proxy = start(
        CIRCUIT_FAIL_MAX=1,
        CLIENT_IDLE_TIMEOUT=1,
        MLFLOW_READ_TIMEOUT=5,
        MLFLOW_ARTIFACT_READ_TIMEOUT=5,
    )
    big = Answer(send(head(200, ("Content-Length", str(10**9)))), generate(10**9))
    fake.answers_by(lambda asked: big if b"weights" in asked.target else OK)
    for _ in range(3):
        with Wire(proxy.url) as wire:
            leave(wire, key)
            wire.vanish()
    eventually(lambda: ask(proxy, key).status == 200, "an answer")
    assert changes(proxy) == []


@pytest.mark.slow
def test_failures_with_a_success_between_do_not_open_it(
    start: Start, faults: FaultProxy, key: str
) -> None:
    proxy = start(CIRCUIT_FAIL_MAX=2)
    for _ in range(3):
        faults.refuse()
        assert ask(proxy, key).status == 502
        faults.heal()
        assert ask(proxy, key).status == 200
    assert changes(proxy) == []


# --- several workers -----------------------------------------------------------------------------


@pytest.mark.slow
def test_each_worker_finds_out_by_itself(start: Start, faults: FaultProxy, key: str) -> None:
    proxy = start(WEB_CONCURRENCY=2, CIRCUIT_RESET_TIMEOUT=60)
    faults.refuse()
    statuses: list[int] = []

    def both_are_open() -> bool:
        """Sometimes one worker takes all connections for a while."""
        statuses.extend(answer.status for answer in all_at_once(lambda _: ask(proxy, key), 10))
        return changes(proxy) == ["open", "open"]

    eventually(both_are_open, "one line of each worker")
    assert 2 * FAIL_MAX <= statuses.count(502) <= 2 * FAIL_MAX + 20
    assert [a.status for a in all_at_once(lambda _: ask(proxy, key), 30)] == [503] * 30
