"""TCP_QUICKACK saves the 40 ms that MLflow's server loses: with and without it, in one run.

The fake MLflow behaves like uvicorn behind sockets that were opened before it: head and body in two
writes, Nagle's algorithm on. No absolute time: two proxies are asked in turn, and compared.
"""

import socket
import statistics
import time
from collections.abc import Iterator

import pytest

from devstack.proxy import Proxy
from tests.upstreams import Answer, Exchange, Upstream, head, send
from tests.wire import Wire, bearer, request

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
BODY = b'{"experiments": []}'
ROUNDS = 30

#: The application, on a system that has no such option.
WITHOUT = """
import app.upstream.connection

assert hasattr(app.upstream.connection, "QUICKACK")
app.upstream.connection.QUICKACK = None

from wsgi import app
"""


def nagle(exchange: Exchange) -> None:
    """What asyncio leaves as it is on a socket that it did not open."""
    exchange.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)


IN_TWO_WRITES = Answer(nagle, send(head(200, ("Content-Length", str(len(BODY))))), send(BODY))


@pytest.fixture(scope="module")
def without(
    tmp_path_factory: pytest.TempPathFactory, _front_settings: dict[str, str]
) -> Iterator[Proxy]:
    """A proxy like `front` whose connections to MLflow do without the option."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "without_quickack.py").write_text(WITHOUT, encoding="utf-8")
    server = Proxy(folder, _front_settings, ready="/health")
    server.command[-1:] = ["--pythonpath", str(folder), "without_quickack:app"]
    server.start()
    server.wait_until_ready()
    yield server
    server.stop()


def seconds(wire: Wire, key: str) -> float:
    """How long one request on a kept connection takes; its answer must be whole."""
    began = time.monotonic()
    answer = wire.ask(request("GET", SEARCH, bearer(key)))
    assert (answer.status, answer.body, answer.whole) == (200, BODY, True)
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="a system without TCP_QUICKACK")
def test_mlflow_answers_three_times_as_fast_with_it(
    front: Proxy, without: Proxy, upstream: Upstream, key: str
) -> None:
    upstream.answers(IN_TWO_WRITES)
    with Wire(front.url) as quick, Wire(without.url) as slow:
        # A new connection acknowledges its first answers at once, whatever is set.
        pairs = [(seconds(quick, key), seconds(slow, key)) for _ in range(2 * ROUNDS)][ROUNDS:]
    with_it, without_it = (statistics.median(times) for times in zip(*pairs, strict=True))
    assert without_it > 3 * with_it


@pytest.mark.slow
def test_a_system_that_has_no_such_option_is_served_as_well(
    without: Proxy, upstream: Upstream, key: str
) -> None:
    upstream.answers(IN_TWO_WRITES)
    with Wire(without.url) as wire:
        assert seconds(wire, key) > 0
