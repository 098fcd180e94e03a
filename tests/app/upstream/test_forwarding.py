"""Forwarding: what goes out byte for byte, what is tried again, and every failure in our words."""

import contextlib
import inspect
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import urllib3
from urllib3 import exceptions as theirs

from app.request.errors import (
    CircuitOpen,
    ClientGone,
    ProxyError,
    UpstreamOverloaded,
    UpstreamRefusal,
    UpstreamReset,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.request.route_table import Route
from app.upstream.circuit import Circuit
from app.upstream.forwarding import Upstream as Forwarder
from app.upstream.names import NAMES
from app.upstream.streaming import Body
from devstack.environments import ROOT
from tests.app.samples import CREATE, READ, TRANSFER, inbound, permit, settings
from tests.upstreams import (
    WAIT_LIMIT,
    Answer,
    Upstream,
    chunked,
    close,
    eventually,
    head,
    pause,
    pieces_of,
    refused_port,
    reset,
    send,
    silence,
    sized,
)

NO_BODY = Body(None, 0)
OK = Answer(send(sized(b"{}")))

MakeForwarder = Callable[..., Forwarder]


@pytest.fixture
def mlflow() -> Iterator[Upstream]:
    """MLflow's end of the wire."""
    with Upstream() as server:
        yield server


@pytest.fixture
def make_forwarder() -> Iterator[MakeForwarder]:
    """`make_forwarder(url, **settings)`; it does not try again unless told to."""
    made = []

    def make(
        url: str, fail_max: int = 1000, reset_timeout: float = 60, **changes: Any
    ) -> Forwarder:
        chosen = settings(**{"mlflow_server_url": url, "mlflow_retry_deadline": 0.0} | changes)
        made.append(Forwarder(chosen, Circuit("mlflow", fail_max, reset_timeout)))
        return made[-1]

    yield make
    for forwarder in made:
        forwarder._pool.close()


@pytest.fixture
def forwarder(mlflow: Upstream, make_forwarder: MakeForwarder) -> Forwarder:
    return make_forwarder(mlflow.url)


def forward(
    forwarder: Forwarder,
    method: str = "GET",
    target: str = "/mlflow/version",
    body: Body = NO_BODY,
    route: Route | None = READ,
    **variables: str,
) -> urllib3.BaseHTTPResponse:
    """Forwards a request and reads the answer to its end."""
    answer = forwarder.forward(permit(inbound(method, target, **variables), route=route), body)
    try:
        _ = answer.data
    finally:
        answer.close()
    return answer


def whole(content: bytes) -> Body:
    return Body(content, len(content))


# --- what goes out -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/version",
        "/a%2fb%2Fc",
        "/a;b=c@d~e!$&'()*",
        "/a?b=%2f&b=%2F&c",
        "/%61?a={b}|^`",
        "/a%3Fb",
    ],
)
@pytest.mark.parametrize("base", ["", "/base"])
def test_the_target_goes_out_byte_for_byte(
    mlflow: Upstream, make_forwarder: MakeForwarder, base: str, target: str
) -> None:
    forward(make_forwarder(mlflow.url + base), target=f"/mlflow{target}")
    assert mlflow.requests[0].target == (base + target).encode()


def test_what_goes_out_for_a_get(mlflow: Upstream, forwarder: Forwarder) -> None:
    """No User-Agent of the library's own; and who asks for no encoding gets none."""
    forward(forwarder)
    (asked,) = mlflow.requests
    assert asked.line == b"GET /version HTTP/1.1"
    assert asked.one("Accept-Encoding") == "identity"
    assert sorted(name for name, _ in asked.headers) == [
        "Accept-Encoding",
        "Host",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Prefix",
        "X-Forwarded-Proto",
        "X-Hokusai-Hop",
        "X-Hokusai-Key-Id",
        "X-Hokusai-Service-Id",
        "X-Hokusai-User-Id",
        "X-Request-ID",
    ]
    assert asked.one("Host") == f"127.0.0.1:{mlflow.port}"


def test_the_clients_user_agent_goes_on(mlflow: Upstream, forwarder: Forwarder) -> None:
    forward(forwarder, HTTP_USER_AGENT="mlflow-python-client/3.17.2")
    assert mlflow.requests[0].one("User-Agent") == "mlflow-python-client/3.17.2"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
def test_a_whole_body_goes_out_with_its_length(
    mlflow: Upstream, forwarder: Forwarder, method: str
) -> None:
    forward(forwarder, method, body=whole(b'{"a": 1}'))
    (asked,) = mlflow.requests
    assert (asked.body, asked.end) == (b'{"a": 1}', "whole")
    assert asked.one("Content-Length") == "8"
    assert asked.all("Transfer-Encoding") == []


def test_a_long_body_goes_out_in_pieces_with_its_length(
    mlflow: Upstream, forwarder: Forwarder
) -> None:
    forward(forwarder, "PUT", body=Body(iter([b"abc", b"", b"defg"]), 7))
    (asked,) = mlflow.requests
    assert asked.body == b"abcdefg"
    assert asked.one("Content-Length") == "7"
    assert asked.all("Transfer-Encoding") == []


def test_a_chunked_body_stays_chunked(mlflow: Upstream, forwarder: Forwarder) -> None:
    forward(forwarder, "PUT", body=Body(iter([b"abc", b"defg"]), None), route=TRANSFER)
    (asked,) = mlflow.requests
    assert (asked.body, asked.end) == (b"abcdefg", "whole")
    assert asked.one("Transfer-Encoding") == "chunked"
    assert asked.all("Content-Length") == []


@pytest.mark.parametrize(
    ("own", "shown"),
    [
        ({}, []),
        ({"mlflow_upstream_token": "t0ken"}, ["Bearer t0ken"]),
        (
            {"mlflow_upstream_username": "ann", "mlflow_upstream_password": "p:w"},
            ["Basic YW5uOnA6dw=="],
        ),
    ],
    ids=["nothing", "a token", "a password"],
)
def test_what_mlflow_is_shown(
    mlflow: Upstream, make_forwarder: MakeForwarder, own: dict[str, str], shown: list[str]
) -> None:
    forwarder = make_forwarder(mlflow.url, **own)
    forward(forwarder, HTTP_AUTHORIZATION="Bearer hk_test_client")
    forwarder.ask("/health", 1.0)
    assert [asked.all("Authorization") for asked in mlflow.requests] == [shown, shown]


@pytest.mark.parametrize("status", [200, 201, 206, 304, 307, 400, 403, 404, 429, 500, 501, 503])
def test_mlflows_own_answer_comes_back_as_it_is(
    mlflow: Upstream, forwarder: Forwarder, status: int
) -> None:
    """Redirects are not followed, errors not tried again, and nothing is decoded."""
    body = b"" if status == 304 else b"not gzip"
    fields = (
        ("Location", "/elsewhere"),
        ("Content-Encoding", "gzip"),
        ("Content-Type", "application/json"),
    )
    mlflow.answers(Answer(send(sized(body, status, *fields))))
    answer = forwarder.forward(permit(), NO_BODY)
    assert (answer.status, answer.read(decode_content=False)) == (status, body)
    assert len(mlflow.requests) == 1
    answer.close()


# --- connections ---------------------------------------------------------------------------------


def test_a_connection_is_reused(mlflow: Upstream, forwarder: Forwarder) -> None:
    for method in ("GET", "POST", "GET", "HEAD", "GET"):
        forward(forwarder, method, body=whole(b"a") if method == "POST" else NO_BODY)
    assert mlflow.connections == 1


def test_an_idle_connection_is_not_reused_for_longer_than_mlflow_keeps_it(
    mlflow: Upstream, make_forwarder: MakeForwarder
) -> None:
    forwarder = make_forwarder(mlflow.url, mlflow_keepalive=0.1)
    for _ in range(2):
        forward(forwarder)
    assert mlflow.connections == 1
    time.sleep(0.15)
    forward(forwarder)
    assert mlflow.connections == 2


def test_a_connection_that_mlflow_closed_meanwhile_is_not_used(
    mlflow: Upstream, forwarder: Forwarder
) -> None:
    forward(forwarder)
    mlflow.drop_connections()
    mlflow.wait_for(lambda: mlflow.open_connections == 0)
    forward(forwarder, "POST", body=whole(b"a"))
    assert [asked.connection for asked in mlflow.requests] == [1, 2]


def test_an_answer_that_is_not_read_to_its_end_ends_its_connection(
    mlflow: Upstream, forwarder: Forwarder
) -> None:
    mlflow.answers(Answer(send(sized(b"x" * 1000))), OK)
    answer = forwarder.forward(permit(), NO_BODY)
    answer.read1(10)
    answer.close()
    mlflow.wait_for(lambda: mlflow.open_connections == 0)
    assert forward(forwarder).data == b"{}"


def test_an_upload_is_not_bounded_by_the_connect_time_out(
    mlflow: Upstream, make_forwarder: MakeForwarder
) -> None:
    mlflow.answers(Answer(pause(0.2), send(sized(b"{}")), early=True))
    forwarder = make_forwarder(mlflow.url, mlflow_connect_timeout=0.1)
    size = 8 * 1024 * 1024
    for _ in range(2):  # on a new connection, and on a reused one
        forward(forwarder, "PUT", body=Body(pieces_of(size), size), route=TRANSFER)
        mlflow.wait_for(lambda: mlflow.requests[-1].end is not None, "the end of the upload")
    assert [asked.length for asked in mlflow.requests] == [size, size]
    assert mlflow.connections == 1


# --- failures in our words -----------------------------------------------------------------------

QUICK = {
    "mlflow_connect_timeout": 0.1,
    "mlflow_read_timeout": 0.1,
    "mlflow_artifact_read_timeout": 0.2,
    "mlflow_artifact_copy_timeout": 0.2,
}
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
def refusing() -> Iterator[str]:
    with refused_port() as port:
        yield f"http://127.0.0.1:{port}"


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
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"


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


def test_an_mlflow_that_takes_no_more_of_an_upload(
    mlflow: Upstream, make_forwarder: MakeForwarder
) -> None:
    mlflow.answers(Answer(pause(20), early=True))
    size = 64 * 1024 * 1024
    forwarder = make_forwarder(mlflow.url, **QUICK)
    with pytest.raises(UpstreamTimeout):
        forward(forwarder, "PUT", body=Body(pieces_of(size), size), route=TRANSFER)


#: Takes the loopback interface down, in a network namespace of its own, and asks then.
VANISHING = """
import fcntl, socket, struct, time
from app.request.errors import UpstreamReset
from app.upstream.circuit import Circuit
from app.upstream.forwarding import Upstream
from app.upstream.names import NAMES
from app.upstream.streaming import Body
from tests.app.samples import TRANSFER, inbound, permit, settings
from tests.upstreams import Upstream as Fake

def loopback(is_up):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any:
        name = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(any, 0x8913, name)[:18])[1]  # SIOCGIFFLAGS
        fcntl.ioctl(any, 0x8914, struct.pack("16sh14x", b"lo", flags & ~1 | is_up))

loopback(True)
fake = Fake().__enter__()
limits = {"mlflow_artifact_read_timeout": 1.0, "mlflow_artifact_copy_timeout": 40.0,
          "mlflow_retry_deadline": 0.0}
forwarder = Upstream(settings(mlflow_server_url=fake.url, **limits), Circuit("mlflow", 5, 60))
ask = lambda: forwarder.forward(permit(inbound("GET", "/mlflow/x"), route=TRANSFER), Body(None, 0))
upload = permit(inbound("PUT", "/mlflow/x"), route=TRANSFER)
forwarder.forward(upload, Body(iter([b"x"]), 1)).data  # the same connection, with other limits
print(ask().data, fake.connections)
loopback(False)
began = time.monotonic()
try:
    ask()
except UpstreamReset as why:
    print(type(why.__cause__.args[-1]).__name__, time.monotonic() - began < 30, flush=True)
import os; os._exit(0)
"""


@pytest.mark.slow
def test_an_mlflow_whose_host_is_gone_holds_no_request_for_a_whole_copy() -> None:
    """Nobody acknowledges the request, so nothing of the keep-alive is sent."""
    alone = ["unshare", "--net"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("no network namespace may be made here")
    command = [*alone, sys.executable, "-c", VANISHING]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.stdout.splitlines() == ["b'{}' 1", "ConnectionAbortedError True"], done.stderr


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


# --- once more -----------------------------------------------------------------------------------


def reset_then_ok(mlflow: Upstream, resets: int = 1) -> None:
    mlflow.answers(*[Answer(reset())] * resets, OK)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_read_that_met_a_reset_goes_once_more(
    mlflow: Upstream, make_forwarder: MakeForwarder, method: str
) -> None:
    reset_then_ok(mlflow)
    answer = forward(make_forwarder(mlflow.url, mlflow_retry_deadline=5.0), method)
    assert answer.status == 200
    assert len(mlflow.requests) == 2


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("content", [b"", b"{}"])
def test_what_may_have_been_carried_out_never_does(
    mlflow: Upstream, make_forwarder: MakeForwarder, method: str, content: bytes
) -> None:
    reset_then_ok(mlflow)
    with pytest.raises(UpstreamReset):
        forward(make_forwarder(mlflow.url, mlflow_retry_deadline=5.0), method, body=whole(content))
    assert len(mlflow.requests) == 1


def test_a_read_that_timed_out_does_not_go_once_more(
    mlflow: Upstream, make_forwarder: MakeForwarder
) -> None:
    mlflow.answers(Answer(silence()), OK)
    with pytest.raises(UpstreamTimeout):
        forward(make_forwarder(mlflow.url, mlflow_retry_deadline=5.0, mlflow_read_timeout=0.1))
    assert asked_for(mlflow, b"/version") == 1


def test_an_end_to_trying(mlflow: Upstream, make_forwarder: MakeForwarder) -> None:
    mlflow.answers(Answer(reset()))
    with pytest.raises(UpstreamReset):
        forward(make_forwarder(mlflow.url, mlflow_retry_deadline=5.0))
    assert len(mlflow.requests) == 3


@pytest.mark.parametrize(
    "make_body", [lambda: whole(b"{}"), lambda: Body(iter([b"{}"]), 2)], ids=["whole", "in pieces"]
)
def test_what_was_not_sent_is_tried_until_the_deadline(
    make_forwarder: MakeForwarder, make_body: Callable[[], Body]
) -> None:
    with refused_port() as port:
        forwarder = make_forwarder(f"http://127.0.0.1:{port}", mlflow_retry_deadline=0.2)
        began = time.monotonic()
        with pytest.raises(UpstreamUnreachable):
            forward(forwarder, "POST", body=make_body())
        assert count_connects(forwarder)() > 1
        assert 0.1 < time.monotonic() - began < 3


def test_an_mlflow_that_starts_meanwhile_gets_the_whole_body(make_forwarder: MakeForwarder) -> None:
    received = b""

    def start_in_a_moment() -> None:
        nonlocal received
        time.sleep(0.1)
        listener.listen()
        connection, _ = listener.accept()
        with connection:
            while not received.endswith(b"abcdef"):
                received += connection.recv(4096)
            connection.sendall(sized(b"{}"))

    with socket.socket() as listener, ThreadPoolExecutor(1) as threads:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = threads.submit(start_in_a_moment)
        forwarder = make_forwarder(f"http://127.0.0.1:{port}", mlflow_retry_deadline=5.0)
        body = Body(iter([b"abc", b"def"]), 6)
        assert forward(forwarder, "POST", body=body).status == 200
        server.result(WAIT_LIMIT)
    assert received.startswith(b"POST /version HTTP/1.1\r\n")


def asked_for(mlflow: Upstream, target: bytes) -> int:
    return [asked.target for asked in mlflow.requests].count(target)


def count_connects(forwarder: Forwarder) -> Callable[[], int]:
    return lambda: int(forwarder._pool.num_requests)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_the_error_page_of_something_in_between_is_asked_past(
    mlflow: Upstream, make_forwarder: MakeForwarder, status: int
) -> None:
    page = Answer(send(sized(b"<html>", status, ("Content-Type", "text/html"))))
    mlflow.answers(page, OK)
    forwarder = make_forwarder(mlflow.url, mlflow_retry_deadline=5.0)
    assert forward(forwarder).status == 200
    mlflow.answers(page, OK)
    assert forward(forwarder, "POST", body=whole(b"{}")).status == status


# --- answers that are not for the caller ---------------------------------------------------------

TEXT = ("Content-Type", "text/html; charset=utf-8")
POOL = (
    b'{"error_code": "BAD_REQUEST", "message": "QueuePool limit of size 5 overflow 10 reached, '
    b'connection timed out, timeout 30.00"}'
)


@pytest.mark.parametrize("framed", [sized, chunked])
@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"You are not authenticated.", "MLFLOW_UPSTREAM_TOKEN"),
        (403, b"Permission denied", "MLFLOW_UPSTREAM_USERNAME"),
        (403, b"Invalid Host header - possible DNS rebinding", "--allowed-hosts"),
    ],
)
def test_a_refusal_of_the_proxy_is_not_one_of_the_callers_key(
    mlflow: Upstream,
    forwarder: Forwarder,
    framed: Callable[..., bytes],
    status: int,
    body: bytes,
    said: str,
) -> None:
    mlflow.answers(Answer(send(framed(body, status=status))))
    with pytest.raises(UpstreamRefusal, match=said) as caught:
        forward(forwarder, "POST", body=whole(b"{}"))
    assert "WWW-Authenticate" not in caught.value.headers


def test_what_s3_says_of_mlflows_own_key_is_not_about_the_proxys(
    mlflow: Upstream, forwarder: Forwarder
) -> None:
    body = b'{"error_code": "UNAUTHENTICATED", "message": "Failed to list artifacts in s3://b: no"}'
    mlflow.answers(Answer(send(sized(body, 401))))
    answer = forward(forwarder, "GET", route=TRANSFER)
    assert (answer.status, answer.data) == (401, body)
    with pytest.raises(UpstreamRefusal):
        forward(forwarder, "GET", route=READ)


@pytest.mark.parametrize(("method", "route"), [("GET", READ), ("POST", CREATE)])
def test_a_full_pool_of_mlflows_may_be_repeated(
    mlflow: Upstream, forwarder: Forwarder, method: str, route: Route
) -> None:
    mlflow.answers(Answer(send(sized(POOL, 400, ("Content-Type", "application/json")))))
    with pytest.raises(UpstreamOverloaded, match="Nothing was done") as caught:
        forward(forwarder, method, route=route)
    assert caught.value.headers == {"Retry-After": "5"}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_read_that_found_a_full_pool_is_sent_again(
    mlflow: Upstream, make_forwarder: MakeForwarder, method: str
) -> None:
    """A search is a POST that reads. MLflow's own wait does not use up the retry deadline."""
    mlflow.answers(Answer(pause(0.5), send(sized(POOL, 400))), OK)
    forwarder = make_forwarder(mlflow.url, mlflow_retry_deadline=0.3)
    body = whole(b"{}") if method == "POST" else NO_BODY
    assert forward(forwarder, method, route=READ, body=body).status == 200
    assert len(mlflow.requests) == 2


def test_a_full_pool_bounds_the_writes_that_follow(mlflow: Upstream, forwarder: Forwarder) -> None:
    """One write is sent once: it may have done a part. The bound is that of the instance."""
    mlflow.answers(Answer(send(sized(POOL, 400))), OK)
    with pytest.raises(UpstreamOverloaded):
        forward(forwarder, "POST", route=CREATE)
    assert len(mlflow.requests) == 1
    assert forwarder._writes.bound is not None
    assert forward(forwarder, "POST", route=CREATE).status == 200
    assert not forwarder._writes._running


@pytest.mark.parametrize("pieces", [sized(POOL, 400), chunked(POOL[:40], POOL[40:], status=400)])
def test_a_full_pool_is_known_though_its_words_come_in_pieces(
    mlflow: Upstream, forwarder: Forwarder, pieces: bytes
) -> None:
    middle = pieces.index(POOL[:40]) + 40
    mlflow.answers(Answer(send(pieces[:middle]), pause(0.2), send(pieces[middle:])))
    with pytest.raises(UpstreamOverloaded, match="Nothing was done"):
        forward(forwarder, "GET", route=READ)


@pytest.mark.slow
def test_a_refusal_that_stops_in_its_body_is_a_time_out_and_not_repeated(
    mlflow: Upstream, forwarder: Forwarder
) -> None:
    """As a break it would be asked three times, and each waits for the whole time limit."""
    mlflow.answers(Answer(send(sized(POOL, 400)[:-5]), silence()))
    with pytest.raises(UpstreamTimeout, match="then stalled"):
        forward(forwarder, "GET", route=READ)
    assert len(mlflow.requests) == 1


def test_a_full_pool_in_the_middle_of_several_steps_is_mlflows_own_answer(
    mlflow: Upstream, forwarder: Forwarder
) -> None:
    """A model version that is there already must not be made once more."""
    mlflow.answers(Answer(send(sized(POOL, 400))))
    answer = forward(forwarder, "POST", route=replace(CREATE, partial=True))
    assert (answer.status, answer.data) == (400, POOL)


@pytest.mark.parametrize("framed", [sized, chunked])
@pytest.mark.parametrize("status", [400, 403, 503])
@pytest.mark.parametrize("size", [0, 10, 100_000])
def test_an_answer_that_was_looked_at_comes_back_whole(
    mlflow: Upstream, forwarder: Forwarder, framed: Callable[..., bytes], status: int, size: int
) -> None:
    body = bytes(n % 251 for n in range(size))
    pieces = [body] if size or framed is sized else []
    mlflow.answers(Answer(send(framed(*pieces, status=status))))
    for _ in range(2):
        answer = forwarder.forward(permit(inbound("POST", "/mlflow/version")), NO_BODY)
        read = b"".join(iter(lambda: answer.read1(7000, decode_content=False), b""))  # noqa: B023
        answer.close()
        assert (answer.status, read) == (status, body)
    assert mlflow.connections == 1, "and its connection is used again"


def test_an_answer_that_breaks_off_while_it_is_looked_at(
    mlflow: Upstream, forwarder: Forwarder
) -> None:
    mlflow.answers(Answer(send(head(403, ("Content-Length", "17"))), close()))
    with pytest.raises(UpstreamReset):
        forward(forwarder, "POST", body=whole(b"{}"))


def test_mlflows_own_page_is_not_asked_past(
    mlflow: Upstream, make_forwarder: MakeForwarder
) -> None:
    page = b"Endpoint: /x disabled due to the mlflow server running in `--artifacts-only` mode."
    mlflow.answers(Answer(send(sized(page, 503, TEXT))), OK)
    answer = forward(make_forwarder(mlflow.url, mlflow_retry_deadline=5.0))
    assert (answer.status, answer.data, len(mlflow.requests)) == (503, page, 1)


# --- time-outs -----------------------------------------------------------------------------------


SLOW = replace(READ, is_slow=True)
MODEL = replace(READ, asks_model=True)


@pytest.mark.parametrize(
    ("route", "limit"),
    [(READ, 0.05), (None, 0.05), (SLOW, 0.15), (TRANSFER, 0.25), (MODEL, 0.35)],
)
def test_what_a_route_does_decides_how_long_it_may_take(
    mlflow: Upstream, make_forwarder: MakeForwarder, route: Route | None, limit: float
) -> None:
    mlflow.answers(Answer(silence()))
    forwarder = make_forwarder(
        mlflow.url,
        mlflow_read_timeout=0.05,
        mlflow_artifact_read_timeout=0.15,
        mlflow_artifact_copy_timeout=0.25,
        mlflow_gateway_read_timeout=0.35,
    )
    began = time.monotonic()
    with pytest.raises(UpstreamTimeout, match=f"{limit:g} s"):
        forward(forwarder, route=route)
    assert limit <= time.monotonic() - began < limit + 2


def test_mlflow_may_copy_before_it_answers_but_not_pause_in_the_answer(
    mlflow: Upstream, make_forwarder: MakeForwarder
) -> None:
    waits = Answer(pause(0.3), send(head(200, ("Content-Length", "2"))), send(b"x"), silence())
    mlflow.answers(waits)
    forwarder = make_forwarder(
        mlflow.url,
        mlflow_read_timeout=0.1,
        mlflow_artifact_read_timeout=0.1,
        mlflow_artifact_copy_timeout=60,
    )
    answer = forwarder.forward(permit(route=TRANSFER), NO_BODY)
    assert answer.status == 200
    began = time.monotonic()
    with pytest.raises(theirs.ReadTimeoutError):
        answer.read()
    assert time.monotonic() - began < 20
    answer.close()


# --- the circuit ---------------------------------------------------------------------------------


def test_an_unreachable_mlflow_opens_the_circuit(make_forwarder: MakeForwarder) -> None:
    with refused_port() as port:
        forwarder = make_forwarder(f"http://127.0.0.1:{port}", fail_max=2)
        attempts = count_connects(forwarder)
        for _ in range(2):
            with pytest.raises(UpstreamUnreachable):
                forward(forwarder)
        with pytest.raises(CircuitOpen, match="Nothing was sent") as caught:
            forward(forwarder)
        assert attempts() == 2
    assert 1 <= int(str(caught.value.headers["Retry-After"])) <= 60


def test_of_two_addresses_the_one_that_hangs_gives_way(
    mlflow: Upstream, make_forwarder: MakeForwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two MLflows under one name: the first accepts connections, and never answers."""
    both = [(socket.AF_INET, ("127.0.0.2",)), (socket.AF_INET, ("127.0.0.1",))]
    monkeypatch.setattr(NAMES, "addresses", lambda host, timeout: both)
    with socket.create_server(("127.0.0.2", mlflow.port)):
        forwarder = make_forwarder(
            f"http://two.test:{mlflow.port}", mlflow_read_timeout=0.3, health_timeout=0.2
        )
        with pytest.raises(UpstreamTimeout):
            forward(forwarder)
        eventually(lambda: asked_for(mlflow, b"/health"), "the question to the other")
        assert forward(forwarder).status == 200
        assert forwarder.circuit.state == "closed"


def test_a_silent_mlflow_opens_the_circuit(mlflow: Upstream, make_forwarder: MakeForwarder) -> None:
    mlflow.answers(Answer(silence()))
    forwarder = make_forwarder(mlflow.url, mlflow_read_timeout=0.1, health_timeout=0.1)
    with pytest.raises(UpstreamTimeout):
        forward(forwarder)
    eventually(lambda: forwarder.circuit.state == "open", "the circuit's opening")
    with pytest.raises(CircuitOpen):
        forward(forwarder)
    assert [asked.target for asked in mlflow.requests] == [b"/version", b"/health", b"/health"]


@pytest.mark.parametrize("route", [READ, TRANSFER])
def test_a_slow_mlflow_does_not(
    mlflow: Upstream, make_forwarder: MakeForwarder, route: Route
) -> None:
    mlflow.answers_by(lambda asked: OK if asked.target == b"/health" else Answer(silence()))
    forwarder = make_forwarder(mlflow.url, **QUICK, fail_max=1)
    for _ in range(3):
        with pytest.raises(UpstreamTimeout):
            forward(forwarder, route=route)
        mlflow.wait_for(lambda: asked_for(mlflow, b"/health") > 0, "the question")
    assert forwarder.circuit.state == "closed"


def test_an_open_circuit_asks_health_and_lets_no_request_probe(
    mlflow: Upstream, make_forwarder: MakeForwarder
) -> None:
    """A caller's slow search, upload or create would decide for everybody, or be lost."""
    forwarder = make_forwarder(mlflow.url, reset_timeout=0.05, health_timeout=0.2)
    mlflow.answers(Answer(silence()))
    forwarder.circuit.trip()
    time.sleep(0.06)
    with pytest.raises(CircuitOpen):
        forward(forwarder, "POST", body=whole(b"{}"))
    assert [asked.target for asked in mlflow.requests] == [b"/health"]
    time.sleep(0.06)
    mlflow.answers(Answer(reset()))
    with pytest.raises(CircuitOpen):
        forward(forwarder)
    assert forwarder.circuit.state == "half-open", "a connection that breaks says nothing"
    mlflow.answers(OK)
    assert forward(forwarder).status == 200
    assert forwarder.circuit.state == "closed"


@pytest.mark.parametrize("status", [400, 404, 500, 501, 503])
def test_what_mlflow_says_does_not(
    mlflow: Upstream, make_forwarder: MakeForwarder, status: int
) -> None:
    """Its errors are often the caller's doing."""
    mlflow.answers(Answer(send(sized(b"{}", status, ("Content-Type", "application/json")))))
    forwarder = make_forwarder(mlflow.url, fail_max=1)
    for _ in range(3):
        assert forward(forwarder).status == status


def test_a_client_that_hangs_up_does_not(mlflow: Upstream, make_forwarder: MakeForwarder) -> None:
    def body() -> Iterator[bytes]:
        raise ClientGone("7 of 7 bytes did not come")
        yield b""

    forwarder = make_forwarder(mlflow.url, fail_max=1)
    for _ in range(3):
        with pytest.raises(ClientGone):
            forward(forwarder, "PUT", body=Body(body(), 7))
    assert forward(forwarder).status == 200


def test_health_asks_past_an_open_circuit(mlflow: Upstream, make_forwarder: MakeForwarder) -> None:
    forwarder = make_forwarder(mlflow.url)
    forwarder.circuit.trip()
    assert forwarder.ask("/health", 1.0).data == b"{}"
    with pytest.raises(CircuitOpen):
        forward(forwarder)


# --- nothing else on the way ---------------------------------------------------------------------


def test_neither_netrc_nor_proxy_variables_nor_cookies_have_a_say(
    mlflow: Upstream, forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ann password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    mlflow.answers(Answer(send(sized(b"{}", 200, ("Set-Cookie", "session=ann; Path=/")))))
    with refused_port() as port:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        for _ in range(2):
            forward(forwarder)
    for asked in mlflow.requests:
        assert asked.all("Cookie") == asked.all("Authorization") == []
