"""A stop lets transfers finish and says so first; a restart under load loses nothing."""

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest

from devstack.proxy import Proxy
from tests.drills import restarts
from tests.drills.instance_folder import workers
from tests.drills.report import kept
from tests.drills.stage import Stage
from tests.upstreams import (
    OK,
    Answer,
    Received,
    Upstream,
    checksum_of,
    chunk,
    eventually,
    generate,
    head,
    pause,
    send,
    silence,
)
from tests.wire import Wire, bearer, call, request

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
ARTIFACT = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/weights.bin"

#: gunicorn's worker looks once a second whether it has to stop, and whether all are done.
SLACK = 12.0

Start = Callable[..., Proxy]


@pytest.fixture
def start(stage: Stage, fake: Upstream) -> Start:
    return lambda **settings: stage.proxy(MLFLOW_SERVER_URL=fake.url, **settings)


def terminate(proxy: Proxy) -> float:
    """SIGTERM, to the master alone, as an orchestrator sends it; the moment."""
    os.kill(proxy.pid, signal.SIGTERM)
    return time.monotonic()


def wait_for_the_end(proxy: Proxy, since: float, within: float) -> float:
    """Seconds that the stop took."""
    eventually(lambda: not proxy.is_running(), "the end of the proxy", within)
    assert proxy.exit_status() == 0
    return time.monotonic() - since


@pytest.fixture
def idle(stage: Stage) -> Iterator[Callable[[Proxy, int], list[Wire]]]:
    """Connections that had an answer and stay open: `idle(proxy, 100)`."""
    with ExitStack() as ends:

        def idle(proxy: Proxy, number: int) -> list[Wire]:
            wires = [ends.enter_context(Wire(proxy.url)) for _ in range(number)]
            for wire in wires:
                assert wire.ask(request("GET", "/health")).status == 200
            return wires

        yield idle


@pytest.mark.slow
def test_transfers_finish_and_ready_says_no_first(start: Start, fake: Upstream, key: str) -> None:
    drain = 8.0
    proxy = start(DRAIN_DELAY=drain, GRACEFUL_TIMEOUT=20, HEALTH_CACHE_TTL=0)
    size = 30_000_000
    begun = head(200, ("Content-Length", str(size + 1))) + b"."
    slowly = Answer(send(begun), pause(drain + 1.5), generate(size))
    fake.answers_by(lambda asked: slowly if is_download(asked) else OK)
    with Wire(proxy.url) as download, Wire(proxy.url) as upload, Wire(proxy.url) as kept:
        assert download.send(request("GET", ARTIFACT, bearer(key))).read_head()[0] == 200
        assert download.buffer == b"." or download.more()
        download.buffer = b""
        upload.send(request("PUT", ARTIFACT, bearer(key), "Content-Length: 2000000"))
        upload.send(bytes(1_000_000))
        assert kept.ask(request("GET", SEARCH, bearer(key))).one("Connection") == "keep-alive"
        assert call(proxy.url, "GET", "/ready").status == 200
        asked_to_stop = terminate(proxy)

        eventually(lambda: call(proxy.url, "GET", "/ready").status == 503, "the draining")
        assert b"draining" in call(proxy.url, "GET", "/ready").body
        assert call(proxy.url, "GET", "/health").status == 200
        assert call(proxy.url, "POST", SEARCH, bearer(key), body=b"{}").status == 200
        assert time.monotonic() - asked_to_stop < drain, "all that in the drain delay"
        last = kept.ask(request("GET", SEARCH, bearer(key)))
        assert (last.status, last.one("Connection")) == (200, "close")

        time.sleep(max(0, asked_to_stop + drain + 0.5 - time.monotonic()))
        upload.send(bytes(1_000_000))
        assert upload.read().status == 200
        received = read_rest(download, size)
    assert received == checksum_of(size)
    assert [asked.length for asked in fake.requests if asked.method == b"PUT"] == [2_000_000]
    took = wait_for_the_end(proxy, asked_to_stop, 30)
    assert drain + 0.5 < took < drain + 1.5 + SLACK
    assert not any("graceful timeout" in line["message"] for line in proxy.log_lines())


def is_download(asked: Received) -> bool:
    return asked.method == b"GET" and b"weights" in asked.target


def read_rest(wire: Wire, size: int) -> str:
    """The checksum of a body of `size` bytes whose head was read."""
    checksum = hashlib.sha256()
    while size:
        assert wire.buffer or wire.more(), f"{size} bytes are missing"
        checksum.update(wire.buffer)
        size -= len(wire.buffer)
        wire.buffer = b""
    return checksum.hexdigest()


BEGUN = {
    "sized": head(200, ("Content-Length", "1000000")) + bytes(9),
    "chunked": head(200, ("Transfer-Encoding", "chunked")) + chunk(bytes(9)),
}


@pytest.mark.slow
@pytest.mark.parametrize("drain", [0, 1], ids=["no drain delay", "a drain delay"])
def test_what_does_not_end_is_broken_off_visibly_after_the_graceful_time(
    start: Start, fake: Upstream, key: str, drain: int
) -> None:
    """A chunked body goes to HTTP/1.0 without any framing: only a reset tells that it broke."""
    proxy = start(GRACEFUL_TIMEOUT=2, DRAIN_DELAY=drain)
    fake.answers_by(
        lambda asked: Answer(send(BEGUN[asked.target.decode()[-7:].strip("-")]), silence())
    )
    with ExitStack() as ends:
        wires = {}
        for framing, version in product(BEGUN, ("1.0", "1.1")):
            wire = wires[framing, version] = ends.enter_context(Wire(proxy.url))
            target = f"{ARTIFACT}?{framing:->7}"
            wire.send(request("GET", target, bearer(key), version=version))
            assert wire.read_head()[0] == 200
        asked_to_stop = terminate(proxy)
        how = {client: wire.end() for client, wire in wires.items()}
    assert how["chunked", "1.0"] == "rst", "a plain end would be taken for the end of the body"
    assert not any(b"0\r\n\r\n" in wire.buffer for wire in wires.values())
    assert 2 <= wait_for_the_end(proxy, asked_to_stop, 20) < 2 + SLACK


@pytest.mark.slow
def test_idle_connections_do_not_hold_a_stop_up(
    start: Start, idle: Callable[[Proxy, int], list[Wire]]
) -> None:
    proxy = start(GRACEFUL_TIMEOUT=60)
    wires = idle(proxy, 100)
    unfinished = Wire(proxy.url).send(b"G")
    time.sleep(1)
    took = wait_for_the_end(proxy, terminate(proxy), 30)
    assert took < SLACK
    assert [wire.end() for wire in (*wires, unfinished)] == ["fin"] * 101
    unfinished.socket.close()
    assert not [line for line in proxy.log_lines() if line["level"] == "ERROR"]


@pytest.mark.slow
def test_a_stop_reaches_a_worker_that_has_just_been_forked(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path, {"REDIS_URL": "memory://", "GRACEFUL_TIMEOUT": "40"})
    proxy.start()
    children = Path(f"/proc/{proxy.pid}/task/{proxy.pid}/children")
    while not children.read_text():  # without a pause: its own handlers come soon
        assert proxy.is_running()
    wait_for_the_end(proxy, terminate(proxy), 20)


@pytest.mark.slow
def test_a_transfer_keeps_the_master_from_nothing_after_a_reload(
    start: Start, fake: Upstream, key: str
) -> None:
    proxy = start(GRACEFUL_TIMEOUT=60, DRAIN_DELAY=10)
    fake.answers(Answer(send(BEGUN["sized"]), silence()))
    with Wire(proxy.url) as wire:
        assert wire.send(request("GET", ARTIFACT, bearer(key))).read_head()[0] == 200
        (old,) = wait_for(proxy, 1)
        os.kill(proxy.pid, signal.SIGHUP)
        (dead,) = wait_for(proxy, 2) - {old}
        os.kill(dead, signal.SIGKILL)
        eventually(lambda: dead not in workers(proxy), "the end of the new worker")
        wait_for(proxy, 2)
        terminate(proxy)
        eventually(lambda: call(proxy.url, "GET", "/ready").status == 503, "the draining")
        assert old in workers(proxy), "the transfer goes on"
    assert not [line for line in proxy.log_lines() if "was paused" in line["message"]]


def wait_for(proxy: Proxy, number: int) -> set[int]:
    """Its workers, once they are so many."""
    eventually(lambda: len(workers(proxy)) == number, f"{number} workers")
    return {*workers(proxy)}


@pytest.mark.slow
def test_a_rolling_restart_loses_no_request(stage: Stage) -> None:
    row = restarts.rolling_restart(stage, rounds=1)
    print(row.line())
    assert row.facts == kept("no request is lost"), row
    assert row.numbers["requests"] > 100


@pytest.mark.slow
def test_a_reload_loses_no_request(stage: Stage) -> None:
    """Without any drain delay, and with a client at each moment of its request."""
    row = restarts.reload(stage, rounds=2, clients=24)
    print(row.line())
    assert row.facts == kept("no request is lost"), row
    assert row.numbers["requests"] > 100
