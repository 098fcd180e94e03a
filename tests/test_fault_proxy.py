"""The proxy that breaks things does what it says, and is not noticed while it does nothing."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.fault_proxy import CLIENT, FaultProxy
from tests.upstreams import Answer, Upstream, checksum_of, eventually, generate, head, send, sized
from tests.wire import Wire, request

GET = request("GET", "/")


@pytest.fixture
def server() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
def faults(server: Upstream) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as faults:
        yield faults


def test_without_a_fault_every_byte_passes(faults: FaultProxy, server: Upstream) -> None:
    size = 10_000_000
    server.answers(Answer(send(head(200, ("Content-Length", str(size)))), generate(size)))
    body = bytes(3_000_000)
    with Wire(faults.url) as wire:
        answer = wire.ask(request("PUT", "/", body=body))
        assert answer.whole
        assert wire.ask(GET).whole
    assert server.requests[0].length == len(body)
    assert len(answer.body) == size
    assert checksum_of(size) == hashlib.sha256(answer.body).hexdigest()
    assert faults.connections == 1


def test_the_end_of_one_side_is_passed_on(faults: FaultProxy, server: Upstream) -> None:
    with Wire(faults.url) as wire:
        wire.ask(GET)
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.end() == "fin"
    server.wait_for(lambda: server.open_connections == 0)


def test_a_delay_is_added_to_each_answer(faults: FaultProxy) -> None:
    with Wire(faults.url) as wire:
        wire.ask(GET)
        faults.delay(0.2)
        began = time.monotonic()
        wire.ask(GET)
        assert time.monotonic() - began > 0.2


def test_what_was_stalled_comes_after_the_healing(faults: FaultProxy, server: Upstream) -> None:
    with Wire(faults.url) as old:
        old.ask(GET)
        faults.stall()
        old.send(GET)
        with Wire(faults.url) as new:
            new.send(GET).socket.settimeout(0.1)
            with pytest.raises(TimeoutError):
                new.more()
            assert len(server.requests) == 1
            faults.heal()
            new.socket.settimeout(20)
            assert (old.read().status, new.read().status) == (200, 200)


def test_who_refuses_resets_too(faults: FaultProxy) -> None:
    with Wire(faults.url) as wire:
        wire.ask(GET)
        faults.refuse()
        assert wire.end() == "rst"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", faults.port))
    faults.heal()
    with Wire(faults.url) as wire:
        assert wire.ask(GET).status == 200


def test_a_reset_happens_once(faults: FaultProxy) -> None:
    with Wire(faults.url) as wire:
        wire.ask(GET)
        faults.reset()
        assert wire.end() == "rst"
    with Wire(faults.url) as wire:
        assert wire.ask(GET).status == 200


@pytest.mark.parametrize(("with_reset", "end"), [(True, "rst"), (False, "fin")])
def test_an_answer_is_cut_at_the_byte(
    faults: FaultProxy, server: Upstream, with_reset: bool, end: str
) -> None:
    answer = sized(b"x" * 1000)
    server.answers(Answer(send(answer)))
    with Wire(faults.url) as wire:
        assert wire.ask(GET).whole
        faults.cut(after=len(answer) - 1, with_reset=with_reset)
        cut = wire.ask(GET)
        assert (len(cut.body), cut.whole, cut.end) == (999, False, end)


def test_a_request_is_cut_at_the_byte(faults: FaultProxy, server: Upstream) -> None:
    upload = request("PUT", "/", body=bytes(100))
    faults.cut(after=len(upload) - 1, of=CLIENT)
    with Wire(faults.url) as wire:
        wire.send(upload)
        assert wire.end() == "rst"
    server.wait_for(lambda: bool(server.requests) and server.requests[0].end == "rst")
    assert server.requests[0].length == 99


def test_a_server_that_is_gone_shows_as_a_reset() -> None:
    with FaultProxy(1) as faults:
        try:
            with Wire(faults.url) as wire:
                end = wire.end()
        except ConnectionResetError:  # before connect() came back
            end = "rst"
    assert end == "rst"


def test_nothing_is_left_of_it(server: Upstream) -> None:
    before = threading.active_count()
    with FaultProxy(server.port) as faults:
        faults.stall()
        wire = Wire(faults.url).send(GET)
    assert wire.end() == "rst"
    wire.socket.close()
    eventually(lambda: threading.active_count() <= before, "the end of its threads")
