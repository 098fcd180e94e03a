"""The rows of the table in docs/fronts.md: each is a function that fails where the front does."""

import threading
import time
from collections.abc import Callable
from urllib.parse import quote

from tests.fronts.conftest import Stage
from tests.pipeline.signing_in import FORM, SIGN_IN
from tests.upstreams import Answer, chunk, chunked, close, head, reset, send, sized, until
from tests.wire import Response, Wire, bearer, call, request

ARTIFACT = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/1/run/artifacts"
SEEN = "/api/mlflow/health/mlflow/self-test/"
HOST = "mlflow.test:8443"
FORGED = "203.0.113.77"
SIZE = 3_000_000

#: Seconds in which something small has to get through, on a machine that does other things too.
SOON = 5.0

#: Its answers begin with the module and take long; it is looked at last.
SLOW_ROW = "an answer after 17 s"

ROWS: dict[str, Callable[[Stage], None]] = {}


def row(name: str) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Enters a function into the table."""

    def enter(function: Callable[[Stage], None]) -> Callable[[Stage], None]:
        ROWS[name] = function
        return function

    return enter


def ask(stage: Stage, method: str, target: str, *fields: str, body: bytes = b"") -> Response:
    """A request to the proxy, through the front."""
    return call(stage.front.url, method, target, bearer(stage.key), *fields, body=body)


def seen(stage: Stage, *fields: str) -> dict[str, str]:
    """How such a request reached the proxy."""
    answer = ask(stage, "GET", SEEN + "seen", *fields)
    assert answer.status == 200, answer
    found: dict[str, str] = answer.json
    return found


@row("Host arrives with its port")
def host(stage: Stage) -> None:
    assert seen(stage, f"Host: {HOST}")["host"] == HOST


@row("`X-Forwarded-For` is not the caller's to choose")
def client_address(stage: Stage) -> None:
    assert seen(stage, f"X-Forwarded-For: {FORGED}")["client_ip"] != FORGED


@row("`X-Forwarded-Proto` is not the caller's to choose")
def scheme(stage: Stage) -> None:
    assert seen(stage, "X-Forwarded-Proto: https")["scheme"] == "http"


@row("`X-Request-ID` is kept")
def request_id(stage: Stage) -> None:
    sent = "the-callers-own-0001"
    answer = ask(stage, "GET", f"{ARTIFACT}/a", f"X-Request-ID: {sent}")
    assert answer.one("X-Request-ID") == sent
    assert stage.fake.requests[-1].one("X-Request-ID") == sent


@row("an encoded slash (`%2F`) arrives")
def encoded_slash(stage: Stage) -> None:
    ask(stage, "GET", f"{ARTIFACT}/a%2Fb%20c;d+e.txt")
    assert stage.fake.requests[-1].target.endswith(b"/artifacts/a%2Fb%20c;d+e.txt")


@row("`//` and `..` arrive, and are refused")
def ambiguous_path(stage: Stage) -> None:
    for path in ("a//b", "a/../b"):
        assert ask(stage, "GET", f"{ARTIFACT}/{path}").error == (400, "BAD_REQUEST")


@row("HTTP/1.1, connections are kept")
def kept_connections(stage: Stage) -> None:
    with Wire(stage.beside.url) as wire:
        for _ in range(2):
            assert wire.ask(request("GET", "/kept")).status == 200
    one, other = (got for got in stage.bare.requests if got.target == b"/kept")
    assert one.line.endswith(b"HTTP/1.1")
    assert one.connection == other.connection


@row("a request line of 8 KB, cookies of 16 KB")
def long_head(stage: Stage) -> None:
    target = "/long?" + "x" * 8000
    cookies = f"Cookie: {'c' * 16_000}"
    answer = call(stage.beside.url, "GET", target, cookies)
    assert answer.status == 200, answer
    (got,) = (got for got in stage.bare.requests if got.target.startswith(b"/long"))
    assert len(got.head) > 24_000


@row("a body of 3 MB")
def large_body(stage: Stage) -> None:
    answer = ask(stage, "PUT", f"{ARTIFACT}/large", body=b"x" * SIZE)
    assert answer.status == 200, answer
    assert stage.fake.requests[-1].length == SIZE


@row("a chunked upload")
def chunked_upload(stage: Stage) -> None:
    body = chunk(b"x" * 100_000) + chunk(b"y") + b"0\r\n\r\n"
    fields = ("Transfer-Encoding: chunked",)
    assert ask(stage, "PUT", f"{ARTIFACT}/chunked", *fields, body=body).status == 200
    assert stage.fake.requests[-1].length == 100_001


@row("`Expect: 100-continue`")
def expect(stage: Stage) -> None:
    fields = (bearer(stage.key), "Expect: 100-continue", "Content-Length: 100000")
    with Wire(stage.front.url) as wire:
        wire.socket.settimeout(SOON)
        status, _ = wire.send(request("PUT", f"{ARTIFACT}/expected", *fields)).read_head()
        assert status == 100
        wire.send(b"x" * 100_000)
        while (answer := wire.read("PUT")).status == 100:  # a second one is allowed: Caddy's own
            pass
        assert answer.status == 200


@row("an upload is passed on as it comes")
def streamed_upload(stage: Stage) -> None:
    fields = (bearer(stage.key), "Content-Length: 200000")
    with Wire(stage.front.url) as wire:
        wire.send(request("PUT", f"{ARTIFACT}/slowly", *fields) + b"x" * 150_000)
        deadline = time.monotonic() + SOON
        while not stage.fake.requests:
            assert time.monotonic() < deadline, "it waits for the whole body"
            time.sleep(0.01)
        assert wire.send(b"x" * 50_000).read("PUT").status == 200


@row("an answer is passed on as it comes")
def streamed_answer(stage: Stage) -> None:
    read = threading.Event()
    events = head(200, ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"))
    first, rest = chunk(b"data: 1\n\n"), chunk(b"data: 2\n\n") + b"0\r\n\r\n"
    stage.fake.answers(Answer(send(events + first), until(read), send(rest)))
    try:
        with Wire(stage.front.url) as wire:
            wire.socket.settimeout(SOON)
            wire.send(request("GET", f"{ARTIFACT}/events", bearer(stage.key))).read_head()
            assert wire.read_chunk() == b"data: 1\n\n"
    finally:
        read.set()


@row("a broken answer looks broken")
def broken_answer(stage: Stage) -> None:
    assert not ask(stage, "GET", SEEN + "broken-transfer").whole
    half = chunked(b"x" * 300_000, last=False)
    for how in (close(), reset()):
        stage.bare.answers(Answer(send(half), how))
        assert not call(stage.beside.url, "GET", "/broken").whole, f"chunked {how}"
        stage.bare.answers(Answer(send(sized(b"x" * 300_000)[:-1]), how))
        answer = call(stage.beside.url, "GET", "/broken")
        assert not answer.whole, f"sized {how} {answer.status} {len(answer.body)} {answer.headers}"


@row("a broken upload looks broken")
def broken_upload(stage: Stage) -> None:
    sized_half = request("PUT", "/half", "Content-Length: 200000") + b"x" * 100_000
    chunked_half = request("PUT", "/half", "Transfer-Encoding: chunked") + chunk(b"x" * 100_000)
    for half in (sized_half, chunked_half):
        with Wire(stage.beside.url) as wire:
            wire.send(half)
            time.sleep(0.1)
            wire.vanish()
    call(stage.beside.url, "GET", "/after")  # by now they were passed on, if at all
    ends = [got.end for got in stage.bare.requests if got.target == b"/half"]
    assert "whole" not in ends


@row("a POST is never sent twice")
def sent_once(stage: Stage) -> None:
    call(stage.beside.url, "GET", "/warm")
    stage.bare.answers(Answer(close()))
    call(stage.beside.url, "POST", "/create", body=b"{}")
    assert [got.method for got in stage.bare.requests].count(b"POST") == 1


@row("503, its `Retry-After` and JSON are kept")
def refusal(stage: Stage) -> None:
    answer = ask(stage, "GET", SEEN + "refused")
    assert answer.error == (503, "TEMPORARILY_UNAVAILABLE")
    assert answer.one("Retry-After") == "7"


def signed_in(stage: Stage, *fields: str) -> Response:
    """The sign-in form, as a browser sends it over plain http to a name."""
    body = f"key={quote(stage.key)}&next=".encode()
    origin = (f"Host: {HOST}", f"Origin: http://{HOST}", FORM, *fields)
    return call(stage.front.url, "POST", SIGN_IN, *origin, body=body)
