"""Forwarding: every failure of MLflow, or of the way to it, in our words."""

import contextlib
import inspect
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from urllib3 import exceptions as theirs

from app.request.errors import (
    ClientGone,
    ProxyError,
    UpstreamReset,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.upstream.forwarding import Upstream as Forwarder
from app.upstream.streaming import Body
from tests.app.samples import CREATE, READ
from tests.app.upstream.forwarders import (
    NO_BODY,
    OK,
    QUICK,
    MakeForwarder,
    forward,
    refusing,
    whole,
)
from tests.upstreams import WAIT_LIMIT, Answer, Upstream, close, head, pause, reset, send, silence

LONG_LINE = b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 70_000 + b"\r\n\r\n"
MANY_FIELDS = b"HTTP/1.1 200 OK\r\n" + b"X-Many: 1\r\n" * 200 + b"\r\n"


#: What MLflow does, and what becomes of it: our error, and what it was in urllib3's words.
ANSWERS: dict[str, tuple[Answer, type[ProxyError], type[Exception]]] = {
    "resets at once": (Answer(reset()), UpstreamReset, theirs.ProtocolError),
    "closes at once": (Answer(close()), UpstreamReset, theirs.ProtocolError),
    "is silent": (Answer(silence()), UpstreamTimeout, theirs.ReadTimeoutError),
    "stops in the first line": (
        Answer(send(b"HTTP/1.1 2"), silence()),
        UpstreamTimeout,
        theirs.ReadTimeoutError,
    ),
    "stops in the head": (
        Answer(send(b"HTTP/1.1 200 OK\r\nContent-Le"), silence()),
        UpstreamTimeout,
        theirs.ReadTimeoutError,
    ),
    "closes in the head": (
        Answer(send(b"HTTP/1.1 200 OK\r\nContent-Le"), close()),
        UpstreamReset,
        theirs.ProtocolError,
    ),
    "resets in the head": (
        Answer(send(b"HTTP/1.1 200 OK\r\nContent-Le"), pause(0.02), reset()),
        UpstreamReset,
        theirs.ProtocolError,
    ),
    "speaks SSH": (
        Answer(send(b"SSH-2.0-OpenSSH\r\n"), close()),
        UpstreamReset,
        theirs.ProtocolError,
    ),
    "speaks HTTP/0.9": (Answer(send(b"<html>"), close()), UpstreamReset, theirs.ProtocolError),
    "has a status in words": (
        Answer(send(b"HTTP/1.1 OK 200\r\n\r\n"), close()),
        UpstreamReset,
        theirs.ProtocolError,
    ),
    "sends a line without an end": (
        Answer(send(LONG_LINE), close()),
        UpstreamReset,
        theirs.ProtocolError,
    ),
    "sends too many fields": (
        Answer(send(MANY_FIELDS), close()),
        UpstreamReset,
        theirs.ProtocolError,
    ),
    "tells two lengths": (
        Answer(send(head(200, ("Content-Length", "2"), ("Content-Length", "3")) + b"{}"), close()),
        UpstreamReset,
        theirs.ProtocolError,
    ),
}


@pytest.mark.parametrize("case", ANSWERS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_mlflow_that(
    mlflow: Upstream, make_forwarder: MakeForwarder, method: str, case: str
) -> None:
    answer, ours, cause = ANSWERS[case]
    mlflow.answers_by(lambda asked: OK if asked.target == b"/health" else answer)
    forwarder = make_forwarder(mlflow.url, **QUICK)
    body = whole(b"{}") if method == "POST" else NO_BODY
    began = time.monotonic()
    with pytest.raises(ProxyError) as caught:
        forward(forwarder, method, body=body, route=CREATE if method == "POST" else READ)
    assert (type(caught.value), type(caught.value.__cause__)) == (ours, cause)
    assert time.monotonic() - began < 5
    assert str(mlflow.port) not in caught.value.message
    mlflow.wait_for(lambda: mlflow.open_connections == 0, "the end of the connection")
    mlflow.answers(OK)
    assert forward(forwarder).status == 200, "the pool is as good as before"


@contextlib.contextmanager
def full_port() -> Iterator[str]:
    """A server whose queue is full: nobody gets through, nobody is refused."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def speaking_http_behind_https() -> Iterator[str]:
    def refuse() -> None:
        with listener.accept()[0] as connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=refuse, daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def silent_behind_https() -> Iterator[str]:
    """Connections are kept: reset before the handshake, Python 3.11 leaves one open."""
    accepted: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted.append(listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in accepted:
        connection.close()


#: Addresses at which nothing can be sent, and what urllib3 says of them.
ADDRESSES: dict[str, tuple[Any, type[Exception]]] = {
    "refuses": (refusing, theirs.NewConnectionError),
    "does not take the connection": (full_port, theirs.ConnectTimeoutError),
    "speaks no TLS": (speaking_http_behind_https, theirs.NewConnectionError),
    "has a name that nobody knows": (  # too long to ask a name server about
        lambda: contextlib.nullcontext(f"http://{'.'.join(['a' * 60] * 5)}:5000"),
        theirs.NameResolutionError,
    ),
    "has a name that cannot be": (
        lambda: contextlib.nullcontext(f"http://{'a' * 64}.internal:5000"),
        theirs.NameResolutionError,
    ),
}


@pytest.mark.parametrize("case", ADDRESSES)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_address_that(make_forwarder: MakeForwarder, method: str, case: str) -> None:
    address, cause = ADDRESSES[case]
    with address() as url, pytest.raises(UpstreamUnreachable, match="Nothing was sent") as caught:
        forward(make_forwarder(url, **QUICK), method, body=whole(b"{}"))
    assert type(caught.value.__cause__) is cause
    assert "127.0.0.1" not in caught.value.message


def test_silence_in_the_tls_handshake_is_slowness(make_forwarder: MakeForwarder) -> None:
    """A busy MLflow accepts, too: only its /health tells whether it is gone."""
    with silent_behind_https() as url:
        forwarder = make_forwarder(url, fail_max=1, health_timeout=WAIT_LIMIT, **QUICK)
        with pytest.raises(UpstreamTimeout, match="Nothing was sent"):
            forward(forwarder, "POST", body=whole(b"{}"))
        assert forwarder.circuit.state == "closed"


#: Of urllib3's exceptions, those that cannot come out of a request here.
CANNOT_HAPPEN = {
    "HTTPError": "a base class",
    "PoolError": "a base class",
    "RequestError": "a base class",
    "TimeoutError": "a base class",
    "LocationValueError": "a base class",
    "SSLError": "a handshake that fails is a failed connection: see 'speaks no TLS'",
    "LocationParseError": "a name is judged by its look-up: see 'has a name that cannot be'",
    "InvalidHeader": "a head is judged before: see 'tells two lengths'",
    "ProxyError": "there is no proxy between",
    "ProxySchemeUnknown": "there is no proxy between",
    "ProxySchemeUnsupported": "there is no proxy between",
    "MaxRetryError": "retries are ours",
    "ResponseError": "retries are ours",
    "UnrewindableBodyError": "retries are ours",
    "HostChangedError": "redirects are not followed",
    "URLSchemeUnknown": "the pool is of one scheme",
    "EmptyPoolError": "the pool does not block",
    "FullPoolError": "the pool does not block",
    "ClosedPoolError": "the pool is never closed",
    "TimeoutStateError": "each request has time-outs of its own",
    "HeaderParsingError": "only logged",
    "DecodeError": "nothing is decoded",
    "ResponseNotChunked": "of a method that is not called",
    "BodyNotHttplibCompatible": "of a method that is not called",
    "IncompleteRead": "in the body: test_streaming.py",
    "InvalidChunkLength": "in the body: test_streaming.py",
}


def test_no_exception_of_urllib3_is_left_out() -> None:
    """An upgrade that brings a new one makes somebody think about it."""
    known = {
        name
        for name, kind in inspect.getmembers(theirs, inspect.isclass)
        if issubclass(kind, Exception)
        and not issubclass(kind, Warning)
        and kind.__module__ == theirs.__name__
    }
    provoked = {cause.__name__ for _, _, cause in ANSWERS.values()}
    provoked |= {cause.__name__ for _, cause in ADDRESSES.values()}
    assert provoked | set(CANNOT_HAPPEN) == known - {"ConnectionError"}
    assert not provoked & set(CANNOT_HAPPEN)


def test_what_the_client_did_is_not_mlflows_fault(mlflow: Upstream, forwarder: Forwarder) -> None:
    def body() -> Iterator[bytes]:
        yield b"abc"
        raise ClientGone("4 of 7 bytes did not come")

    with pytest.raises(ClientGone):
        forward(forwarder, "PUT", body=Body(body(), 7))
    mlflow.wait_for(lambda: bool(mlflow.requests and mlflow.requests[0].end), "the end of it")
    assert mlflow.requests[0].end in ("fin", "rst")
    assert forward(forwarder).status == 200
