"""Bodies arrive as they were sent, and framed as MLflow needs them."""

import contextlib
import os
import threading
from collections.abc import Callable

import pytest

from devstack.proxy import Proxy
from tests.upstreams import (
    OK,
    WAIT_LIMIT,
    Answer,
    Step,
    Upstream,
    chunk,
    close,
    reset,
    send,
    sized,
    until,
)
from tests.wire import Wire, bearer, call, request

ARTIFACT = "/api/2.0/mlflow-artifacts/artifacts/model/weights.bin"
REST = "/api/2.0/mlflow/runs/log-batch"
CHUNKED = "Transfer-Encoding: chunked"

#: tests/pipeline/conftest.py
MAX_BUFFERED_BODY = 100_000

#: Below and above what the proxy reads whole (app/upstream/streaming.py, WHOLE and PIECE).
SIZES = (1, 1000, 64 * 1024, 64 * 1024 + 1, 256 * 1024, 1_000_000)


def in_chunks(body: bytes, size: int = 10_000) -> bytes:
    return b"".join(chunk(body[at : at + size]) for at in range(0, len(body), size)) + b"0\r\n\r\n"


def chunked_request(method: str, path: str, body: bytes, key: str, *more: str) -> bytes:
    return request(method, f"/api/mlflow{path}", bearer(key), CHUNKED, *more, body=in_chunks(body))


# --- with a length -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("method", "path"), [("PUT", ARTIFACT), ("POST", REST)])
def test_a_sized_body_arrives_sized(
    front: Proxy, upstream: Upstream, key: str, method: str, path: str, size: int
) -> None:
    body = os.urandom(size)
    assert call(front.url, method, f"/api/mlflow{path}", bearer(key), body=body).status == 200
    (asked,) = upstream.requests
    assert (asked.body, asked.end) == (body, "whole")
    assert asked.one("Content-Length") == str(size)
    assert asked.all("Transfer-Encoding") == []


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "GET"])
def test_a_body_goes_on_with_every_method(
    front: Proxy, upstream: Upstream, key: str, method: str
) -> None:
    body = b'{"run_id": "1"}'
    content_type = "Content-Type: application/json; charset=utf-8"
    call(front.url, method, f"/api/mlflow{REST}", bearer(key), content_type, body=body)
    (asked,) = upstream.requests
    assert (asked.method, asked.body) == (method.encode(), body)
    assert asked.one("Content-Length") == "15"
    assert asked.one("Content-Type") == "application/json; charset=utf-8"


@pytest.mark.parametrize("fields", [(), ("Content-Length: 0",)], ids=["no length", "length 0"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_no_body_is_a_body_of_no_bytes(
    front: Proxy, upstream: Upstream, key: str, method: str, fields: tuple[str, ...]
) -> None:
    assert call(front.url, method, f"/api/mlflow{REST}", bearer(key), *fields).status == 200
    (asked,) = upstream.requests
    assert (asked.length, asked.end) == (0, "whole")
    assert asked.one("Content-Length") in ("0", None)
    assert asked.all("Transfer-Encoding") == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_read_goes_on_without_any_framing(
    front: Proxy, upstream: Upstream, key: str, method: str
) -> None:
    call(front.url, method, f"/api/mlflow{ARTIFACT}", bearer(key))
    (asked,) = upstream.requests
    assert asked.all("Content-Length") == []
    assert asked.all("Transfer-Encoding") == []


def test_a_content_encoding_is_the_receivers_business(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    body = b"\x1f\x8b not really gzip"
    encoding = "Content-Encoding: gzip"
    call(front.url, "POST", f"/api/mlflow{REST}", bearer(key), encoding, body=body)
    (asked,) = upstream.requests
    assert (asked.body, asked.one("Content-Encoding")) == (body, "gzip")


# --- in chunks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, *SIZES])
def test_a_chunked_artifact_arrives_chunked_and_whole(
    front: Proxy, upstream: Upstream, key: str, size: int
) -> None:
    body = os.urandom(size)
    with Wire(front.url) as wire:
        assert wire.ask(chunked_request("PUT", ARTIFACT, body, key)).status == 200
    (asked,) = upstream.requests
    assert (asked.body, asked.end) == (body, "whole")
    assert asked.one("Transfer-Encoding") == "chunked"
    assert asked.all("Content-Length") == []


@pytest.mark.parametrize("size", [0, 1, 1000, 64 * 1024, 64 * 1024 + 1, MAX_BUFFERED_BODY])
@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_a_chunked_body_of_a_rest_call_arrives_with_its_length(
    front: Proxy, upstream: Upstream, key: str, method: str, size: int
) -> None:
    """MLflow loses a chunked body on all routes but the artifacts'."""
    body = os.urandom(size)
    with Wire(front.url) as wire:
        assert wire.ask(chunked_request(method, REST, body, key)).status == 200
    (asked,) = upstream.requests
    assert (asked.body, asked.end) == (body, "whole")
    assert asked.one("Content-Length") == str(size)
    assert asked.all("Transfer-Encoding") == []


@pytest.mark.parametrize("size", [MAX_BUFFERED_BODY + 1, 2_000_000])
def test_a_chunked_body_over_the_limit_is_413(
    front: Proxy, upstream: Upstream, key: str, size: int
) -> None:
    with Wire(front.url) as wire:
        answer = wire.ask(chunked_request("POST", REST, bytes(size), key))
    assert answer.error == (413, "BAD_REQUEST")
    assert str(MAX_BUFFERED_BODY) in answer.json["message"]
    assert "MAX_BUFFERED_BODY" in answer.json["message"]
    assert upstream.requests == []


def test_chunk_extensions_and_trailers_do_not_go_on(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    body = b"5;name=value\r\nhello\r\n0\r\nX-Checksum: 1\r\n\r\n"
    fields = (bearer(key), CHUNKED, "Trailer: X-Checksum")
    with Wire(front.url) as wire:
        assert wire.ask(request("PUT", f"/api/mlflow{ARTIFACT}", *fields, body=body)).status == 200
    (asked,) = upstream.requests
    assert (asked.body, asked.trailers) == (b"hello", b"")
    assert asked.all("Trailer") == []
    assert asked.all("X-Checksum") == []


def test_the_next_request_begins_where_the_body_ended(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    first = chunked_request("PUT", ARTIFACT, b"x" * 30_000, key)
    second = request("POST", f"/api/mlflow{REST}", bearer(key), body=b"second")
    with Wire(front.url) as wire:
        wire.send(first + second + first)
        assert [wire.read().status for _ in range(3)] == [200, 200, 200]
    assert [asked.length for asked in upstream.requests] == [30_000, 6, 30_000]


# --- framed in a way that could be read as another -----------------------------------------------

AMBIGUOUS: dict[str, tuple[str | bytes, ...]] = {
    "length and chunks": ("Content-Length: 5", CHUNKED),
    "chunks and length": (CHUNKED, "Content-Length: 5"),
    "two lengths": ("Content-Length: 5", "Content-Length: 6"),
    "the same length twice": ("Content-Length: 5", "Content-Length: 5"),
    "a list of lengths": ("Content-Length: 5, 5",),
    "a signed length": ("Content-Length: +5",),
    "a negative length": ("Content-Length: -5",),
    "a length in hexadecimal": ("Content-Length: 0x5",),
    "a length that is no number": ("Content-Length: five",),
    "a superscript as length": (b"Content-Length: \xb2",),
    "chunked twice": ("Transfer-Encoding: chunked, chunked",),
    "chunked in two fields": (CHUNKED, CHUNKED),
    "chunked is not last": ("Transfer-Encoding: chunked, gzip",),
    "another coding alone": ("Transfer-Encoding: gzip",),
    "a blank before the colon": ("Transfer-Encoding : chunked",),
    "a folded field": ("Transfer-Encoding:\r\n chunked",),
    "a NUL in a field": ("Transfer-Encoding: chunked\0",),
    "two hosts": ("Host: a", "Host: b"),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous_framing_is_400(front: Proxy, upstream: Upstream, key: str, name: str) -> None:
    body = b"5\r\nhello\r\n0\r\n\r\nGET /api/mlflow/smuggled HTTP/1.1\r\n\r\n"
    with Wire(front.url) as wire:
        target = f"/api/mlflow{ARTIFACT}"
        answer = wire.ask(request("PUT", target, bearer(key), *AMBIGUOUS[name], body=body))
        assert answer.error == (400, "BAD_REQUEST")
        assert answer.one("Connection") == "close"
        wire.end()
    assert upstream.requests == []


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nContent-Length: 7\r\n\r\n",
    ],
    ids=["no number", "negative", "bare LF", "too long", "length in the trailers"],
)
@pytest.mark.parametrize(("method", "path"), [("PUT", ARTIFACT), ("POST", REST)])
def test_chunks_that_cannot_be_read_are_never_a_whole_body(
    front: Proxy, upstream: Upstream, key: str, method: str, path: str, body: bytes
) -> None:
    with Wire(front.url) as wire:
        answer = wire.ask(request(method, f"/api/mlflow{path}", bearer(key), CHUNKED, body=body))
        assert answer.error == (400, "BAD_REQUEST")
        wire.end()
    upstream.wait_for(lambda: all(asked.end for asked in upstream.requests))
    assert "whole" not in [asked.end for asked in upstream.requests]


# --- Expect: 100-continue ------------------------------------------------------------------------

EXPECT = "Expect: 100-continue"


def test_a_client_that_expects_100_gets_it_and_sends_its_body(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    fields = (bearer(key), EXPECT, "Content-Length: 5")
    with Wire(front.url) as wire:
        wire.send(request("PUT", f"/api/mlflow{ARTIFACT}", *fields))
        assert wire.read_head()[0] == 100
        wire.send(b"hello")
        assert wire.read().status == 200
        assert wire.ask(request("GET", f"/api/mlflow{ARTIFACT}", bearer(key))).status == 200
    assert upstream.requests[0].body == b"hello"
    assert upstream.requests[0].all("Expect") == []


def test_a_client_that_expects_100_may_send_chunks(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    with Wire(front.url) as wire:
        wire.send(request("PUT", f"/api/mlflow{ARTIFACT}", bearer(key), EXPECT, CHUNKED))
        assert wire.read_head()[0] == 100
        wire.send(in_chunks(b"hello"))
        assert wire.read().status == 200
    assert upstream.requests[0].body == b"hello"


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        (ARTIFACT, ("Authorization: Bearer hk_test_unknown",), 401),
        (ARTIFACT, (), 401),
        ("/ajax-api/3.0/mlflow/assistant/message", None, 403),
        (f"{ARTIFACT}/..", None, 400),
    ],
    ids=["a bad key", "no key", "a refused route", "a bad path"],
)
def test_who_is_refused_gets_no_100(
    front: Proxy,
    upstream: Upstream,
    key: str,
    path: str,
    fields: tuple[str, ...] | None,
    status: int,
) -> None:
    fields = (bearer(key),) if fields is None else fields
    method = "POST" if "assistant" in path else "PUT"
    with Wire(front.url) as wire:
        wire.send(request(method, f"/api/mlflow{path}", *fields, EXPECT, "Content-Length: 5"))
        assert wire.read().error[0] == status
        assert wire.end() == "fin", "the body may come after all: the connection must end"
    assert upstream.requests == []


def test_another_expectation_is_417(front: Proxy, upstream: Upstream, key: str) -> None:
    answer = call(front.url, "PUT", f"/api/mlflow{ARTIFACT}", bearer(key), "Expect: a miracle")
    assert answer.error == (417, "BAD_REQUEST")
    assert upstream.requests == []


# --- an answer before the body was read ----------------------------------------------------------


@pytest.mark.parametrize("size", [10, 200_000, 4_000_000])
def test_an_early_answer_reaches_the_client(
    front: Proxy, upstream: Upstream, key: str, size: int
) -> None:
    """MLflow refuses an upload by its head, and then reads or drops the rest."""
    upstream.answers(Answer(send(sized(b"too large", 413)), early=True), OK)
    answer = call(front.url, "PUT", f"/api/mlflow{ARTIFACT}", bearer(key), body=bytes(size))
    assert (answer.status, answer.body, answer.whole) == (413, b"too large", True)


@pytest.mark.parametrize("size", [10, 200_000, 4_000_000])
@pytest.mark.parametrize("end", [close, reset])
def test_an_early_answer_and_a_closed_connection_are_an_answer_or_502(
    front: Proxy, upstream: Upstream, key: str, size: int, end: Callable[[], Step]
) -> None:
    """A reset can overtake the answer; what must not happen is a hang, or a success."""
    upstream.answers(Answer(send(sized(b"too large", 413)), end(), early=True), OK)
    answer = call(front.url, "PUT", f"/api/mlflow{ARTIFACT}", bearer(key), body=bytes(size))
    assert answer.status in (413, 502)
    assert answer.whole
    assert len(upstream.requests) == 1


@pytest.mark.slow
def test_an_early_refusal_ends_an_upload_that_mlflow_does_not_read(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    """It keeps the connection, and takes nothing more: the answer must not wait for that."""
    over = threading.Event()
    upstream.answers(Answer(send(sized(b"too large", 413)), until(over), early=True), OK)
    size = 64 * 1024 * 1024
    sent = request("PUT", f"/api/mlflow{ARTIFACT}", bearer(key), f"Content-Length: {size}")
    with Wire(front.url) as wire:
        wire.send(sent)
        writer = threading.Thread(target=send_what_is_taken, args=(wire, size), daemon=True)
        writer.start()
        answer = wire.read()
    over.set()
    writer.join(WAIT_LIMIT)
    assert (answer.status, answer.body, answer.whole) == (413, b"too large", True)


def send_what_is_taken(wire: Wire, size: int) -> None:
    with contextlib.suppress(OSError):
        for _ in range(size // 65536):
            wire.socket.sendall(bytes(65536))


def test_a_refused_upload_is_answered_while_it_is_still_being_sent(
    front: Proxy, upstream: Upstream
) -> None:
    """401 before the body is there, and the client that goes on sending can read it."""
    body = bytes(3_000_000)
    with Wire(front.url) as wire:
        wire.send(request("PUT", f"/api/mlflow{ARTIFACT}", f"Content-Length: {len(body)}"))
        assert wire.read().error == (401, "UNAUTHENTICATED")
        wire.send(body)
        assert wire.ask(request("GET", "/health")).status == 200
    assert upstream.requests == []


def test_small_pieces_are_put_together(front: Proxy, upstream: Upstream, key: str) -> None:
    """A client that writes byte by byte does not make MLflow read byte by byte."""
    whole = request("POST", f"/api/mlflow{REST}", bearer(key), body=b"0123456789" * 5)
    with Wire(front.url) as wire:
        for at in range(0, len(whole), 7):
            wire.send(whole[at : at + 7])
        assert wire.read().status == 200
    assert upstream.requests[0].body == b"0123456789" * 5
