"""A client that stalls is dropped in time, a slow one is not, and nobody waits for either."""

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from select import select
from typing import Any

import psutil
import pytest

from devstack.proxy import Proxy
from tests.upstreams import (
    OK,
    WAIT_LIMIT,
    Answer,
    Upstream,
    chunk,
    eventually,
    generate,
    head,
    pieces_of,
    send,
    without_end,
)
from tests.wire import Wire, bearer, call, request

ARTIFACT = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/model/weights.bin"
REST = "/api/mlflow/api/2.0/mlflow/runs/log-batch"
CHUNKED = "Transfer-Encoding: chunked"

#: More than all the buffers on the way can hold.
LARGE = 200_000_000


@pytest.fixture(scope="module")
def impatient(start_front: Callable[..., Proxy]) -> Proxy:
    """A proxy that waits two seconds for its client: a busy machine delays also the steady ones."""
    return start_front(CLIENT_IDLE_TIMEOUT=2, KEEPALIVE=4)


SIZED = Answer(send(head(200, ("Content-Length", str(LARGE)))), generate(LARGE))
ENDLESS = Answer(send(head(200, ("Transfer-Encoding", "chunked"))), without_end(chunk(bytes(9999))))


@pytest.mark.slow
def test_readers_that_stall_are_dropped_and_see_no_whole_body(
    impatient: Proxy, upstream: Upstream, key: str
) -> None:
    upstream.answers_by(lambda asked: SIZED if asked.target.endswith(b"sized") else ENDLESS)
    with ExitStack() as clients:
        wires = []
        for kind, version in product(("sized", "endless"), ("1.1", "1.0")):
            wire = clients.enter_context(Wire(impatient.url, receive_buffer=4096))
            wires.append(wire)
            wire.send(request("GET", f"{ARTIFACT}/{kind}", bearer(key), version=version))
        upstream.wait_for(lambda: upstream.connections == 4, "the requests")
        upstream.wait_for(lambda: upstream.open_connections == 0, "the end of the transfers")
        for got in [wire.read() for wire in wires]:
            assert got.status == 200
            assert not got.whole
            assert len(got.body) < LARGE


#: Where a body is sent to, how it is framed, and what comes of it before it stalls.
STALLED_BODIES = {
    "sized": (ARTIFACT, "Content-Length: 1000000", bytes(500_000)),
    "chunked": (ARTIFACT, CHUNKED, chunk(bytes(500_000))),
    "nothing of it": (REST, "Content-Length: 1000", b""),
    "all but a byte": (REST, "Content-Length: 1000", bytes(999)),
    "put aside": (REST, CHUNKED, chunk(bytes(500))),
    "in a chunk": (REST, CHUNKED, b"5\r\nhel"),
}


def test_uploaders_that_stall_are_told_and_dropped(
    impatient: Proxy, upstream: Upstream, key: str
) -> None:
    with ExitStack() as clients:
        wires = {}
        for name, (target, framing, sent) in STALLED_BODIES.items():
            wires[name] = clients.enter_context(Wire(impatient.url))
            wires[name].send(request("PUT", target, bearer(key), framing, body=sent))
        for name, wire in wires.items():
            assert wire.read().error == (408, "BAD_REQUEST"), name
            assert wire.end() in ("fin", "rst")
    upstream.wait_for(lambda: upstream.open_connections == 0, "the end of the uploads")
    assert "whole" not in [asked.end for asked in upstream.requests]


@pytest.mark.slow
@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_a_slow_and_steady_reader_gets_everything(
    impatient: Proxy, upstream: Upstream, key: str, framing: str
) -> None:
    """It takes something all the time, but for some seconds less than a piece in a second."""
    size = 8_000_000
    if framing == "sized":
        steps = (send(head(200, ("Content-Length", str(size)))), generate(size))
    else:
        pieces = b"".join(map(chunk, pieces_of(size)))
        steps = (send(head(200, ("Transfer-Encoding", "chunked"))), send(pieces + b"0\r\n\r\n"))
    upstream.answers(Answer(*steps))
    with Wire(impatient.url, receive_buffer=32 * 1024) as wire:
        wire.send(request("GET", ARTIFACT, bearer(key)))
        wire.read_head()
        slow_until = time.monotonic() + 4
        while time.monotonic() < slow_until:
            wire.buffer += wire.socket.recv(16 * 1024)
            time.sleep(0.05)  # this is the client's pace
        body, whole = wire.read_sized(size) if framing == "sized" else wire.read_chunked()
    assert whole
    assert body == b"".join(pieces_of(size))


@pytest.mark.slow
def test_a_slow_and_steady_uploader_is_heard_out(
    impatient: Proxy, upstream: Upstream, key: str
) -> None:
    with Wire(impatient.url) as wire:
        wire.send(request("PUT", ARTIFACT, bearer(key), "Content-Length: 100000"))
        for _ in range(8):
            wire.send(bytes(10_000))
            time.sleep(0.3)  # this is the client's pace
        wire.send(bytes(20_000))
        assert wire.read().status == 200
    assert upstream.requests[0].length == 100_000


@pytest.mark.slow
def test_an_idle_connection_is_kept_and_then_closed(
    impatient: Proxy, upstream: Upstream, key: str
) -> None:
    """KEEPALIVE, which is longer than CLIENT_IDLE_TIMEOUT, counts between two requests."""
    with Wire(impatient.url) as wire:
        assert wire.ask(request("GET", REST, bearer(key))).status == 200
        began = time.monotonic()
        assert wire.end() == "fin"
    assert time.monotonic() - began > 3


STALLED: dict[str, Callable[[str], bytes]] = {
    "one byte": lambda key: b"G",
    "half a head": lambda key: b"GET /health HTTP/1.1\r\nHost: a\r\nX-A: ",
    "half a body": lambda key: request("POST", REST, bearer(key), "Content-Length: 9", body=b"x"),
    "an unread answer": lambda key: request("GET", ARTIFACT, bearer(key)),
}


@pytest.mark.parametrize("name", STALLED)
def test_fifty_stalled_clients_stop_nobody(
    front: Proxy, upstream: Upstream, key: str, auth_service: Any, name: str
) -> None:
    """They have a key of their own: each may have 64 requests under way."""
    data = STALLED[name](auth_service.create_key().key)
    upstream.answers_by(lambda asked: SIZED if b"artifacts" in asked.target else OK)
    with ExitStack() as clients:
        for _ in range(50):
            clients.enter_context(Wire(front.url, receive_buffer=4096)).send(data)
        if name == "an unread answer":
            upstream.wait_for(lambda: len(upstream.requests) == 50, "all requests")
        for _ in range(5):
            assert call(front.url, "GET", "/health").status == 200
            assert call(front.url, "GET", "/api/mlflow/version", bearer(key)).status == 200


@pytest.mark.slow
def test_a_client_that_goes_on_sending_after_a_refusal_stops_nobody_and_is_cut_off(
    impatient: Proxy, upstream: Upstream, key: str
) -> None:
    """An endless body without a key. Each read of it finds data, so none of them ever waits."""

    def send_without_end(wire: Wire) -> None:
        with contextlib.suppress(OSError):
            while True:
                wire.send(chunk(bytes(100_000)))

    with Wire(impatient.url) as wire, ThreadPoolExecutor(1) as sender:
        wire.send(request("PUT", ARTIFACT, CHUNKED))
        assert wire.read().error == (401, "UNAUTHENTICATED")
        sending = sender.submit(send_without_end, wire)
        for _ in range(5):
            assert call(impatient.url, "GET", "/health").status == 200
            assert call(impatient.url, "GET", "/api/mlflow/version", bearer(key)).status == 200
        assert sending.running(), "it was cut off before the others were asked"
        sending.result(WAIT_LIMIT)
    assert [asked.target for asked in upstream.requests] == [b"/version"] * 5


def test_half_a_head_that_makes_room_is_answered_and_no_defect(
    start_front: Callable[..., Proxy],
) -> None:
    small = start_front(MAX_CONNECTIONS=20)
    with ExitStack() as clients:
        wires = [clients.enter_context(Wire(small.url)) for _ in range(30)]
        for wire in wires:
            wire.send(b"GET /health HTTP/1.1\r\nHost: proxy")
        answered, _, _ = select([wire.socket for wire in wires], (), (), WAIT_LIMIT)
        first = next(wire for wire in wires if wire.socket is answered[0])
        assert first.read().error == (503, "TEMPORARILY_UNAVAILABLE")
    assert call(small.url, "GET", "/health").status == 200
    assert not [line for line in small.log_lines() if line["level"] == "ERROR"]


@pytest.mark.slow
def test_some_more_than_must_are_given_up_at_once(start_front: Callable[..., Proxy]) -> None:
    """To look for them takes longer, the more clients there are; not for each new one."""
    small = start_front(MAX_CONNECTIONS=100, WEB_CONCURRENCY=1)
    with ExitStack() as clients:
        wires = [clients.enter_context(Wire(small.url)) for _ in range(95)]
        for wire in wires:
            wire.send(b"GET /health HTTP/1.1\r\nHost: proxy")
        (worker,) = psutil.Process(small.pid).children()
        eventually(lambda: len(worker.net_connections("tcp")) >= 95, "all to be accepted")
        time.sleep(1)  # until each is waited for
        assert call(small.url, "GET", "/health").status == 200  # one too many
        by_socket = {wire.socket: wire for wire in wires}
        eventually(lambda: len(select(by_socket, (), (), 0)[0]) == 3, "three answers")
        for answered in select(by_socket, (), (), 0)[0]:
            assert by_socket[answered].read().error == (503, "TEMPORARILY_UNAVAILABLE")
