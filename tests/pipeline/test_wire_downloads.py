"""MLflow's answers reach the client as they are, and as they come."""

import os
import threading
from collections.abc import Callable
from itertools import product

import pytest

from devstack.proxy import Proxy
from tests.upstreams import Answer, Upstream, chunk, chunked, close, head, send, sized, until
from tests.wire import Response, Wire, bearer, call, request

ARTIFACT = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/model/weights.bin"


def get(front: Proxy, key: str, target: str = ARTIFACT, method: str = "GET") -> Response:
    return call(front.url, method, target, bearer(key))


# --- bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1000, 256 * 1024 + 1, 5_000_000])
def test_a_sized_body_comes_sized(front: Proxy, upstream: Upstream, key: str, size: int) -> None:
    body = os.urandom(size)
    upstream.answers(Answer(send(sized(body))))
    answer = get(front, key)
    assert (answer.status, answer.body, answer.whole) == (200, body, True)
    assert answer.one("Content-Length") == str(size)
    assert answer.all("Transfer-Encoding") == []


@pytest.mark.parametrize("sizes", [[0], [1], [1000] * 3, [256 * 1024 + 1], [100_000] * 50])
def test_a_chunked_body_comes_chunked(
    front: Proxy, upstream: Upstream, key: str, sizes: list[int]
) -> None:
    pieces = [os.urandom(size) for size in sizes if size]
    upstream.answers(Answer(send(chunked(*pieces))))
    answer = get(front, key)
    assert (answer.status, answer.body, answer.whole) == (200, b"".join(pieces), True)
    assert answer.one("Transfer-Encoding") == "chunked"
    assert answer.all("Content-Length") == []


def test_a_body_that_ends_with_the_connection_comes_whole(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    upstream.answers(Answer(send(head(200) + b"until the end"), close()))
    answer = get(front, key)
    assert (answer.body, answer.whole) == (b"until the end", True)


@pytest.mark.parametrize("fields", [(), ("Connection: keep-alive",)])
@pytest.mark.parametrize(
    "data", [sized(b"hello"), chunked(b"he", b"llo")], ids=["sized", "chunked"]
)
def test_an_http_1_0_client_gets_the_body(
    front: Proxy, upstream: Upstream, key: str, data: bytes, fields: tuple[str, ...]
) -> None:
    upstream.answers(Answer(send(data)))
    with Wire(front.url) as wire:
        answer = wire.ask(request("GET", ARTIFACT, bearer(key), *fields, version="1.0"))
    assert (answer.body, answer.whole) == (b"hello", True)
    assert answer.all("Transfer-Encoding") == []


def test_a_range_comes_with_its_content_range(front: Proxy, upstream: Upstream, key: str) -> None:
    fields = (("Content-Range", "bytes 2-5/10"), ("Accept-Ranges", "bytes"), ("ETag", '"a"'))
    upstream.answers(Answer(send(sized(b"cdef", 206, *fields))))
    wanted = ("Range: bytes=2-5", 'If-Range: "a"')
    answer = call(front.url, "GET", ARTIFACT, bearer(key), *wanted)
    assert (answer.status, answer.body) == (206, b"cdef")
    assert all(answer.one(name) == value for name, value in fields)
    asked = upstream.requests[0]
    assert (asked.one("Range"), asked.one("If-Range")) == ("bytes=2-5", '"a"')


def test_head_tells_the_length_and_sends_nothing(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    upstream.answers(Answer(send(head(200, ("Content-Length", "12345"), ("ETag", '"a"')))))
    with Wire(front.url) as wire:
        for _ in range(3):
            answer = wire.ask(request("HEAD", ARTIFACT, bearer(key)))
            assert (answer.status, answer.one("Content-Length")) == (200, "12345")
    assert upstream.requests[0].method == b"HEAD"


@pytest.mark.parametrize(
    "data",
    [
        head(204, ("X-A", "1")),
        head(304, ("X-A", "1"), ("ETag", '"a"')),
        head(304, ("X-A", "1"), ("Content-Length", "5")),
    ],
    ids=["204", "304", "304 with a length"],
)
def test_an_answer_without_a_body_ends_with_its_head(
    front: Proxy, upstream: Upstream, key: str, data: bytes
) -> None:
    upstream.answers(Answer(send(data)))
    with Wire(front.url) as wire:
        for _ in range(3):  # a byte too many would be taken for the next answer
            answer = wire.ask(request("GET", ARTIFACT, bearer(key), 'If-None-Match: "a"'))
            assert (answer.status, answer.one("X-A")) == (int(data[9:12]), "1")
            assert answer.all("Content-Type") == []
    assert upstream.requests[0].one("If-None-Match") == '"a"'


def test_an_encoded_body_stays_encoded(front: Proxy, upstream: Upstream, key: str) -> None:
    body = b"\x1f\x8b this is not gzip and nobody looks"
    upstream.answers(Answer(send(sized(body, 200, ("Content-Encoding", "gzip")))))
    answer = get(front, key)
    assert (answer.body, answer.one("Content-Encoding")) == (body, "gzip")
    assert answer.one("Content-Length") == str(len(body))


# --- as they come --------------------------------------------------------------------------------


@pytest.mark.parametrize("as_sized", [False, True], ids=["chunked", "sized"])
def test_server_sent_events_arrive_one_by_one(
    front: Proxy, upstream: Upstream, key: str, as_sized: bool
) -> None:
    """Each is sent when the one before was read: one that is held back would end in a time-out."""
    events = [b"data: %d\n\n" % number for number in range(5)]
    arrived = [threading.Event() for _ in events]
    framing = ("Content-Length", "45") if as_sized else ("Transfer-Encoding", "chunked")
    steps = [send(head(200, ("Content-Type", "text/event-stream"), framing))]
    for event, has_arrived in zip(events, arrived, strict=True):
        steps += [send(event if as_sized else chunk(event)), until(has_arrived)]
    upstream.answers(Answer(*steps, *([] if as_sized else [send(b"0\r\n\r\n")])))

    with Wire(front.url) as wire:
        wire.send(request("GET", ARTIFACT, bearer(key)))
        assert wire.read_head()[0] == 200
        for event, has_arrived in zip(events, arrived, strict=True):
            if as_sized:
                while len(wire.buffer) < len(event):
                    assert wire.more()
                assert wire.buffer == event
                wire.buffer = b""
            else:
                assert wire.read_chunk() == event
            has_arrived.set()
        assert as_sized or wire.read_chunk() == b""


# --- header fields -------------------------------------------------------------------------------


def test_repeated_fields_stay_apart_and_in_order(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    fields = (("X-A", "1"), ("X-B", "2"), ("X-A", "3, 4"), ("Vary", "A"), ("Vary", "B"))
    upstream.answers(Answer(send(sized(b"", 200, *fields))))
    answer = get(front, key)
    assert (answer.all("X-A"), answer.all("Vary")) == (["1", "3, 4"], ["A", "B"])
    assert answer.one("X-B") == "2"


def test_what_concerns_only_mlflow_and_the_proxy_stays_between_them(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    internal = (
        ("Server", "uvicorn"),
        ("Set-Cookie", "session=1"),
        ("Set-Cookie", "other=2"),
        ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("X-Request-ID", "mlflows-own-id"),
        ("Connection", "keep-alive, X-Internal"),
        ("X-Internal", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "Basic"),
        ("Upgrade", "h2c"),
        ("Trailer", "X-Checksum"),
    )
    upstream.answers(Answer(send(sized(b"", 200, *internal))))
    answer = get(front, key)
    passed = [(name, value) for name, value in internal if value in answer.all(name)]
    assert passed == []
    assert len(answer.all("Date")) == len(answer.all("X-Request-ID")) == 1


def test_what_says_how_to_read_a_body_is_passed_on(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    fields = (
        ("Content-Type", "application/octet-stream"),
        ("Content-Disposition", "attachment; filename=weights.bin"),
        ("X-Content-Type-Options", "nosniff"),
        ("ETag", 'W/"a"'),
        ("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("Cache-Control", "no-store"),
        ("Retry-After", "7"),
        ("WWW-Authenticate", "Basic realm=mlflow"),
        ("X-Text", "gr\xfc\xdfe"),
    )
    upstream.answers(Answer(send(sized(b"", 200, *fields))))
    answer = get(front, key)
    assert [answer.one(name) for name, _ in fields] == [value for _, value in fields]


LOCATIONS = {
    "/": "{prefix}/",
    "/a/b%2fc?d=e#f": "{prefix}/a/b%2fc?d=e#f",
    "http://{internal}/a?b=/c": "{prefix}/a?b=/c",
    "https://{internal}/a": "{prefix}/a",
    "//{internal}/a": "{prefix}/a",
    "http://{internal}": "{prefix}/",
    "http://{internal}?a=b": "{prefix}/?a=b",
    "http://user:password@{internal}/a": "{prefix}/a",
    "a/b": "a/b",
    "../a": "../a",
    "?page=2": "?page=2",
    "https://bucket.s3.amazonaws.com/k?X-Amz-Signature=a%2Fb": (
        "https://bucket.s3.amazonaws.com/k?X-Amz-Signature=a%2Fb"
    ),
    "s3://bucket/key": "s3://bucket/key",
    "http://[broken": "http://[broken",
}


@pytest.mark.parametrize("field", ["Location", "Content-Location"])
@pytest.mark.parametrize("prefix", ["/api/mlflow", "/mlflow"])
@pytest.mark.parametrize("location", LOCATIONS)
def test_a_location_is_one_that_the_client_can_use(
    front: Proxy, upstream: Upstream, key: str, field: str, prefix: str, location: str
) -> None:
    internal = upstream.url.removeprefix("http://")
    upstream.answers(Answer(send(sized(b"", 307, (field, location.format(internal=internal))))))
    answer = get(front, key, f"{prefix}/version")
    assert answer.status == 307
    assert answer.one(field) == LOCATIONS[location].format(prefix=prefix)
    assert len(upstream.requests) == 1, "a redirect was followed"


def test_a_location_below_mlflows_own_prefix_loses_that_prefix(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    front = start_front(MLFLOW_SERVER_URL=f"{upstream.url}/behind")
    for location, public in {
        "/behind/a?b": "/api/mlflow/a?b",
        f"{upstream.url}/behind/a": "/api/mlflow/a",
        "/behind": "/api/mlflow/",
        "/behindhand": "/api/mlflow/behindhand",
    }.items():
        upstream.answers(Answer(send(sized(b"", 307, ("Location", location)))))
        assert get(front, key, "/api/mlflow/version").one("Location") == public


# --- MLflow's own errors -------------------------------------------------------------------------

BODIES = {
    "application/json": b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"}',
    "text/html; charset=utf-8": b"<html><h1>Internal Server Error</h1></html>",
    "text/plain": b"Invalid Host header - possible DNS rebinding attack detected",
    "": b"",
}


#: MLflow's refusals of the proxy itself, 401 and its text with 403, are not the caller's:
#: tests/app/upstream/test_answers.py.
STATUSES = (201, 202, 400, 403, 404, 405, 409, 413, 418, 422, 429, 500, 501, 502, 503, 504)
OWN = [pair for pair in product(STATUSES, BODIES) if pair != (403, "text/plain")]


@pytest.mark.parametrize(("status", "content_type"), OWN)
def test_mlflows_own_answers_stay_as_they_are(
    front: Proxy, upstream: Upstream, key: str, status: int, content_type: str
) -> None:
    fields = (("Content-Type", content_type),) if content_type else ()
    upstream.answers(Answer(send(sized(BODIES[content_type], status, *fields))))
    answer = get(front, key, "/api/mlflow/api/2.0/mlflow/experiments/search")
    assert (answer.status, answer.body) == (status, BODIES[content_type])
    assert answer.all("Content-Type") == ([content_type] if content_type else [])
    assert answer.one("X-Request-ID")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "line", [b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.0 200 OK", b"HTTP/1.1 299 \xfc"]
)
def test_an_odd_status_line_is_an_answer_all_the_same(
    front: Proxy, upstream: Upstream, key: str, line: bytes
) -> None:
    upstream.answers(Answer(send(line + b"\r\nContent-Length: 2\r\n\r\n{}")))
    answer = get(front, key)
    assert (answer.status, answer.body, answer.whole) == (int(line[9:12]), b"{}", True)
