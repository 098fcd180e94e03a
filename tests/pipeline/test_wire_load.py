"""Many at once, and very much at once: through one worker, in bounded memory."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from devstack.proxy import Proxy
from tests.upstreams import (
    OK,
    Answer,
    Upstream,
    checksum_of,
    chunk,
    generate,
    head,
    pause,
    pieces_of,
    send,
    sized,
)
from tests.wire import Wire, bearer, call, request

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
ARTIFACT = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/model/weights.bin"

MIB = 1024 * 1024
GIB = 1024 * MIB

#: By how much all workers together may grow during a transfer of any size, in bytes.
GROWTH = 64 * MIB


@pytest.mark.timing
def test_slow_calls_at_once_do_not_queue(front: Proxy, upstream: Upstream, key: str) -> None:
    """One after the other they would take 8 s. The only test here that looks at the clock."""
    upstream.answers(Answer(pause(0.5), *OK.steps))
    began = time.monotonic()
    with ThreadPoolExecutor(16) as clients:
        asking = [clients.submit(call, front.url, "GET", SEARCH, bearer(key)) for _ in range(16)]
        assert [each.result().status for each in asking] == [200] * 16
    assert time.monotonic() - began < 2


def test_clients_at_once_each_get_their_own_answers(
    front: Proxy, upstream: Upstream, key: str, auth_service: Any
) -> None:
    """40 clients with 8 requests each; every answer says which question it is to."""
    upstream.answers_by(lambda asked: Answer(send(sized(asked.target))))
    keys = [auth_service.create_key().key for _ in range(4)]

    def client(number: int) -> list[bytes]:
        with Wire(front.url) as wire:
            targets = [f"{SEARCH}?client={number}&request={own}" for own in range(8)]
            fields = bearer(keys[number % len(keys)])
            return [wire.ask(request("GET", target, fields)).body for target in targets]

    with ThreadPoolExecutor(40) as clients:
        for number, answers in enumerate(clients.map(client, range(40))):
            wanted = [f"?client={number}&request={own}".encode() for own in range(8)]
            assert [answer.partition(b"search")[2] for answer in answers] == wanted


# --- a GiB ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(start_front: Callable[..., Proxy]) -> Proxy:
    return start_front(WEB_CONCURRENCY=2)


@contextmanager
def in_bounded_memory(proxy: Proxy) -> Iterator[None]:
    """Fails if the proxy's processes grow by more than GROWTH meanwhile."""
    processes = psutil.Process(proxy.pid).children(recursive=True)
    before = _resident(processes)
    peak, over = [before], threading.Event()

    def sample() -> None:
        while not over.wait(0.02):
            peak.append(_resident(processes))

    sampling = threading.Thread(target=sample)
    sampling.start()
    try:
        yield
    finally:
        over.set()
        sampling.join()
    assert max(peak) - before < GROWTH, f"{(max(peak) - before) / MIB:.0f} MiB more"


def _resident(processes: list[psutil.Process]) -> int:
    return sum(process.memory_info().rss for process in processes)


@pytest.mark.slow
@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_a_gib_goes_up_in_bounded_memory(
    loaded: Proxy, upstream: Upstream, key: str, framing: str
) -> None:
    assert call(loaded.url, "GET", SEARCH, bearer(key)).status == 200
    upstream.forget()
    is_sized = framing == "sized"
    fields = f"Content-Length: {GIB}" if is_sized else "Transfer-Encoding: chunked"
    with in_bounded_memory(loaded), Wire(loaded.url) as wire:
        wire.send(request("PUT", ARTIFACT, bearer(key), fields))
        for piece in pieces_of(GIB):
            wire.send(piece if is_sized else chunk(piece))
        assert wire.send(b"" if is_sized else b"0\r\n\r\n").read("PUT").status == 200
    # On a busy machine it takes long enough for the proxy to ask MLflow's /health beside it.
    (asked,) = [each for each in upstream.requests if each.method == b"PUT"]
    assert (asked.length, asked.end) == (GIB, "whole")
    assert asked.checksum.hexdigest() == checksum_of(GIB)


@pytest.mark.slow
@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_a_gib_comes_down_in_bounded_memory(
    loaded: Proxy, upstream: Upstream, key: str, framing: str
) -> None:
    assert call(loaded.url, "GET", SEARCH, bearer(key)).status == 200
    is_sized = framing == "sized"
    if is_sized:
        upstream.answers(Answer(send(head(200, ("Content-Length", str(GIB)))), generate(GIB)))
    else:
        begin = send(head(200, ("Transfer-Encoding", "chunked")))
        upstream.answers(Answer(begin, generate(GIB, as_chunks=True), send(b"0\r\n\r\n")))
    checksum, received = hashlib.sha256(), 0
    with in_bounded_memory(loaded), Wire(loaded.url) as wire:
        wire.send(request("GET", ARTIFACT, bearer(key)))
        assert wire.read_head()[0] == 200
        for piece in wire.pieces(GIB) if is_sized else iter(wire.read_chunk, b""):
            checksum.update(piece)
            received += len(piece)
    assert (received, checksum.hexdigest()) == (GIB, checksum_of(GIB))
