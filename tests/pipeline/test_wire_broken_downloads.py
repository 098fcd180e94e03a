"""A download that broke never looks complete."""

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.upstreams import (
    OK,
    Answer,
    Step,
    Upstream,
    chunk,
    chunked,
    close,
    eventually,
    generate,
    head,
    reset,
    send,
    silence,
    sized,
    until,
    without_end,
)
from tests.wire import Response, Wire, bearer, call, request

ARTIFACT = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/model/weights.bin"
BODY = bytes(range(256)) * 40

#: What an HTTP client may be: its version, and what it says about its connection.
CLIENTS = {
    "1.1": ("1.1", ()),
    "1.1, closing": ("1.1", ("Connection: close",)),
    "1.0": ("1.0", ()),
    "1.0, keep-alive": ("1.0", ("Connection: keep-alive",)),
}

BROKEN = {
    "sized, before the body": head(200, ("Content-Length", "10240")),
    "sized, in the body": sized(BODY)[:-1000],
    "sized, one byte short": sized(BODY)[:-1],
    "chunked, before the body": head(200, ("Transfer-Encoding", "chunked")),
    "chunked, in a size": chunked(BODY, BODY, last=False) + b"1",
    "chunked, behind a size": chunked(BODY, last=False) + b"2800\r\n",
    "chunked, in a chunk": chunked(BODY, BODY)[:-100],
    "chunked, before the last chunk": chunked(BODY, BODY, last=False),
    "chunked, with a bad size": chunked(BODY, last=False) + b"zz\r\nhello\r\n0\r\n\r\n",
}


def ask(front: Proxy, key: str, client: str) -> Response:
    version, fields = CLIENTS[client]
    with Wire(front.url) as wire:
        return wire.ask(request("GET", ARTIFACT, bearer(key), *fields, version=version))


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("end", [close(), reset()], ids=["closed", "reset"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_body_that_mlflow_breaks_off_is_broken_off(
    front: Proxy, upstream: Upstream, key: str, name: str, end: Step, client: str
) -> None:
    upstream.answers(Answer(send(BROKEN[name]), end))
    answer = ask(front, key, client)
    assert not answer.whole, answer
    assert answer.end in ("fin", "rst"), "the connection must not be used any further"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "data",
    [b"HTTP", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-"],
)
@pytest.mark.parametrize("end", [close(), reset()], ids=["closed", "reset"])
def test_a_head_that_mlflow_breaks_off_is_502(
    front: Proxy, upstream: Upstream, key: str, end: Step, data: bytes, client: str
) -> None:
    upstream.answers(Answer(send(data), end))
    assert ask(front, key, client).error == (502, "TEMPORARILY_UNAVAILABLE")


@pytest.mark.parametrize("seed", range(4))
def test_no_cut_at_random_looks_complete(
    front: Proxy, upstream: Upstream, key: str, seed: int
) -> None:
    """25 cuts each, anywhere behind the head and before the end of the body."""
    chance = random.Random(seed)
    for _ in range(25):
        pieces = [chance.randbytes(chance.randint(1, 60_000)) for _ in range(chance.randint(1, 5))]
        is_sized = chance.random() < 0.5
        data = sized(b"".join(pieces)) if is_sized else chunked(*pieces)
        end_of_head = data.index(b"\r\n\r\n") + 4
        cut = chance.randint(end_of_head, len(data) - (1 if is_sized else len(b"0\r\n\r\n")))
        upstream.answers(Answer(send(data[:cut]), chance.choice((close(), reset()))))
        answer = ask(front, key, chance.choice(list(CLIENTS)))
        assert not answer.whole, (seed, is_sized, cut, len(data), answer.end)


def test_a_body_that_stops_coming_is_broken_off(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    front = start_front(MLFLOW_ARTIFACT_READ_TIMEOUT=0.1)
    for data in (sized(BODY)[:-1], chunked(BODY, last=False)):
        for client in CLIENTS:
            upstream.answers(Answer(send(data), silence()))
            assert not ask(front, key, client).whole


def test_a_broken_transfer_is_counted_and_logged(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    upstream.answers(Answer(send(sized(BODY)[:-1]), close()))
    answer = call(front.url, "GET", ARTIFACT, bearer(key))
    own = answer.one("X-Request-ID")
    lines: list[dict[str, Any]] = []

    def are_there() -> bool:
        lines[:] = [line for line in front.log_lines() if line.get("request_id") == own]
        return any(line["logger"] == "hokusai.access" for line in lines)

    eventually(are_there, "its lines in the log")
    assert any("MLflow broke off after 10239 bytes" in line["message"] for line in lines)
    (access,) = [line for line in lines if line["logger"] == "hokusai.access"]
    assert (access["outcome"], access["bytes_out"]) == ("broken_transfer", 10239)
    metrics = call(front.url, "GET", "/metrics").body.decode()
    assert 'outcome="broken_transfer",status="2xx"' in metrics


# --- a client that vanishes ----------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_mlflow_is_let_go_when_the_client_vanishes(
    front: Proxy, upstream: Upstream, key: str, framing: str
) -> None:
    if framing == "sized":
        steps = (send(head(200, ("Content-Length", str(10**12)))), generate(10**12))
    else:
        steps = (send(head(200, ("Transfer-Encoding", "chunked"))), without_end(chunk(BODY)))
    upstream.answers(Answer(*steps))
    for _ in range(3):
        with Wire(front.url) as wire:
            wire.send(request("GET", ARTIFACT, bearer(key)))
            assert wire.read_head()[0] == 200
            wire.vanish()
        upstream.wait_for(lambda: upstream.open_connections == 0, "the end of the connection")


def test_mlflow_is_let_go_at_the_next_event_after_the_client_vanished(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    vanished = threading.Event()
    events = (send(head(200, ("Transfer-Encoding", "chunked"))), send(chunk(b"data: 1\n\n")))
    upstream.answers(Answer(*events, until(vanished), without_end(chunk(b"data: 2\n\n"))))
    with Wire(front.url) as wire:
        wire.send(request("GET", ARTIFACT, bearer(key)))
        wire.read_head()
        assert wire.read_chunk() == b"data: 1\n\n"
        wire.vanish()
    vanished.set()
    upstream.wait_for(lambda: upstream.open_connections == 0, "the end of the connection")


def test_a_client_that_vanishes_takes_no_place_and_is_no_failure_of_mlflow(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    front = start_front(
        CIRCUIT_FAIL_MAX=1,
        MAX_IN_FLIGHT_PER_KEY=1,
    )
    for _ in range(3):
        upstream.answers(Answer(send(head(200, ("Content-Length", "1000000000"))), generate(10**9)))
        with Wire(front.url) as wire:
            wire.send(request("GET", ARTIFACT, bearer(key)))
            assert wire.read_head()[0] == 200
            wire.vanish()
        upstream.wait_for(lambda: upstream.open_connections == 0, "the end of the connection")
        upstream.answers(OK)
        assert call(front.url, "GET", "/api/mlflow/version", bearer(key)).status == 200
    eventually(lambda: outcomes(front) == ["client_gone", "forwarded"] * 3, "the log lines")


def outcomes(front: Proxy) -> list[str]:
    lines = front.log_lines()
    return [line["outcome"] for line in lines if line["logger"] == "hokusai.access"]
