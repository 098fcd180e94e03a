"""What a worker keeps in memory of clients that are slow, or idle: strangers may be very many."""

from collections.abc import Callable
from contextlib import ExitStack

import psutil
import pytest

from devstack.proxy import Proxy
from tests.drills.instance_folder import workers
from tests.upstreams import Answer, Upstream, eventually, pieces_of, send, sized
from tests.wire import Wire, call, request

#: A file whose name has a hash; half of its size when it is compressed.
HASHED = "/mlflow/static-files/static/js/main.c2f5f8d4.js"
SCRIPT = b"".join(pieces_of(1_000_000)).hex().encode()

BIG_HEAD = [f"X-Field-{number}: {'x' * 100}" for number in range(450)]

CLIENTS = 100


@pytest.fixture
def fresh(start_front: Callable[..., Proxy]) -> Proxy:
    """A proxy with one worker, which has not used memory for anything yet."""
    return start_front(WEB_CONCURRENCY=1)


def memory(proxy: Proxy) -> int:
    (worker,) = workers(proxy)
    return int(psutil.Process(worker).memory_info().rss)


def test_slow_readers_of_a_kept_file_share_one_copy(fresh: Proxy, upstream: Upstream) -> None:
    fields = (("Content-Type", "text/javascript"), ("ETag", '"1"'))
    upstream.answers(Answer(send(sized(SCRIPT, 200, *fields))))
    asked = request("GET", HASHED, "Accept-Encoding: gzip")
    for _ in range(2):
        with Wire(fresh.url) as wire:
            size = len(wire.ask(asked).body)
    before = memory(fresh)
    with ExitStack() as clients:
        wires = [
            clients.enter_context(Wire(fresh.url, receive_buffer=4096)) for _ in range(CLIENTS)
        ]
        for wire in wires:
            assert wire.send(asked).read_head()[0] == 200
        assert memory(fresh) - before < CLIENTS * size / 4
        assert call(fresh.url, "GET", "/health").status == 200
    assert len(upstream.requests) == 1


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_an_idle_connection_keeps_nothing_of_its_last_request(fresh: Proxy, version: str) -> None:
    fields = [*BIG_HEAD, "Connection: keep-alive"]
    first = request("GET", f"/health?{'q' * 8000}", *fields, version=version)
    with ExitStack() as clients:
        clients.enter_context(Wire(fresh.url)).ask(first)  # what is needed once
        before = memory(fresh)
        wires = [clients.enter_context(Wire(fresh.url)) for _ in range(CLIENTS)]
        for wire in wires:
            assert wire.ask(first).status == 200
        eventually(
            lambda: memory(fresh) - before < CLIENTS * len(first) / 2, "the heads to be forgotten"
        )
        for wire in wires:  # and it is still the same connection
            assert wire.ask(request("GET", "/health", version=version)).status == 200


def test_long_names_of_fields_are_not_kept(fresh: Proxy) -> None:
    def ask(number: int) -> None:
        name = f"X-{number:03}-{'a' * 60_000}"
        assert call(fresh.url, "GET", HASHED, f"{name}: 1").status == 200

    ask(0)
    before = memory(fresh)
    for number in range(1, 300):
        ask(number)
    assert memory(fresh) - before < 300 * 60_000


def test_the_form_repeats_no_long_address(fresh: Proxy) -> None:
    """It would be five times as long there, for each reader who does not read it."""
    navigates = ("Sec-Fetch-Mode: navigate", "Accept: text/html")
    lengths = [
        len(call(fresh.url, "GET", f"/mlflow/?{'&' * length}", *navigates).body)
        for length in (0, 1_000, 60_000)
    ]
    assert lengths[1] - lengths[0] == 5_000
    assert lengths[2] <= lengths[0]
