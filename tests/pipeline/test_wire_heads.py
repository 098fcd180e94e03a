"""A request's head: bounded as a whole, as MLflow's is, whatever it consists of, at linear cost."""

import time
from collections.abc import Callable
from contextlib import ExitStack

import psutil
import pytest

from devstack.proxy import Proxy
from tests.pipeline.signing_in import NAVIGATION
from tests.upstreams import Upstream, chunk, eventually
from tests.wire import Wire, bearer, call, request

LONGEST = 64 * 1024
SEARCH = "/api/mlflow/api/2.0/mlflow/model-versions/search"
COOKIES = "Cookie: " + "; ".join(f"other-{n}={'x' * 1000}" for n in range(60))

#: What has come of a head that is not over, or of the framing of a chunked body; and what comes on.
UNFINISHED = {
    "fields": (b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"X-A: %s\r\n" % (b"a" * 8000) * 7, b"b"),
    "tiny fields": (b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 15_000, b"b"),
    "a folded field": (b"GET /health HTTP/1.1\r\nX-A: a" + b"\r\n b" * 12_000, b"b"),
    "the request line": (b"GET /" + b"a" * 60_000, b"b"),
}


def test_cookies_of_other_applications_are_taken_and_dropped(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    answer = call(front.url, "GET", SEARCH, bearer(key), COOKIES)
    assert answer.status == 200
    assert upstream.requests[0].all("Cookie") == []


@pytest.mark.parametrize("fields", [["X-A: " + "a" * 60_000], [f"X-{n}: a" for n in range(400)]])
def test_a_field_may_be_long_and_fields_may_be_many(front: Proxy, fields: list[str]) -> None:
    assert call(front.url, "GET", "/health", *fields).status == 200


@pytest.mark.parametrize("options", ["close", "TE, close", "Close ,te"])
def test_close_is_obeyed_wherever_it_stands(front: Proxy, options: str) -> None:
    with Wire(front.url) as wire:
        head = request("GET", "/health", f"Connection: {options}", "TE: deflate")
        answer = wire.ask(head, "GET")
        assert answer.status == 200
        assert answer.one("Connection") == "close"
        assert wire.end() == "fin"


def test_the_head_is_measured_as_a_whole(front: Proxy) -> None:
    def head_of(size: int) -> bytes:
        begin = request("GET", "/health", "X-A: ")
        return begin.replace(b"X-A: ", b"X-A: " + b"a" * (size - len(begin)))

    for size, status in ((LONGEST - 1, 200), (LONGEST, 200), (LONGEST + 1, 431), (800_000, 431)):
        with Wire(front.url) as wire:
            assert wire.ask(head_of(size), "GET").status == status, size


def test_a_filter_of_250_runs_goes_on(front: Proxy, upstream: Upstream, key: str) -> None:
    names = ",".join(f"%27{number:032x}%27" for number in range(250))
    target = f"{SEARCH}?filter=run_id%20IN%20({names})"
    assert len(target) > 8190
    assert call(front.url, "GET", target, bearer(key)).status == 200
    assert upstream.requests[0].target == target.removeprefix("/api/mlflow").encode()


@pytest.mark.parametrize("name", UNFINISHED)
def test_a_head_that_does_not_end_is_refused_in_json(front: Proxy, name: str) -> None:
    begin, more = UNFINISHED[name]
    with Wire(front.url) as wire:
        wire.send(begin + more * LONGEST)
        status, code = wire.read().error
    assert (status in (431, 414)) or name == "a folded field"
    assert code == "BAD_REQUEST"


@pytest.mark.parametrize("name", UNFINISHED)
def test_each_further_byte_of_a_head_costs_little(front: Proxy, name: str) -> None:
    """It was a millisecond, for a head of 800 KB, because all of it was searched again."""
    begin, more = UNFINISHED[name]
    (worker,) = psutil.Process(front.pid).children()
    with Wire(front.url) as wire:
        wire.send(begin)
        before = sum(worker.cpu_times()[:2])
        for _ in range(1000):
            wire.send(more)
            time.sleep(0.0002)  # so that each comes by itself
        assert sum(worker.cpu_times()[:2]) - before < 0.4
        assert call(front.url, "GET", "/health").status == 200


@pytest.mark.parametrize(
    "end",
    [
        b"0\r\n" + b"X-A: %s\r\n" % (b"a" * 8000) * 9,
        b"0\r\n" + b"X-A: a\r\n" * 10_000,
        b"1;" + b"a" * 100_000,
        b"0" * 100_000,
    ],
    ids=["trailers", "tiny trailers", "an extension", "a size"],
)
def test_so_is_the_framing_of_a_chunked_body(
    front: Proxy, upstream: Upstream, key: str, end: bytes
) -> None:
    with Wire(front.url) as wire:
        framed = request("POST", "/api/mlflow/api/2.0/mlflow/runs/search", bearer(key))
        wire.send(framed.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"))
        wire.send(chunk(b"a") + end)
        assert wire.read().status == 400
        assert wire.end() in ("fin", "rst")
    assert upstream.requests == []


def test_a_browser_gets_a_page(front: Proxy) -> None:
    too_many = "Cookie: " + "x" * LONGEST
    answer = call(front.url, "GET", "/mlflow/", *NAVIGATION, too_many)
    assert answer.status == 431
    assert (answer.one("Content-Type") or "").startswith("text/html")
    assert "default-src 'none'" in (answer.one("Content-Security-Policy") or "")
    assert b"cookies" in answer.body
    assert (answer.one("X-Request-ID") or "?").encode() in answer.body
    for own in ([], ["Accept: */*"], [*NAVIGATION, "X-API-Key: hk_test_nobodys"]):
        assert call(front.url, "GET", "/mlflow/", *own, too_many).error[0] == 431
    assert call(front.url, "GET", SEARCH, *NAVIGATION, too_many).error[0] == 431


def test_pipelined_requests_let_others_have_their_turn(front: Proxy) -> None:
    with Wire(front.url) as wire:
        wire.send(request("GET", "/health") * 1000)
        assert call(front.url, "GET", "/health").status == 200
        assert [wire.read().status for _ in range(1000)] == [200] * 1000


# --- slow ones -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hurried(start_front: Callable[..., Proxy]) -> Proxy:
    """A proxy that gives a head and a body one second, and that holds 20 connections."""
    return start_front(CLIENT_REQUEST_TIMEOUT=1, MAX_CONNECTIONS=20, KEEPALIVE=60)


@pytest.mark.parametrize("begin", [b"G", b"GET /health HTTP/1.1\r\nX-A: a"])
def test_a_head_that_comes_byte_by_byte_is_ended(hurried: Proxy, begin: bytes) -> None:
    with Wire(hurried.url) as wire:
        wire.send(begin)
        wire.socket.settimeout(0.1)
        began = time.monotonic()
        while not wire.buffer and time.monotonic() < began + 20:
            wire.send(b"a")
            try:
                wire.more()
            except TimeoutError:
                continue
        assert wire.read().error == (408, "BAD_REQUEST")


SLOW_BODIES = {
    "short": (["Content-Length: 60000"], b"x"),
    "chunked": (["Transfer-Encoding: chunked"], b"1\r\nx\r\n"),
    "the framing of a chunk": (["Transfer-Encoding: chunked"], b"0"),
}


@pytest.mark.parametrize("name", SLOW_BODIES)
def test_so_is_a_body_that_is_read_whole(
    hurried: Proxy, upstream: Upstream, key: str, name: str
) -> None:
    fields, piece = SLOW_BODIES[name]
    with Wire(hurried.url) as wire:
        wire.send(request("POST", "/api/mlflow/api/2.0/mlflow/runs/search", bearer(key), *fields))
        wire.socket.settimeout(0.1)
        began = time.monotonic()
        while not wire.buffer and time.monotonic() < began + 20:
            wire.send(piece)
            try:
                wire.more()
            except TimeoutError:
                continue
        answer = wire.read()
        assert answer.error == (408, "BAD_REQUEST")
        assert "CLIENT_REQUEST_TIMEOUT" in answer.json["message"]
    assert upstream.requests == []


def test_a_streamed_upload_may_take_longer(hurried: Proxy, upstream: Upstream, key: str) -> None:
    target = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/weights.bin"
    with Wire(hurried.url) as wire:
        wire.send(request("PUT", target, bearer(key), "Transfer-Encoding: chunked"))
        for _ in range(4):
            wire.send(chunk(b"x"))
            time.sleep(0.5)  # this is the client's pace
        wire.send(b"0\r\n\r\n")
        assert wire.read().status == 200
    assert upstream.requests[0].body == b"xxxx"


STALLED = {
    "are just open": b"",
    "sent half a head": b"GET /health HTTP/1.1\r\nHost: a\r\nX-A: ",
    "send a body that nobody wants": request("POST", "/health", "Content-Length: 99", body=b"x"),
    "made a request before": request("GET", "/nothing"),
    "do not read": request("GET", "/metrics") * 300,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STALLED)
def test_max_connections_of_stalled_clients_do_not_silence_health(
    start_front: Callable[..., Proxy], name: str
) -> None:
    front = start_front(MAX_CONNECTIONS=20, KEEPALIVE=600, CLIENT_REQUEST_TIMEOUT=600)
    with ExitStack() as clients:
        for _ in range(60):
            clients.enter_context(Wire(front.url, receive_buffer=4096)).send(STALLED[name])
            assert call(front.url, "GET", "/health").status == 200
        assert call(front.url, "GET", "/ready").status in (200, 503)
        page = call(front.url, "GET", "/metrics").body.decode()
    assert float(page.partition('dropped_total{reason="no_room"} ')[2].split("\n")[0]) > 30
    warnings = [line for line in front.log_lines() if "MAX_CONNECTIONS" in line["message"]]
    assert len(warnings) == 1, "it is told once"
    eventually(lambda: call(front.url, "GET", "/health").status == 200, "health")


def test_who_has_a_place_keeps_the_connection(hurried: Proxy, upstream: Upstream, key: str) -> None:
    target = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/weights.bin"
    with ExitStack() as clients:
        upload = clients.enter_context(Wire(hurried.url))
        upload.send(request("PUT", target, bearer(key), "Content-Length: 200000"))
        upload.send(bytes(100_000))
        upstream.wait_for(lambda: bool(upstream.requests), "the upload")
        for _ in range(60):
            clients.enter_context(Wire(hurried.url))
        assert call(hurried.url, "GET", "/health").status == 200
        upload.send(bytes(100_000))
        assert upload.read().status == 200
    assert upstream.requests[0].length == 200_000


@pytest.mark.slow
def test_a_body_that_nobody_wants_is_not_waited_for(hurried: Proxy) -> None:
    """For a few seconds, and not for KEEPALIVE, which is a minute here."""
    with Wire(hurried.url) as wire:
        asked = request("POST", "/health", "Content-Length: 100000", body=b"x")
        assert wire.ask(asked).status == 405
        began = time.monotonic()
        assert wire.end() in ("fin", "rst")
        assert time.monotonic() - began < 30


# --- chunked bodies ------------------------------------------------------------------------------

REST = "/api/mlflow/api/2.0/mlflow/runs/search"


def test_chunked_bodies_have_a_budget_and_come_back_when_there_is_room(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    front = start_front(MAX_BUFFERED_BODY=600_000, MAX_BUFFERED_TOTAL=600_000)
    asked = request("POST", REST, bearer(key), "Transfer-Encoding: chunked")
    with Wire(front.url) as first:
        first.send(asked + chunk(bytes(500_000)))
        eventually(lambda: "buffered_bytes 0" not in _metrics(front), "the first body")
        with Wire(front.url) as second:
            answer = second.ask(asked + chunk(bytes(500_000)) + b"0\r\n\r\n")
        assert answer.error == (503, "TEMPORARILY_UNAVAILABLE")
        assert int(answer.one("Retry-After") or 0) >= 1
        assert 'buffer_refusals_total{reason="key"} 1.0' in _metrics(front)
        assert first.ask(b"0\r\n\r\n", "POST").status == 200
    assert call(front.url, "POST", REST, bearer(key)).status == 200
    assert "buffered_bytes 0" in _metrics(front)


@pytest.mark.slow
def test_without_a_temporary_folder_a_chunked_body_is_503(
    start_front: Callable[..., Proxy],
    upstream: Upstream,
    key: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("temporary")
    front = start_front(MAX_BUFFERED_BODY=10_000_000, TMPDIR=folder)
    body = chunk(bytes(1_000_000)) + b"0\r\n\r\n"
    asked = request("POST", REST, bearer(key), "Transfer-Encoding: chunked")
    with Wire(front.url) as wire:
        assert wire.ask(asked + body).status == 200
        folder.rmdir()
        assert wire.ask(asked + body).error == (503, "TEMPORARILY_UNAVAILABLE")
        folder.mkdir()
        assert wire.ask(asked + body).status == 200
    assert [line for line in front.log_lines() if "TMPDIR" in line["message"]]


def _metrics(front: Proxy) -> str:
    return call(front.url, "GET", "/metrics").body.decode()
