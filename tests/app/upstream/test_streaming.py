"""Bytes both ways, in constant memory: framed as MLflow needs them, never falsely complete."""

import contextlib
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import pytest
from urllib3 import HTTPResponse

from app.request.body import PIECE
from app.request.client_connection import abort_with_reset
from app.request.errors import BodyTooLarge, BrokenTransfer, ClientGone, RequestTimeout
from app.request.inbound import Inbound
from app.upstream import streaming
from app.upstream.buffered_bodies import BufferedBodies, BufferedBody
from app.upstream.circuit import Circuit
from app.upstream.forwarding import Upstream as Forwarder
from app.upstream.streaming import (
    JUDGED,
    WHOLE,
    Body,
    body_length,
    request_body,
    response_body,
)
from tests.app.samples import inbound, permit, settings
from tests.upstreams import (
    WAIT_LIMIT,
    Answer,
    Upstream,
    chunk,
    chunked,
    close,
    generate,
    head,
    pause,
    reset,
    reset_on_close,
    send,
    silence,
    sized,
    until,
)

LIMIT = 3 * 1024 * 1024


_ASIDE: list[BufferedBody] = []


def aside(each: int = LIMIT) -> BufferedBody:
    """Where a chunked body of at most `each` bytes is put."""
    _ASIDE.append(BufferedBodies(each, total=100 * LIMIT).new("key-1"))
    return _ASIDE[-1]


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while _ASIDE:
        _ASIDE.pop().close()


# --- up ------------------------------------------------------------------------------------------


def sized_request(body: bytes, length: int | None = None, **more: Any) -> Inbound:
    """A request with a Content-Length, which may be another than the body's."""
    told = str(len(body) if length is None else length)
    return inbound("POST", CONTENT_LENGTH=told, **{"wsgi.input": BytesIO(body)} | more)


def chunked_request(body: bytes) -> Inbound:
    """A chunked request, as the server's parser hands it over: its pieces, and an end."""
    handed_over: dict[str, Any] = {"wsgi.input": BytesIO(body)}
    return inbound("PUT", HTTP_TRANSFER_ENCODING="chunked", **handed_over)


def test_no_body_is_no_body() -> None:
    assert request_body(inbound("GET"), streams=False, aside=aside()) == Body(None, 0)


@pytest.mark.parametrize("size", [0, 1, WHOLE - 1, WHOLE])
def test_a_short_body_is_read_whole(size: int) -> None:
    body = b"x" * size
    assert request_body(sized_request(body), streams=False, aside=aside()) == Body(body, size)


@pytest.mark.parametrize("size", [WHOLE + 1, PIECE, PIECE + 1, 3 * PIECE])
def test_a_long_body_is_handed_on_in_pieces(size: int) -> None:
    asked = sized_request(b"x" * size + b"the next request", size)
    body = request_body(asked, streams=False, aside=aside())
    assert body.length == size
    pieces = list(body.content or ())
    assert sum(map(len, pieces)) == size, "and no byte of what follows"  # type: ignore[arg-type]
    assert max(map(len, pieces)) <= PIECE  # type: ignore[arg-type]


def test_a_long_body_is_not_read_before_it_is_asked_for() -> None:
    stream = BytesIO(b"x" * (WHOLE + 1))
    handed_over: dict[str, Any] = {"wsgi.input": stream}
    asked = inbound("PUT", CONTENT_LENGTH=str(WHOLE + 1), **handed_over)
    request_body(asked, streams=True, aside=aside())
    assert stream.tell() == 0


@pytest.mark.parametrize(
    ("body", "whole"),
    [
        (Body(None, 0), True),
        (Body(b"", 0), True),
        (Body(b"a", 1), True),
        (Body(iter([b"a"]), 1), False),
    ],
)
def test_what_could_be_sent_a_second_time(body: Body, whole: bool) -> None:
    assert body.is_whole is whole


@pytest.mark.parametrize("missing", [1, 1000])
@pytest.mark.parametrize("size", [1000, WHOLE, WHOLE + 1, 2 * PIECE])
def test_a_client_that_vanished_is_noticed(size: int, missing: int) -> None:
    """gunicorn ends its input without an error."""
    with pytest.raises(ClientGone, match=f"{missing} of {size} bytes"):
        drain(request_body(sized_request(b"x" * (size - missing), size), False, aside()))


def drain(body: Body) -> bytes:
    if body.content is None or isinstance(body.content, bytes):
        return body.content or b""
    return b"".join(body.content)


@contextlib.contextmanager
def client_socket() -> Iterator[tuple[socket.socket, Any]]:
    """(the client's end, what the proxy reads its body from)."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        ours, _ = listener.accept()
        ours.settimeout(0.1)
        with ours, ours.makefile("rb") as stream:
            yield client, stream


@pytest.mark.parametrize("size", [100, WHOLE + 1], ids=["short", "long"])
def test_a_client_that_stalls_is_told_so(size: int) -> None:
    with client_socket() as (client, stream):
        client.sendall(b"x" * 10)
        asked = inbound("POST", CONTENT_LENGTH=str(size), **{"wsgi.input": stream})
        with pytest.raises(RequestTimeout, match="CLIENT_IDLE_TIMEOUT"):
            drain(request_body(asked, False, aside()))


@pytest.mark.parametrize("size", [100, WHOLE + 1], ids=["short", "long"])
def test_a_client_that_resets_is_gone(size: int) -> None:
    with client_socket() as (client, stream):
        client.sendall(b"x" * 10)
        reset_on_close(client)
        client.close()
        asked = inbound("POST", CONTENT_LENGTH=str(size), **{"wsgi.input": stream})
        with pytest.raises(ClientGone):
            drain(request_body(asked, False, aside()))


def test_a_chunked_body_streams_where_mlflow_takes_it_so() -> None:
    body = request_body(chunked_request(b"x" * (2 * PIECE + 1)), streams=True, aside=aside(10))
    assert body.length is None
    assert [len(piece) for piece in body.content or ()] == [PIECE, PIECE, 1]  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, WHOLE, WHOLE + 1, LIMIT])
def test_elsewhere_a_chunked_body_is_put_aside_and_given_its_length(size: int) -> None:
    """Kept in memory, and beyond 256 KiB in a file."""
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    body = request_body(chunked_request(content), streams=False, aside=aside())
    assert (body.length, body.is_whole) == (size, size <= WHOLE)
    assert drain(body) == content


@pytest.mark.parametrize("limit", [0, 1000, LIMIT])
def test_what_is_too_large_to_put_aside_is_refused(limit: int) -> None:
    with pytest.raises(BodyTooLarge, match=f"{limit} bytes .MAX_BUFFERED_BODY"):
        request_body(chunked_request(b"x" * (limit + 1)), streams=False, aside=aside(limit))


@pytest.mark.parametrize("request_of", [sized_request, chunked_request])
def test_a_body_that_is_judged_is_whole_or_refused(request_of: Callable[[bytes], Inbound]) -> None:
    for size in (1, WHOLE + 1, JUDGED):
        body = request_body(request_of(b"x" * size), False, aside(JUDGED), is_judged=True)
        assert body == Body(b"x" * size, size)
        assert body.short == (b"x" if size == 1 else None)
    with pytest.raises(BodyTooLarge, match="Send it in parts"):
        request_body(request_of(b"x" * (JUDGED + 1)), False, aside(2 * JUDGED), is_judged=True)


def test_a_client_that_breaks_its_chunks_off_is_gone() -> None:
    with client_socket() as (client, stream):
        reset_on_close(client)
        client.close()
        asked = inbound("PUT", HTTP_TRANSFER_ENCODING="chunked", **{"wsgi.input": stream})
        with pytest.raises(ClientGone):
            request_body(asked, streams=False, aside=aside())


# --- down ----------------------------------------------------------------------------------------


@pytest.fixture
def mlflow() -> Iterator[Upstream]:
    """MLflow's end of the wire."""
    with Upstream() as server:
        yield server


Download = Callable[..., Iterator[bytes]]


@pytest.fixture
def download(mlflow: Upstream) -> Iterator[Download]:
    """The body of MLflow's next answer, as the client will get it."""
    chosen = settings(mlflow_server_url=mlflow.url, mlflow_read_timeout=0.2)
    forwarder = Forwarder(chosen, Circuit("mlflow", 1000, 60))
    opened = []

    def start(asked: Inbound | None = None) -> Iterator[bytes]:
        asked = asked or inbound()
        answer = forwarder.forward(permit(asked), Body(None, 0))
        opened.append(answer)
        return response_body(answer, body_length(answer, asked.method), asked)

    yield start
    for answer in opened:
        answer.close()
    forwarder._pool.close()


WHOLE_ANSWERS = {
    "sized": (send(sized(b"hello")), b"hello"),
    "empty": (send(sized(b"")), b""),
    "chunked": (send(chunked(b"he", b"l", b"lo")), b"hello"),
    "chunked and empty": (send(chunked()), b""),
    "to the end of the connection": (send(head(200) + b"hello"), b"hello"),
    "compressed, as it is": (
        send(sized(b"\x1f\x8b?", 200, ("Content-Encoding", "gzip"))),
        b"\x1f\x8b?",
    ),
}


@pytest.mark.parametrize("case", WHOLE_ANSWERS)
def test_a_whole_body_comes_through(mlflow: Upstream, download: Download, case: str) -> None:
    step, content = WHOLE_ANSWERS[case]
    mlflow.answers(Answer(step, close()) if "end" in case else Answer(step))
    assert b"".join(download()) == content


BROKEN = {
    "too short": Answer(send(head(200, ("Content-Length", "9")) + b"hello"), close()),
    "nothing of what was announced": Answer(send(head(200, ("Content-Length", "9"))), close()),
    "reset in mid-body": Answer(
        send(head(200, ("Content-Length", "9")) + b"hello"), pause(0.05), reset()
    ),
    "no last chunk": Answer(send(chunked(b"hello", last=False)), close()),
    "half a chunk": Answer(
        send(head(200, ("Transfer-Encoding", "chunked")) + b"9\r\nhello"), close()
    ),
    "a chunk of no size": Answer(
        send(head(200, ("Transfer-Encoding", "chunked")) + b"5\r\nhello\r\nxyz\r\n"), close()
    ),
    "reset between chunks": Answer(send(chunked(b"hello", last=False)), pause(0.05), reset()),
    "silence in mid-body": Answer(send(head(200, ("Content-Length", "9")) + b"hello"), silence()),
    "silence between chunks": Answer(send(chunked(b"hello", last=False)), silence()),
    "reset to the end of the connection": Answer(send(head(200) + b"hello"), pause(0.05), reset()),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_broke_off_is_never_complete(mlflow: Upstream, download: Download, case: str) -> None:
    mlflow.answers(BROKEN[case])
    passed: list[bytes] = []
    with pytest.raises(BrokenTransfer, match=r"MLflow (broke off|ended) after \d+ (of \d+ )?bytes"):
        passed.extend(download())
    assert b"".join(passed) in (b"", b"hello")
    mlflow.wait_for(lambda: mlflow.open_connections == 0, "the end of the connection")


def test_pieces_come_as_they_are_sent(mlflow: Upstream, download: Download) -> None:
    """A server-sent event must not wait for the next one."""
    go_on = threading.Event()
    first, second = b"data: 1\n\n", b"data: 2\n\n"
    mlflow.answers(
        Answer(
            send(head(200, ("Transfer-Encoding", "chunked")) + chunk(first)),
            until(go_on),
            send(chunk(second) + chunk(b"")),
        )
    )
    pieces = download()
    assert next(pieces) == first
    go_on.set()
    assert list(pieces) == [second]


def test_others_have_their_turn_while_tiny_pieces_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are there, so that nothing is waited for."""

    class Tiny:
        left = 1000

        def read1(self, size: int, decode_content: bool) -> bytes:
            self.left -= 1
            return b"x" if self.left >= 0 else b""

        def close(self) -> None:
            pass

    turns: list[int] = []
    tiny: Any = Tiny()
    monkeypatch.setattr(streaming, "yield_to_hub", lambda: turns.append(tiny.left))
    assert len(list(response_body(tiny, None, inbound()))) == 1000
    assert len(turns) >= 10


def test_what_was_read_to_its_end_leaves_its_connection_for_the_next(
    mlflow: Upstream, download: Download
) -> None:
    for step in ("sized", "chunked", "empty", "chunked and empty"):
        mlflow.answers(Answer(WHOLE_ANSWERS[step][0]))
        list(download())
    assert mlflow.connections == 1


def test_a_client_that_hangs_up_ends_the_download(mlflow: Upstream, download: Download) -> None:
    size = 64 * 1024 * 1024
    mlflow.answers(Answer(send(head(200, ("Content-Length", str(size)))), generate(size)))
    pieces = download()
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    mlflow.wait_for(lambda: mlflow.open_connections == 0, "the end of the connection")


def test_memory_stays_constant(mlflow: Upstream, download: Download) -> None:
    size = 32 * 1024 * 1024
    mlflow.answers(Answer(send(head(200, ("Content-Length", str(size)))), generate(size)))
    pieces, passed = download(), 0
    tracemalloc.start()
    try:
        for piece in pieces:
            passed += len(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert passed == size
    assert peak < 16 * PIECE, "the server of the test included"


# --- how long it has to be -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "status", "headers", "length"),
    [
        ("GET", 200, {"Content-Length": "5"}, 5),
        ("GET", 200, {"Content-Length": "0"}, 0),
        ("GET", 206, {"Content-Length": "5"}, 5),
        ("GET", 404, {"Content-Length": "5"}, 5),
        ("GET", 200, {}, None),
        ("GET", 200, {"Transfer-Encoding": "chunked"}, None),
        ("GET", 200, {"Transfer-Encoding": "Chunked"}, None),
        ("HEAD", 200, {"Content-Length": "5"}, None),
        ("GET", 204, {"Content-Length": "5"}, None),
        ("GET", 304, {"Content-Length": "5"}, None),
    ],
)
def test_how_long_a_body_has_to_be(
    method: str, status: int, headers: dict[str, str], length: int | None
) -> None:
    assert body_length(HTTPResponse(status=status, headers=headers), method) == length


@pytest.mark.parametrize(
    "headers",
    [
        {"Transfer-Encoding": "gzip, chunked"},
        {"Transfer-Encoding": "identity"},
        {"Transfer-Encoding": "chunked", "Content-Length": "5"},
        {"Content-Length": "+5"},
        {"Content-Length": "five"},
        {"Content-Length": "²"},
        {"Content-Length": "-1"},
    ],
)
def test_a_framing_that_could_be_read_in_two_ways_is_refused(headers: dict[str, str]) -> None:
    response = HTTPResponse(status=200)
    response.headers.update(headers)
    with pytest.raises(ValueError, match=r"Content-Length|chunked"):
        body_length(response, "GET")


# --- breaking off --------------------------------------------------------------------------------


def test_a_broken_transfer_resets_the_clients_connection() -> None:
    """Without a length, over HTTP/1.0, a plain end would look like the end of the body."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), WAIT_LIMIT) as client,
    ):
        ours, _ = listener.accept()
        with ours:
            ours.sendall(b"half")
            handed_over: dict[str, Any] = {"gunicorn.socket": ours}
            abort_with_reset(inbound(**handed_over))
        with pytest.raises(ConnectionResetError):
            list(iter(lambda: client.recv(100), b""))


def test_it_does_so_where_mlflow_breaks_off(mlflow: Upstream, download: Download) -> None:
    mlflow.answers(BROKEN["too short"])
    ours, theirs = socket.socketpair()
    handed_over: dict[str, Any] = {"gunicorn.socket": ours}
    with ours, theirs:
        with pytest.raises(BrokenTransfer):
            list(download(inbound(**handed_over)))
        lingering = ours.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
        assert lingering[:4] != bytes(4)


def test_another_server_has_no_such_socket() -> None:
    abort_with_reset(inbound())
