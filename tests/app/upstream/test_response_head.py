"""Heads of answers: the unusual but valid passes, the endless is ended, in bytes and in time."""

import shutil
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from app.request.errors import (
    ClientGone,
    ProxyError,
    UpstreamReset,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.upstream.circuit import Circuit
from app.upstream.forwarding import Upstream as Forwarder
from app.upstream.response_head import MAX_INTERIM
from app.upstream.streaming import Body, body_length
from tests.app.samples import READ, TRANSFER, inbound, permit, settings
from tests.drills.redis_topologies import make_certificates
from tests.upstreams import (
    WAIT_LIMIT,
    Answer,
    Exchange,
    Step,
    Upstream,
    chunk,
    close,
    head,
    pieces_of,
    send,
    silence,
    sized,
    without_end,
)

NO_BODY = Body(None, 0)
HELLO = b"hello"
OK = Answer(send(sized(b"next")))

#: The read timeout of these tests; what ends within it, at a trickle, ends within a few of it.
READ_TIMEOUT = 1.0


@pytest.fixture
def mlflow() -> Iterator[Upstream]:
    """MLflow's end of the wire."""
    with Upstream() as server:
        yield server


@pytest.fixture
def forwarder(mlflow: Upstream) -> Iterator[Forwarder]:
    with forwarder_to(mlflow) as forwarder:
        yield forwarder


@contextmanager
def forwarder_to(mlflow: Upstream) -> Iterator[Forwarder]:
    """What forwards to this MLflow."""
    chosen = settings(
        mlflow_server_url=mlflow.url,
        mlflow_retry_deadline=0.0,
        mlflow_read_timeout=READ_TIMEOUT,
        mlflow_artifact_read_timeout=WAIT_LIMIT,
    )
    forwarder = Forwarder(chosen, Circuit("mlflow", 1000, 60))
    yield forwarder
    forwarder._pool.close()


def get(forwarder: Forwarder, method: str = "GET") -> tuple[urllib3.BaseHTTPResponse, bytes]:
    """MLflow's answer and its body."""
    answer = forwarder.forward(permit(inbound(method, "/mlflow/version"), route=READ), NO_BODY)
    try:
        return answer, answer.data
    finally:
        answer.close()


def trickle(data: bytes, seconds: float = 0.05) -> Step:
    """Sends the same bytes one by one, again and again."""

    def step(exchange: Exchange) -> None:
        while True:
            for byte in data:
                exchange.connection.sendall(bytes((byte,)))
                if exchange.fake.stopping.wait(seconds):
                    return

    return step


def one_by_one(data: bytes, seconds: float = 0.6 * READ_TIMEOUT) -> Step:
    """Sends the same bytes, all at once, again and again."""

    def step(exchange: Exchange) -> None:
        while not exchange.fake.stopping.wait(seconds):
            exchange.connection.sendall(data)

    return step


# --- interim answers -----------------------------------------------------------------------------

INTERIM = {
    "100": head(100),
    "102": head(102),
    "103": head(103, ("Link", "</style.css>; rel=preload")),
    "an unknown one": head(199),
    "several": head(102) + head(103, ("Link", "</a>")) + head(103, ("Link", "</b>")),
    "without a reason": b"HTTP/1.1 103\r\nLink: </a>\r\n\r\n",
    "as many as may be": head(102) * MAX_INTERIM,
}


@pytest.mark.parametrize("name", INTERIM)
@pytest.mark.parametrize("apart", [False, True], ids=["in one write", "apart"])
def test_interim_answers_are_skipped(
    mlflow: Upstream, forwarder: Forwarder, name: str, apart: bool
) -> None:
    final = sized(HELLO, 200, ("X-Final", "yes"))
    steps = (send(INTERIM[name]), send(final)) if apart else (send(INTERIM[name] + final),)
    mlflow.answers(Answer(*steps), OK)
    answer, body = get(forwarder)
    assert (answer.status, body) == (200, HELLO)
    assert "Link" not in answer.headers
    assert answer.headers["X-Final"] == "yes"
    assert get(forwarder)[1] == b"next"
    assert mlflow.connections == 1, "the connection is as good as before"


ENDLESS: dict[str, tuple[Step, type[ProxyError]]] = {
    "interim answers": (without_end(head(103, ("Link", "</a>"))), UpstreamReset),
    "interim answers, slowly": (trickle(head(102)), UpstreamTimeout),
    "interim answers, each whole, slowly": (one_by_one(head(102)), UpstreamTimeout),
    "fields": (without_end(b"X-A: b\r\n"), UpstreamReset),
    "fields, slowly": (trickle(b"X-A: b\r\n"), UpstreamTimeout),
    "one line": (without_end(b"x" * 1000), UpstreamReset),
    "one line, slowly": (trickle(b"x"), UpstreamTimeout),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_a_head_without_an_end_is_ended(mlflow: Upstream, forwarder: Forwarder, name: str) -> None:
    """Within the read timeout in all, however often a byte comes."""
    step, error = ENDLESS[name]
    first = b"HTTP/1.1 200 OK\r\nX-B: " if "line" in name else b"HTTP/1.1 200 OK\r\n"
    begins = b"" if "interim" in name else first
    mlflow.answers(Answer(send(begins), step))
    began = time.monotonic()
    with pytest.raises(error):
        get(forwarder)
    assert time.monotonic() - began < 5 * READ_TIMEOUT
    mlflow.wait_for(lambda: mlflow.open_connections == 0, "the end of the connection")


def test_a_question_of_our_own_is_bounded_as_well(mlflow: Upstream, forwarder: Forwarder) -> None:
    mlflow.answers(Answer(send(b"HTTP/1.1 200 OK\r\n"), trickle(b"X-A: b\r\n")))
    began = time.monotonic()
    with pytest.raises(UpstreamTimeout):
        forwarder.ask("/health", READ_TIMEOUT)
    assert time.monotonic() - began < 5 * READ_TIMEOUT


def test_a_large_head_is_bounded_as_a_whole(mlflow: Upstream, forwarder: Forwarder) -> None:
    """Each line and the number of fields are within their bounds."""
    mlflow.answers(Answer(send(sized(b"", 200, *((f"X-{n}", "x" * 8000) for n in range(9))))))
    with pytest.raises(UpstreamReset):
        get(forwarder)
    mlflow.answers(Answer(send(sized(HELLO, 200, *((f"X-{n}", "x" * 8000) for n in range(7))))))
    assert get(forwarder)[1] == HELLO


def test_a_body_may_take_longer_than_the_read_timeout(
    mlflow: Upstream, forwarder: Forwarder
) -> None:
    """The head has a total time, a body has not: each wait is bounded, and streams go on."""
    pause = READ_TIMEOUT / 2
    steps = [send(bytes((byte,))) for byte in HELLO]
    waits = [lambda exchange: exchange.fake.stopping.wait(pause)] * len(steps)
    mixed = [step for pair in zip(steps, waits, strict=True) for step in pair]
    slow_head = [send(b"HTTP/1.1 200 OK\r\n"), waits[0], send(b"Content-Length: 5\r\n\r\n")]
    mlflow.answers(Answer(*slow_head, *mixed))
    assert get(forwarder)[1] == HELLO


# --- unusual but valid ---------------------------------------------------------------------------

LENGTH = b"Content-Length: 5\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: %b\r\n\r\n" + chunk(HELLO) + b"0\r\n"

#: The answer's bytes, and what must be in its fields; its body is "hello", its connection reused.
UNUSUAL: dict[str, tuple[bytes, dict[str, str]]] = {
    "no reason, with a blank": (b"HTTP/1.1 200 \r\n" + LENGTH + b"\r\nhello", {}),
    "no reason, no blank": (b"HTTP/1.1 200\r\n" + LENGTH + b"\r\nhello", {}),
    "HTTP/1.0, kept alive": (
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n" + LENGTH + b"\r\nhello",
        {},
    ),
    "lines that end in LF": (b"HTTP/1.1 200 OK\nContent-Length: 5\nX-A: b\n\nhello", {"X-A": "b"}),
    "mixed ends of lines": (b"HTTP/1.1 200 OK\r\nX-A: b\nContent-Length: 5\r\n\nhello", {}),
    "latin-1": (b"HTTP/1.1 200 OK\r\nX-A: \xe9\r\n" + LENGTH + b"\r\nhello", {"X-A": "é"}),
    "UTF-8": (
        b"HTTP/1.1 200 OK\r\nX-A: \xc3\xa9\r\n" + LENGTH + b"\r\nhello",
        {"X-A": "\u00c3\u00a9"},  # byte by byte, as it goes out again
    ),
    "a folded field": (
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n  c\r\n\td\r\n" + LENGTH + b"\r\nhello",
        {"X-A": "b c d"},
    ),
    "a blank before the colon": (
        b"HTTP/1.1 200 OK\r\nX-A : b\r\n" + LENGTH + b"\r\nhello",
        {"X-A": "b"},
    ),
    "the length twice": (
        b"HTTP/1.1 200 OK\r\n" + LENGTH + LENGTH + b"\r\nhello",
        {"Content-Length": "5"},
    ),
    "the length twice in a line": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        {"Content-Length": "5"},
    ),
    "identity, which was a coding once": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n" + LENGTH + b"\r\nhello",
        {"Content-Length": "5"},
    ),
    "Chunked": (CHUNKED % b"Chunked" + b"\r\n", {}),
    "CHUNKED": (CHUNKED % b"CHUNKED" + b"\r\n", {}),
    "extensions of a chunk": (
        head(200, ("Transfer-Encoding", "chunked")) + b'05 ;a="b;c"\r\nhello\r\n0;last\r\n\r\n',
        {},
    ),
    "trailing fields": (CHUNKED % b"chunked" + b"X-Sum: 1\r\nX-More: 2\r\n\r\n", {}),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_answer_passes(mlflow: Upstream, forwarder: Forwarder, name: str) -> None:
    data, fields = UNUSUAL[name]
    mlflow.answers(Answer(send(data)), OK)
    answer, body = get(forwarder)
    expected = body_length(answer, "GET")
    assert (answer.status, body) == (200, HELLO)
    assert {field: answer.headers[field] for field in fields} == fields
    assert expected == (None if "Transfer-Encoding" in answer.headers else 5)
    assert get(forwarder)[1] == b"next"
    assert mlflow.connections == 1, "the connection is as good as before"


ENDS = {
    "Connection: close, sized": b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + LENGTH + b"\r\nhello",
    "HTTP/1.0, sized": b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\nhello",
    "HTTP/1.0, to the end": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "an empty length": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello",
}


@pytest.mark.parametrize("name", ENDS)
def test_an_answer_that_ends_its_connection_passes(
    mlflow: Upstream, forwarder: Forwarder, name: str
) -> None:
    mlflow.answers(Answer(send(ENDS[name]), close()), OK)
    assert get(forwarder)[1] == HELLO
    assert get(forwarder)[1] == b"next"
    assert mlflow.connections == 2


BODILESS = {
    "204 with a length": ("GET", head(204, ("Content-Length", "5")), None),
    "204 in chunks": ("GET", head(204, ("Transfer-Encoding", "chunked")), None),
    "304 with a length": ("GET", head(304, ("Content-Length", "5")), "5"),
    "HEAD with a length": ("HEAD", head(200, ("Content-Length", "5")), "5"),
    "HEAD in chunks": ("HEAD", head(200, ("Transfer-Encoding", "chunked")), None),
}


def test_an_exception_that_nobody_caught_ends_its_connection(
    mlflow: Upstream, forwarder: Forwarder
) -> None:
    """uvicorn 0.54 closes then, without Connection: close; the next POST would meet that."""
    text = ("Content-Type", "text/plain; charset=utf-8")
    mlflow.answers(Answer(send(sized(b"Internal Server Error", 500, text))), Answer(send(sized())))
    assert get(forwarder)[0].status == 500
    assert get(forwarder)[0].status == 200
    assert [asked.connection for asked in mlflow.requests] == [1, 2]
    get(forwarder)
    assert mlflow.requests[-1].connection == 2


@pytest.mark.parametrize("name", BODILESS)
def test_an_answer_without_a_body_ends_with_its_head(
    mlflow: Upstream, forwarder: Forwarder, name: str
) -> None:
    method, data, length = BODILESS[name]
    mlflow.answers(Answer(send(data)), OK)
    answer, body = get(forwarder, method)
    assert body == b""
    assert answer.headers.get("Content-Length") == length
    assert get(forwarder)[1] == b"next"


UNASKED = {
    "a whole answer": sized(b"of nobody"),
    "a line": b"\r\n",
    "the rest of a body": b"x" * 20_000,
}


@pytest.mark.parametrize("name", UNASKED)
@pytest.mark.parametrize("apart", [False, True], ids=["in one write", "apart"])
def test_bytes_that_nobody_asked_for_answer_no_request(
    mlflow: Upstream, forwarder: Forwarder, name: str, apart: bool
) -> None:
    come = threading.Event()

    def say(exchange: Exchange) -> None:
        come.set()

    first = (
        (send(sized(HELLO)), send(UNASKED[name]))
        if apart
        else (send(sized(HELLO) + UNASKED[name]),)
    )
    mlflow.answers(Answer(*first, say), OK)
    assert get(forwarder)[1] == HELLO
    assert come.wait(WAIT_LIMIT)
    assert get(forwarder)[1] == b"next"


BROKEN = {
    "a coding that nobody asked for": head(200, ("Transfer-Encoding", "gzip, chunked")),
    "two codings": head(200, ("Transfer-Encoding", "chunked, chunked")),
    "a switch of protocols": head(101, ("Upgrade", "h2c")) + sized(HELLO),
    "different lengths": head(200, ("Content-Length", "5, 6")) + HELLO,
    "a length of 5000 digits": head(200, ("Content-Length", "9" * 5000)) + HELLO,
    "a length that is negative": head(200, ("Content-Length", "-5")) + HELLO,
    "a first field that is folded": b"HTTP/1.1 200 OK\r\n X-A: b\r\n" + LENGTH + b"\r\nhello",
    "a small status": b"HTTP/1.1 099 Odd\r\n" + LENGTH + b"\r\nhello",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_could_be_read_in_two_ways_is_an_error(
    mlflow: Upstream, forwarder: Forwarder, name: str
) -> None:
    mlflow.answers(Answer(send(BROKEN[name]), close()))
    with pytest.raises((UpstreamReset, ValueError)):
        body_length(get(forwarder)[0], "GET")


CHUNKS = {
    "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "a size with a prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a size with an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "a size that does not end": b"5;" + b"x" * 70_000 + b"\r\nhello\r\n0\r\n\r\n",
    "trailing fields that do not end": chunk(HELLO) + b"0\r\n" + b"X-A: b\r\n" * 20_000,
}


@pytest.mark.parametrize("name", CHUNKS)
def test_a_chunked_body_that_cannot_be_read_is_no_whole_one(
    mlflow: Upstream, forwarder: Forwarder, name: str
) -> None:
    mlflow.answers(Answer(send(head(200, ("Transfer-Encoding", "chunked")) + CHUNKS[name])))
    with pytest.raises(urllib3.exceptions.HTTPError):
        get(forwarder)


# --- an answer before the end of the upload ------------------------------------------------------

SIZE = 64 * 1024 * 1024  # more than the buffers of both ends


def reads_nothing(exchange: Exchange) -> None:
    exchange.fake.stopping.wait(WAIT_LIMIT)


@pytest.mark.parametrize("end", [reads_nothing, close()], ids=["reads nothing", "closes"])
@pytest.mark.parametrize("first", [b"", head(100), head(102)], ids=["", "after 100", "after 102"])
def test_a_refusal_before_the_end_of_an_upload_is_passed_on(
    mlflow: Upstream, forwarder: Forwarder, first: bytes, end: Step
) -> None:
    mlflow.answers(Answer(send(first + sized(b"too large", 413)), end, early=True), OK)
    began = time.monotonic()
    status, body = upload(forwarder, pieces_of(SIZE))
    assert (status, body) == (413, b"too large")
    assert time.monotonic() - began < WAIT_LIMIT / 2
    assert get(forwarder)[1] == b"next", "the connection with half a request is not used again"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and a certificate of this machine."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl(1) to make certificates with")
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("end", [reads_nothing, close()], ids=["reads nothing", "closes"])
def test_a_refusal_over_tls_is_passed_on_too(
    certificates: Path, monkeypatch: pytest.MonkeyPatch, end: Step
) -> None:
    """Nothing of TLS can be peeked at: what was looked at is read again with the answer."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.crt"))
    context = of_server(certificates)
    refusal, stored = sized(b"too large", 413), sized(b"s" * 100_000)
    with Upstream(tls=context) as mlflow, forwarder_to(mlflow) as forwarder:
        mlflow.answers(
            Answer(send(refusal), end, early=True), OK, Answer(send(stored), early=True), OK
        )
        began = time.monotonic()
        assert upload(forwarder, pieces_of(SIZE)) == (413, b"too large")
        assert time.monotonic() - began < WAIT_LIMIT / 2
        assert get(forwarder)[1] == b"next"
        assert upload(forwarder, pieces_of(SIZE)) == (200, b"s" * 100_000)
        mlflow.wait_for(lambda: mlflow.requests[-1].end == "whole", "the end of the upload")
        assert get(forwarder)[1] == b"next"


def test_the_authorities_are_loaded_before_the_first_request(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes 20 ms, in which a worker serves nobody: not for each connection."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.crt"))
    with Upstream(tls=of_server(certificates)) as mlflow, forwarder_to(mlflow) as forwarder:
        monkeypatch.setattr(ssl.SSLContext, "load_default_certs", None)
        last = sized(b"next", 200, ("Connection", "close"))
        mlflow.answers(Answer(send(last), close()))
        assert [get(forwarder)[1] for _ in range(3)] == [b"next"] * 3
        assert len({request.connection for request in mlflow.requests}) == 3


def test_a_new_connection_over_tls_is_made_once(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """urllib3 connects before the request: that connection is not taken for an old one."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.crt"))
    with Upstream(tls=of_server(certificates)) as mlflow, forwarder_to(mlflow) as forwarder:
        forwarder._pool.ConnectionCls.reuse_for = 0.0  # type: ignore[attr-defined]
        assert get(forwarder)[1] == b"{}"
        assert mlflow.connections == 1


def test_over_tls_a_client_that_leaves_during_a_copy_is_noticed_too(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first that comes on a new connection are the session tickets of TLS 1.3."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.crt"))
    monkeypatch.setattr("app.upstream.connection.SURE", 0.1)
    monkeypatch.setattr("app.upstream.forwarding.has_left", lambda inbound: True)
    with Upstream(tls=of_server(certificates)) as mlflow, forwarder_to(mlflow) as forwarder:
        mlflow.answers(Answer(silence()))
        download = permit(inbound("GET", "/mlflow/artifact"), route=TRANSFER)
        with pytest.raises(ClientGone):
            forwarder.forward(download, NO_BODY)


def test_a_probe_waits_for_a_busy_mlflows_handshake_as_for_its_answer(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where MLflow's own server speaks TLS, its event loop does the handshakes."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.crt"))
    busy = of_server(certificates)
    busy.sni_callback = lambda *about: time.sleep(1.0)
    with Upstream(tls=busy) as mlflow:
        chosen = settings(
            mlflow_server_url=mlflow.url, mlflow_connect_timeout=0.3, health_timeout=0.3
        )
        forwarder = Forwarder(chosen, Circuit("mlflow", 1000, 60))
        assert forwarder.is_there() is False
        assert forwarder.is_there(WAIT_LIMIT / 0.3) is True


def test_after_a_slow_handshake_another_is_tried(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent: any request may be, and the name may have another address."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.crt"))
    busy, delays = of_server(certificates), [1.0]
    busy.sni_callback = lambda *about: time.sleep(delays.pop() if delays else 0)
    with Upstream(tls=busy) as mlflow:
        chosen = settings(
            mlflow_server_url=mlflow.url, mlflow_connect_timeout=0.3, mlflow_retry_deadline=60
        )
        forwarder = Forwarder(chosen, Circuit("mlflow", 1000, 60))
        body = Body(b"{}", 2)
        assert forwarder.forward(permit(inbound("POST", "/mlflow/x")), body).data == b"{}"


def test_an_unknown_authority_is_not_trusted(certificates: Path) -> None:
    with Upstream(tls=of_server(certificates)) as mlflow, forwarder_to(mlflow) as forwarder:
        with pytest.raises(UpstreamUnreachable):
            get(forwarder)
        assert mlflow.requests == []


def of_server(certificates: Path) -> ssl.SSLContext:
    """For a server of this machine."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    return context


@pytest.mark.parametrize("early", [head(100), head(103), b""], ids=["100", "103", "200"])
def test_anything_else_before_its_end_does_not_end_an_upload(
    mlflow: Upstream, forwarder: Forwarder, early: bytes
) -> None:
    """An interim answer, or a success, which may come while MLflow still reads."""
    whole = sized(b"stored")

    def then(exchange: Exchange) -> None:
        if early:  # the final answer has to wait until all was read, by another thread
            threading.Thread(target=send_when_read, args=(exchange,), daemon=True).start()

    def send_when_read(exchange: Exchange) -> None:
        mlflow.wait_for(lambda: exchange.request.end == "whole", "the whole upload")
        exchange.connection.sendall(whole)

    mlflow.answers(Answer(send(early or whole), then, early=True))
    assert upload(forwarder, pieces_of(SIZE)) == (200, b"stored")
    mlflow.wait_for(lambda: mlflow.requests[0].end == "whole", "the end of the upload")
    assert mlflow.requests[0].length == SIZE


def upload(forwarder: Forwarder, pieces: Iterator[bytes]) -> tuple[int, bytes]:
    """PUTs an artifact; status and body of the answer."""
    put = permit(inbound("PUT", "/mlflow/artifact"), route=TRANSFER)
    answer = forwarder.forward(put, Body(pieces, SIZE))
    try:
        return answer.status, answer.data
    finally:
        answer.close()
