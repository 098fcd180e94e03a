"""An upload that broke never arrives as a whole one."""

import contextlib
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.upstreams import (
    OK,
    Answer,
    Step,
    Upstream,
    chunk,
    close,
    eventually,
    reset,
    silence,
    until,
)
from tests.wire import Response, Wire, bearer, call, request

ARTIFACTS = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts"
ARTIFACT = f"{ARTIFACTS}/model/weights.bin"
REST = "/api/mlflow/api/2.0/mlflow/runs/log-batch"
CHUNKED = "Transfer-Encoding: chunked"

#: More than the proxy reads before it goes on (app/upstream/streaming.py, WHOLE): MLflow sees the
#: beginning.
LONG, SHORT = 1_000_000, 30_000

Leave = Callable[[Wire], None]


def cut_off(front: Proxy, key: str, target: str, sent: int, framing: str, leave: Leave) -> str:
    """Sends a part of a body and leaves; the request's id."""
    own = uuid.uuid4().hex
    fields = ["Content-Length: 2000000" if framing == "sized" else CHUNKED]
    body = bytes(sent) if framing == "sized" else chunk(bytes(sent))
    with Wire(front.url) as wire:
        wire.send(request("PUT", target, bearer(key), f"X-Request-ID: {own}", *fields, body=body))
        leave(wire)
    return own


def access_line(front: Proxy, request_id: str) -> dict[str, Any]:
    """The access line of a request, as soon as it is written."""

    def found() -> list[dict[str, Any]]:
        lines = [line for line in front.log_lines() if line.get("request_id") == request_id]
        return [line for line in lines if line["logger"] == "hokusai.access"]

    eventually(found, "the request's log line")
    return found()[0]


def fin(wire: Wire) -> None:
    wire.socket.close()


def rst(wire: Wire) -> None:
    wire.vanish()


@pytest.mark.parametrize("leave", [fin, rst])
@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_a_client_that_vanishes_leaves_mlflow_with_a_broken_upload(
    front: Proxy, upstream: Upstream, key: str, framing: str, leave: Leave
) -> None:
    own = cut_off(front, key, ARTIFACT, LONG, framing, leave)
    upstream.wait_for(lambda: [asked.end for asked in upstream.requests] == ["fin"], "a broken end")
    upstream.wait_for(lambda: upstream.open_connections == 0, "the end of the connection")
    assert upstream.requests[0].length <= LONG
    assert access_line(front, own)["outcome"] == "client_gone"


@pytest.mark.parametrize("leave", [fin, rst])
@pytest.mark.parametrize(
    ("framing", "target", "sent"),
    [("sized", ARTIFACT, 0), ("chunked", REST, SHORT)],
    ids=["before the first byte", "of a body that is put aside"],
)
def test_a_client_that_vanishes_early_never_reached_mlflow(
    front: Proxy,
    upstream: Upstream,
    key: str,
    framing: str,
    target: str,
    sent: int,
    leave: Leave,
) -> None:
    own = cut_off(front, key, target, sent, framing, leave)
    assert access_line(front, own)["outcome"] == "client_gone"
    assert "whole" not in [asked.end for asked in upstream.requests]


def test_a_short_body_that_is_not_whole_never_reaches_mlflow(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    own = uuid.uuid4().hex
    fields = (bearer(key), f"X-Request-ID: {own}", "Content-Length: 30000")
    with Wire(front.url) as wire:
        wire.send(request("POST", REST, *fields, body=bytes(29_999)))
    assert access_line(front, own)["outcome"] == "client_gone"
    assert upstream.requests == []


def test_a_client_that_only_stops_sending_is_told(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    """Half closed: it can still read that its body was not whole."""
    with Wire(front.url) as wire:
        wire.send(
            request("PUT", ARTIFACT, bearer(key), "Content-Length: 2000000", body=bytes(LONG))
        )
        wire.socket.shutdown(1)
        assert wire.read().error == (400, "BAD_REQUEST")
        wire.end()
    upstream.wait_for(lambda: [asked.end for asked in upstream.requests] == ["fin"], "a broken end")


@pytest.mark.parametrize("seed", range(3))
def test_no_cut_at_random_arrives_whole(
    front: Proxy, upstream: Upstream, key: str, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        body = chance.randbytes(chance.randint(1, 400_000))
        is_sized = chance.random() < 0.5
        fields = [f"Content-Length: {len(body)}" if is_sized else CHUNKED]
        at = chance.randint(0, len(body))
        framed = body if is_sized else chunk(body[:at] or b"x") + chunk(b"y") + b"0\r\n\r\n"
        cut = chance.randrange(len(framed) - (0 if is_sized else 5))
        own = uuid.uuid4().hex
        fields += [bearer(key), f"X-Request-ID: {own}"]
        with Wire(front.url) as wire:
            wire.send(request("PUT", ARTIFACT, *fields, body=framed[:cut]))
            chance.choice((fin, rst))(wire)
        assert access_line(front, own)["outcome"] == "client_gone", (seed, is_sized, cut)
    upstream.wait_for(lambda: all(asked.end for asked in upstream.requests), "an end of each")
    assert "whole" not in [asked.end for asked in upstream.requests]


def test_a_client_that_vanishes_takes_no_place_and_is_no_failure_of_mlflow(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    front = start_front(
        CIRCUIT_FAIL_MAX=1,
        MAX_IN_FLIGHT_PER_KEY=1,
    )
    for framing in ("sized", "chunked"):
        access_line(front, cut_off(front, key, ARTIFACT, LONG, framing, rst))
        assert call(front.url, "GET", "/api/mlflow/version", bearer(key)).status == 200


# --- MLflow breaks off ---------------------------------------------------------------------------


def upload(front: Proxy, key: str, size: int) -> Response:
    return call(front.url, "PUT", ARTIFACT, bearer(key), body=bytes(size))


@pytest.mark.parametrize("size", [100, LONG, 5_000_000])
@pytest.mark.parametrize("end", [close(), reset()], ids=["closed", "reset"])
def test_an_upload_that_mlflow_breaks_off_is_502_and_not_repeated(
    front: Proxy, upstream: Upstream, key: str, end: Step, size: int
) -> None:
    upstream.answers(Answer(end, early=True))
    assert upload(front, key, size).error == (502, "TEMPORARILY_UNAVAILABLE")
    assert len(upstream.requests) == 1
    upstream.answers(OK)
    assert upload(front, key, size).status == 200


def test_an_upload_that_mlflow_takes_and_never_answers_is_504(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    front = start_front(MLFLOW_ARTIFACT_COPY_TIMEOUT=0.3)
    upstream.answers(Answer(silence()))
    assert upload(front, key, LONG).error == (504, "DEADLINE_EXCEEDED")
    uploads = [asked for asked in upstream.requests if asked.target != b"/health"]
    assert len(uploads) == 1


def test_an_upload_that_mlflow_does_not_take_ends_in_time(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    """It reads the head and nothing else: no byte moves, as behind the copies of others."""
    front = start_front(MLFLOW_ARTIFACT_COPY_TIMEOUT=0.3)
    over = threading.Event()
    upstream.answers(Answer(until(over), early=True))
    try:
        answer = upload(front, key, 40_000_000)
    finally:
        over.set()
    assert answer.error == (504, "DEADLINE_EXCEEDED")
    assert [asked.method for asked in upstream.requests].count(b"PUT") == 1


# --- with the real MLflow ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("leave", [fin, rst])
@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_mlflow_keeps_nothing_of_a_broken_upload(
    proxy: Proxy, mlflow_server: Any, key: str, framing: str, leave: Leave
) -> None:
    folder = f"broken-{uuid.uuid4().hex}"
    own = cut_off(proxy, key, f"{ARTIFACTS}/{folder}/weights.bin", LONG, framing, leave)
    assert access_line(proxy, own)["outcome"] == "client_gone"

    whole = call(proxy.url, "PUT", f"{ARTIFACTS}/{folder}/whole.bin", bearer(key), body=b"whole")
    assert whole.status == 200
    listed = call(proxy.url, "GET", f"{ARTIFACTS}?path={folder}", bearer(key)).json
    assert [entry["path"] for entry in listed["files"]] == ["whole.bin"]
    stored = dict(sizes_of_files(mlflow_server.artifacts))
    assert [path.name for path in stored if folder in str(path)] == ["whole.bin"]
    assert LONG not in stored.values()


def sizes_of_files(folder: Path) -> Iterator[tuple[Path, int]]:
    """The files below a folder; others write there, so some may go meanwhile."""
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                yield path, path.stat().st_size
