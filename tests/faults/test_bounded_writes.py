"""While concurrent writes are bounded: who waits for a turn, who loses it, and for whose sake."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from devstack.proxy import Proxy
from tests.drills.stage import Stage
from tests.upstreams import OK, Answer, Received, Upstream, eventually, head, send, silence, until
from tests.wire import Response, Wire, bearer, call, request

API = "/api/mlflow/api/2.0/mlflow"
FULL = json.dumps({"error_code": "BAD_REQUEST", "message": "QueuePool limit of size 5 overflow 10"})
FULL_POOL = Answer(send(head(400, ("Content-Length", str(len(FULL)))) + FULL.encode()))

#: Of one key, in an instance with one worker.
A_KEYS_TURNS = 6


@dataclass
class Mlflow:
    """Runs a fake MLflow that is at work on each write until told otherwise."""

    fake: Upstream
    done: threading.Event = field(default_factory=threading.Event)
    is_silent: bool = False

    def answer(self, asked: Received) -> Answer:
        """What it does with a request."""
        if self.is_silent:
            return Answer(silence())
        return Answer(until(self.done), *OK.steps) if b"held" in asked.target else OK

    def count(self, word: bytes) -> int:
        """How many requests came with this word in their target."""
        return sum(word in asked.target for asked in self.fake.requests)


@pytest.fixture
def mlflow(fake: Upstream) -> Iterator[Mlflow]:
    made = Mlflow(fake)
    yield made
    made.done.set()


@pytest.fixture
def clients() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as pool:
        yield pool


def bounded(stage: Stage, mlflow: Mlflow, **settings: object) -> Proxy:
    """A proxy that has seen MLflow's pool full."""
    proxy = stage.proxy(MLFLOW_SERVER_URL=mlflow.fake.url, **settings)
    mlflow.fake.answers(FULL_POOL)
    assert write(proxy, stage.key()).status == 503
    mlflow.fake.answers_by(mlflow.answer)
    return proxy


def write(proxy: Proxy, key: str, word: str = "quick") -> Response:
    return call(proxy.url, "POST", f"{API}/runs/log-batch?{word}", bearer(key), body=b"{}")


def waits(
    clients: ThreadPoolExecutor, proxy: Proxy, mlflow: Mlflow, key: str, more: int
) -> list[Future[Response]]:
    """Takes all turns of a key, and leaves so many more writes of it waiting."""
    for _ in range(A_KEYS_TURNS):
        clients.submit(write, proxy, key, "held")
    eventually(lambda: mlflow.count(b"held") == A_KEYS_TURNS, "the writes at MLflow")
    waiting = [clients.submit(write, proxy, key, "waits") for _ in range(more)]
    eventually(lambda: waiting_writes(proxy) == more, "the writes that wait")
    return waiting


def waiting_writes(proxy: Proxy) -> int:
    text = call(proxy.url, "GET", "/metrics").body.decode()
    found = [line for line in text.splitlines() if line.startswith("hokusai_proxy_writes_waiting")]
    return int(sum(float(line.rpartition(" ")[2]) for line in found))


@pytest.mark.slow
def test_an_open_circuit_refuses_writes_that_wait_and_forgets_those_that_hang(
    stage: Stage, mlflow: Mlflow, clients: ThreadPoolExecutor
) -> None:
    proxy = bounded(stage, mlflow, HEALTH_TIMEOUT=0.3, CIRCUIT_RESET_TIMEOUT=1)
    key = stage.key()
    waiting = waits(clients, proxy, mlflow, key, more=4)
    mlflow.is_silent = True
    began = time.monotonic()
    assert [write.result().status for write in waiting] == [503] * 4
    assert "does not respond" in waiting[0].result().json["message"]
    assert time.monotonic() - began < 10
    began = time.monotonic()
    assert write(proxy, key).status == 503
    assert time.monotonic() - began < 2
    mlflow.is_silent = False
    time.sleep(1.1)
    assert write(proxy, key).status == 200, "MLflow is back, those that it forgot still hang"
    mlflow.done.set()


@pytest.mark.slow
def test_searches_that_fill_the_pool_take_no_turn_from_writes(
    stage: Stage, mlflow: Mlflow, clients: ThreadPoolExecutor
) -> None:
    proxy = bounded(stage, mlflow)
    mlflow.fake.answers(FULL_POOL)
    key = stage.key()
    for _ in range(2):
        search = f"{API}/runs/search"
        assert call(proxy.url, "POST", search, bearer(key), body=b"{}").status == 503
    mlflow.fake.answers_by(mlflow.answer)
    waiting = waits(clients, proxy, mlflow, key, more=1)
    mlflow.done.set()
    assert waiting[0].result().status == 200


@pytest.mark.slow
def test_a_read_whose_client_left_meanwhile_is_not_sent_again(stage: Stage, mlflow: Mlflow) -> None:
    proxy, key = stage.proxy(MLFLOW_SERVER_URL=mlflow.fake.url), stage.key()
    mlflow.fake.answers(Answer(until(mlflow.done), *FULL_POOL.steps))
    with Wire(proxy.url) as wire:
        wire.send(request("GET", f"{API}/experiments/search?left", bearer(key)))
        eventually(lambda: mlflow.count(b"left") == 1, "the read at MLflow")
    mlflow.done.set()
    eventually(lambda: "upstream_overloaded" in proxy.log.read_text(), "its line in the log")
    assert mlflow.count(b"left") == 1


@pytest.mark.slow
def test_slow_bodies_take_nobodys_turn(stage: Stage, mlflow: Mlflow) -> None:
    proxy = bounded(stage, mlflow)
    sent = request(
        "POST", f"{API}/runs/log-batch?slow", bearer(key := stage.key()), body=b"x" * 10**5
    )
    slow = [Wire(proxy.url) for _ in range(2 * A_KEYS_TURNS)]
    for n, wire in enumerate(slow):
        other = stage.key() if n == A_KEYS_TURNS else key
        sent = sent.replace(key.encode(), other.encode())
        key = other
        wire.send(sent[:-1])
    eventually(lambda: mlflow.count(b"slow") == len(slow), "the bodies on their way")
    began = time.monotonic()
    assert write(proxy, stage.key()).status == 200
    assert time.monotonic() - began < 3
    for wire in slow:
        assert wire.send(sent[-1:]).read("POST").status == 200
        wire.socket.close()
    assert {asked.length for asked in mlflow.fake.requests if b"slow" in asked.target} == {10**5}


@pytest.mark.slow
def test_a_long_body_waits_for_its_turn_and_is_broken_off_where_none_comes(
    stage: Stage, mlflow: Mlflow, clients: ThreadPoolExecutor
) -> None:
    proxy, key = bounded(stage, mlflow), stage.key()
    waits(clients, proxy, mlflow, key, more=0)
    body = b"x" * 10**5
    target = f"{API}/runs/log-batch?long"
    long = clients.submit(call, proxy.url, "POST", target, bearer(key), body=body)
    eventually(lambda: mlflow.count(b"long") == 1, "the body on its way")
    time.sleep(1)
    assert not long.done()
    (asked,) = (asked for asked in mlflow.fake.requests if b"long" in asked.target)
    assert asked.length < len(body), "its last piece waits"
    mlflow.done.set()
    assert long.result().status == 200
    assert asked.length == len(body)


@pytest.mark.slow
def test_a_write_whose_client_left_while_it_waited_is_not_sent(
    stage: Stage, mlflow: Mlflow, clients: ThreadPoolExecutor
) -> None:
    proxy, key = bounded(stage, mlflow), stage.key()
    waits(clients, proxy, mlflow, key, more=0)
    target = f"{API}/runs/log-batch?left"
    with Wire(proxy.url) as wire:
        wire.send(request("POST", target, bearer(key), body=b"{}"))
        eventually(lambda: waiting_writes(proxy) == 1, "its wait")
    stays = clients.submit(write, proxy, key, "stays")
    eventually(lambda: waiting_writes(proxy) == 2, "another one behind it")
    mlflow.done.set()
    assert stays.result().status == 200
    assert mlflow.count(b"left") == 0
    eventually(
        lambda: "client_gone" in [line.get("outcome") for line in proxy.log_lines()],
        "its line in the log",
    )


@pytest.mark.slow
def test_an_exporter_of_traces_is_told_before_it_gives_up(
    stage: Stage, mlflow: Mlflow, clients: ThreadPoolExecutor
) -> None:
    """Exporters give up after 10 s in all. MLflow's own client does not, and loses what it gives
    up."""
    proxy, key = bounded(stage, mlflow), stage.key()
    waits(clients, proxy, mlflow, key, more=0)
    began = time.monotonic()

    def export(agent: str) -> Response:
        fields = (bearer(key), "Content-Type: application/x-protobuf", f"User-Agent: {agent}")
        return call(proxy.url, "POST", "/api/mlflow/v1/traces", *fields, body=b"")

    stays = clients.submit(export, "mlflow-python-client/3.17.2")
    told = export("OTel-OTLP-Exporter-Python/1.45.0")
    assert (told.status, told.one("Retry-After")) == (503, "2")
    assert time.monotonic() - began < 9
    assert not stays.done()
    mlflow.done.set()
    assert stays.result().status == 200
