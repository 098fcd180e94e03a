"""MLflow's static files come compressed, once; artifacts and answers come as they are."""

import gzip
import os
import re
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.upstreams import (
    OK,
    Answer,
    Received,
    Upstream,
    eventually,
    pause,
    reset,
    send,
    silence,
    sized,
    until,
)
from tests.wire import Response, Wire, bearer, call, request

SCRIPT = b"export const wave = 'kanagawa';\n" * 20_000
GZIP = "Accept-Encoding: gzip, deflate, br"
TYPED = (("Content-Type", "text/javascript"), ("ETag", '"1-2-3"'))


def script(request: Received) -> Answer:
    """As MLflow serves a static file: ETag, conditions, ranges."""
    fields = (
        ("Content-Type", "text/javascript; charset=utf-8"),
        ("Cache-Control", "public, max-age=2419200"),
        ("ETag", '"1-2-3"'),
        ("Accept-Ranges", "bytes"),
        ("Vary", "Origin"),
    )
    if request.one("If-None-Match") in ('"1-2-3"', 'W/"1-2-3"'):
        return Answer(send(sized(b"", 304, *fields[1:3])))
    if request.one("Range"):
        content_range = ("Content-Range", f"bytes 0-9/{len(SCRIPT)}")
        return Answer(send(sized(SCRIPT[:10], 206, *fields, content_range)))
    return Answer(send(sized(SCRIPT, 200, *fields)))


@pytest.fixture
def name(upstream: Upstream) -> str:
    """A script that no other test asks for."""
    upstream.answers_by(script)
    return f"/mlflow/static-files/{uuid.uuid4().hex}.js"


def ask(front: Proxy, key: str, name: str, *fields: str, method: str = "GET") -> Response:
    return call(front.url, method, name, bearer(key), *fields)


def test_a_script_is_compressed_once_and_then_kept(
    front: Proxy, upstream: Upstream, key: str, name: str
) -> None:
    first, second = ask(front, key, name, GZIP), ask(front, key, name, GZIP)
    assert first.body == second.body
    assert gzip.decompress(first.body) == SCRIPT
    assert len(first.body) * 20 < len(SCRIPT)
    assert [request.one("If-None-Match") for request in upstream.requests] == [None, '"1-2-3"']
    for answer in (first, second):
        assert (answer.status, answer.whole) == (200, True)
        assert answer.one("Content-Encoding") == "gzip"
        assert answer.one("Vary") == "Origin, Accept-Encoding"
        assert answer.one("ETag") == 'W/"1-2-3"'  # the same file, other bytes
        assert answer.one("Cache-Control") == "public, no-cache"
        assert answer.one("Accept-Ranges") is None
    assert second.one("Content-Length") == str(len(second.body))


@pytest.mark.parametrize("hashed", [False, True])
def test_what_one_caller_was_told_of_his_own_fields_is_told_nobody_else(
    front: Proxy, upstream: Upstream, name: str, hashed: bool
) -> None:
    if hashed:
        name = name.replace(".js", ".c2f5f8d4.js")
    told = "X-Hokusai-Dropped-Headers"
    first = call(front.url, "GET", name, GZIP, "X-Auth-Stranger: 1")
    assert (first.status, first.one(told)) == (200, "X-Auth-Stranger")
    second = call(front.url, "GET", name, GZIP)
    assert (second.body, second.one(told)) == (first.body, None)
    third = call(front.url, "GET", name, GZIP, "X-Auth-Other: 1")
    assert third.one(told) == (None if hashed else "X-Auth-Other")  # MLflow gets no request


def test_who_kept_it_is_told_that_it_is_the_same(
    front: Proxy, upstream: Upstream, key: str, name: str
) -> None:
    for _ in range(2):  # with and without a copy here
        answer = ask(front, key, name, GZIP, 'If-None-Match: W/"1-2-3"')
        assert (answer.status, answer.body) == (304, b"")
        assert answer.one("ETag") == 'W/"1-2-3"'
        assert answer.one("Vary") == "Accept-Encoding"
        ask(front, key, name, GZIP)


@pytest.mark.parametrize("etag", ['"new"', '"new"-gzip'])  # servers in front add such ends
def test_a_changed_file_is_compressed_anew(
    front: Proxy, upstream: Upstream, key: str, name: str, etag: str
) -> None:
    ask(front, key, name, GZIP)
    fields = (("Content-Type", "text/css"), ("ETag", etag))
    upstream.answers(Answer(send(sized(SCRIPT[::-1], 200, *fields))))
    answer = ask(front, key, name, GZIP)
    assert gzip.decompress(answer.body) == SCRIPT[::-1]
    assert answer.one("ETag") == f"W/{etag}"


def test_who_has_an_older_version_gets_the_copy(
    front: Proxy, upstream: Upstream, key: str, name: str
) -> None:
    first = ask(front, key, name, GZIP)
    for field in ('If-None-Match: "old"', 'If-None-Match: W/"older", "old"'):
        answer = ask(front, key, name, GZIP, field)
        assert (answer.status, answer.body) == (200, first.body)
        assert upstream.requests[-1].one("If-None-Match") == '"1-2-3"'  # not compressed anew


def test_a_query_makes_no_other_file(front: Proxy, upstream: Upstream, key: str, name: str) -> None:
    first = ask(front, key, name, GZIP)
    assert ask(front, key, f"{name}?1", GZIP).body == first.body
    assert upstream.requests[-1].one("If-None-Match") == '"1-2-3"'


def test_head_says_what_get_would(front: Proxy, upstream: Upstream, key: str, name: str) -> None:
    early = ask(front, key, name, GZIP, method="HEAD")
    whole = ask(front, key, name, GZIP)
    late = ask(front, key, name, GZIP, method="HEAD")
    for head in (early, late):
        assert (head.status, head.body) == (200, b"")
        assert head.one("Content-Encoding") == "gzip"
        assert head.one("ETag") == whole.one("ETag")
        assert head.one("Content-Length") in (None, str(len(whole.body)))
    assert late.one("Content-Length") == str(len(whole.body))


@pytest.mark.parametrize(
    "accepted",
    [
        "",
        "identity",
        "br",
        "gzip;q=0",
        "gzip;q=0.0, br",
        "*;q=0",
        "identity, gzip;q=0.5",
        "gzip," * 500,
    ],
)
def test_who_does_not_want_gzip_gets_none(
    front: Proxy, upstream: Upstream, key: str, name: str, accepted: str
) -> None:
    fields = [f"Accept-Encoding: {accepted}"] if accepted else []
    for _ in range(2):
        answer = ask(front, key, name, *fields)
        assert answer.body == SCRIPT
        assert answer.one("Content-Encoding") is None
        assert answer.one("ETag") == '"1-2-3"'
        assert "Accept-Encoding" in (answer.one("Vary") or "")
        ask(front, key, name, GZIP)


@pytest.mark.parametrize("accepted", ["gzip", "GZIP;q=0.5", "*", "br;q=1, gzip;q=0.1"])
def test_who_takes_gzip_in_any_spelling_gets_it(
    front: Proxy, upstream: Upstream, key: str, name: str, accepted: str
) -> None:
    answer = ask(front, key, name, f"Accept-Encoding: {accepted}")
    assert gzip.decompress(answer.body) == SCRIPT


def test_a_range_is_of_mlflows_own_bytes(
    front: Proxy, upstream: Upstream, key: str, name: str
) -> None:
    ask(front, key, name, GZIP)
    for fields in (["Range: bytes=0-9"], ["Range: bytes=0-9", 'If-Range: "1-2-3"']):
        answer = ask(front, key, name, GZIP, *fields)
        assert (answer.status, answer.body) == (206, SCRIPT[:10])
        assert answer.one("Content-Encoding") is None


@pytest.mark.parametrize("known", ['W/"1-2-3"', "Sat, 21 Nov 2026 09:10:42 GMT"])
def test_a_rest_of_our_bytes_is_never_a_rest_of_mlflows(
    front: Proxy, upstream: Upstream, key: str, name: str, known: str
) -> None:
    answer = ask(front, key, name, GZIP, "Range: bytes=0-9", f"If-Range: {known}")
    assert answer.status == 200
    assert gzip.decompress(answer.body) == SCRIPT


def test_a_file_that_broke_off_does_not_look_whole_and_is_not_kept(
    front: Proxy, upstream: Upstream, key: str, name: str
) -> None:
    broken = sized(SCRIPT, 200, ("Content-Type", "text/css"), ("ETag", '"1-2-3"'))[:-100_000]
    upstream.answers(Answer(send(broken), reset()))
    answer = ask(front, key, name, GZIP, "Connection: close")
    assert (answer.status, answer.whole) == (502, True)
    upstream.answers_by(script)
    assert gzip.decompress(ask(front, key, name, GZIP).body) == SCRIPT
    assert upstream.requests[-1].one("If-None-Match") is None


@pytest.mark.slow
def test_nobody_waits_for_long_where_mlflow_fell_silent_in_the_middle_of_it(
    start_proxy: Callable[..., Proxy], upstream: Upstream, name: str
) -> None:
    """Five that wait, each with a silent response of its own, would wait for five time-outs."""
    front = start_proxy(MLFLOW_SERVER_URL=upstream.url, WEB_CONCURRENCY=1)
    upstream.answers(Answer(send(sized(SCRIPT, 200, *TYPED)[:1000]), silence()))
    with ExitStack() as open_ones:
        for _ in range(5):
            wire = open_ones.enter_context(Wire(front.url))
            wire.send(request("GET", name, GZIP))
        eventually(lambda: len(upstream.requests) == 5, "all to be asked for")
        upstream.answers_by(script)
        assert call(front.url, "GET", name, GZIP).body == SCRIPT


def test_who_leaves_makes_nobody_compress_it_again(
    front: Proxy, upstream: Upstream, key: str, name: str
) -> None:
    """Nobody needs a key here, and a file of 3 MB costs 0.2 s of the processor's time."""
    noise, go_on, request_id = os.urandom(2_000_000), threading.Event(), uuid.uuid4().hex
    file = sized(noise, 200, ("Content-Type", "text/css"), ("ETag", '"1-2-3"'))
    upstream.answers(Answer(send(file[:1_000_000]), until(go_on), send(file[1_000_000:])))
    with Wire(front.url) as leaving:
        leaving.send(request("GET", name, GZIP, f"X-Request-ID: {request_id}"))
        upstream.wait_for(lambda: len(upstream.requests) == 1, "the first request")
    go_on.set()
    logged = f'"request_id":"{request_id}"'
    eventually(lambda: logged in front.log.read_text(), "the end of the first request")
    upstream.answers_by(script)
    assert gzip.decompress(ask(front, key, name, GZIP).body) == noise
    assert upstream.requests[-1].one("If-None-Match") == '"1-2-3"'


def test_who_waits_too_long_for_another_request_gets_the_file_as_it_is(
    front: Proxy, upstream: Upstream, key: str, name: str
) -> None:
    """The other one may wait for an MLflow that is gone, and more behind it, one after another."""
    go_on = threading.Event()
    file = sized(SCRIPT, 200, ("Content-Type", "text/css"), ("ETag", '"1-2-3"'))
    upstream.answers(Answer(send(file[:5000]), until(go_on), send(file[5000:])))
    with Wire(front.url) as waiting:
        waiting.send(request("GET", name, GZIP))
        upstream.wait_for(lambda: len(upstream.requests) == 1, "the first request")
        upstream.answers_by(script)
        answer = ask(front, key, name, GZIP)
        go_on.set()
        assert gzip.decompress(waiting.read().body) == SCRIPT
    assert (answer.body, answer.one("Content-Encoding")) == (SCRIPT, None)


AS_THEY_ARE = {
    "a font": ("/mlflow/static-files/a.woff2", ("Content-Type", "font/woff2")),
    "compressed already": ("/mlflow/static-files/b.js", ("Content-Encoding", "br")),
    "not to be changed": ("/mlflow/static-files/c.js", ("Cache-Control", "no-transform")),
    "an artifact": (
        "/mlflow/api/2.0/mlflow-artifacts/artifacts/static-files/a.js",
        ("Content-Type", "text/javascript"),
    ),
    "another artifact": ("/mlflow/get-artifact?path=a.js", ("Content-Type", "text/javascript")),
    "an answer": (
        "/mlflow/ajax-api/2.0/mlflow/experiments/search",
        ("Content-Type", "application/json"),
    ),
}


@pytest.mark.parametrize("what", AS_THEY_ARE)
def test_this_is_passed_on_as_it_is(front: Proxy, upstream: Upstream, key: str, what: str) -> None:
    path, field = AS_THEY_ARE[what]
    kind = () if field[0] == "Content-Type" else (("Content-Type", "text/javascript"),)
    upstream.answers(Answer(send(sized(SCRIPT, 200, field, *kind, ("ETag", '"1"')))))
    for _ in range(2):
        answer = ask(front, key, path, GZIP)
        assert answer.body == SCRIPT
        assert answer.one("ETag") == '"1"'


def test_a_static_file_needs_no_key_and_says_nothing_of_who_asks(
    front: Proxy, upstream: Upstream, name: str
) -> None:
    for fields in ((), (bearer("hk_test_bad"),), ("Cookie: hokusai-session=junk",)):
        answer = call(front.url, "GET", name, GZIP, *fields)
        assert gzip.decompress(answer.body) == SCRIPT
        assert answer.one("X-Content-Type-Options") == "nosniff"
        assert call(front.url, "HEAD", name, GZIP, *fields).status == 200
    for seen in upstream.requests:
        names = {field.lower() for field, _ in seen.headers}
        assert not {name for name in names if name.startswith("x-hokusai-")} - {"x-hokusai-hop"}
        assert "authorization" not in names


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_reading_needs_no_key(
    front: Proxy, upstream: Upstream, name: str, method: str
) -> None:
    assert call(front.url, method, name).error == (401, "UNAUTHENTICATED")
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/mlflow/static-files/../api/2.0/mlflow/runs/get", 400),
        ("/mlflow/static-files/%2e%2e/version", 400),
        ("/mlflow/static-files/a.js?api_key=hk_test_0123456789", 400),
        ("/mlflow/static-filesx/a.js", 401),
        ("/mlflow/x/static-files/a.js", 401),
    ],
)
def test_nothing_else_is_reached_without_a_key(
    front: Proxy, upstream: Upstream, path: str, status: int
) -> None:
    assert call(front.url, "GET", path).status == status
    assert upstream.requests == []


HASHED = "/mlflow/static-files/static/js/main.c2f5f8d4.chunk.js"


def test_a_hashed_file_is_kept_for_ever_and_mlflow_is_not_asked_again(
    front: Proxy, upstream: Upstream
) -> None:
    upstream.answers_by(script)
    for _ in range(3):
        answer = call(front.url, "GET", HASHED, GZIP)
        assert gzip.decompress(answer.body) == SCRIPT
        assert answer.one("Cache-Control") == "public, max-age=31536000, immutable"
    assert len(upstream.requests) == 1
    again = call(front.url, "GET", HASHED, GZIP, f"If-None-Match: {answer.one('ETag')}")
    assert (again.status, again.body) == (304, b"")
    assert again.one("Cache-Control") == "public, max-age=31536000, immutable"
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("status", "content_type"),
    [(404, "text/html"), (500, "application/json"), (503, "text/html"), (200, "text/html")],
)
def test_an_error_in_a_files_place_is_not_kept(
    front: Proxy, upstream: Upstream, status: int, content_type: str
) -> None:
    path = f"/mlflow/static-files/{uuid.uuid4().hex}.c2f5f8d4.js"
    fields = (("Content-Type", content_type), ("Cache-Control", "max-age=9"), ("ETag", '"1"'))
    upstream.answers(Answer(send(sized(b"<html>" + b"e" * 2000, status, *fields))))
    answer = call(front.url, "GET", path, GZIP)
    assert answer.status == status
    assert answer.one("Cache-Control") == "no-store"
    upstream.answers_by(script)
    assert gzip.decompress(call(front.url, "GET", path, GZIP).body) == SCRIPT


def test_static_files_count_against_no_limit(
    front: Proxy, upstream: Upstream, auth_service: Any, name: str
) -> None:
    limited = auth_service.create_key(scopes=["read"], limit=1).key
    statuses = [ask(front, limited, name).status for _ in range(5)]
    assert statuses == [200] * 5


def test_the_page_that_a_notebook_shows_finds_its_parts(proxy: Proxy) -> None:
    """A real MLflow's: it takes for granted that it stands at the root of its host."""
    for prefix in ("/api/mlflow", "/mlflow"):
        path = f"{prefix}/static-files/lib/notebook-trace-renderer/index.html?trace_id=tr-1"
        page = call(proxy.url, "GET", path, "Accept: text/html", "Sec-Fetch-Dest: iframe")
        assert page.status == 200
        assert page.one("X-Frame-Options") is page.one("Content-Security-Policy") is None
        assert b'<base href="/mlflow/">' in page.body
        (source,) = re.findall(rb' src="([^"]+)"', page.body)
        assert source.startswith(b"/mlflow/static-files/")
        loaded = call(proxy.url, "GET", source)
        assert loaded.status == 200
        assert "javascript" in (loaded.one("Content-Type") or "")
        assert "immutable" in (loaded.one("Cache-Control") or "")
        head = call(proxy.url, "HEAD", path)
        assert head.status == 200


def test_both_prefixes_have_it(front: Proxy, upstream: Upstream, key: str, name: str) -> None:
    assert gzip.decompress(ask(front, key, f"/api{name}", GZIP).body) == SCRIPT


def test_strangers_slow_requests_take_nobody_elses_places(
    start_front: Callable[..., Proxy], upstream: Upstream
) -> None:
    front, go_on = start_front(TRUSTED_PROXY_HOPS=1, MAX_IN_FLIGHT_PER_KEY=1), threading.Event()
    path, one, other = "/mlflow/static-files/a.png", "203.0.113.1", "203.0.113.2"
    upstream.answers(Answer(until(go_on), *OK.steps), OK)
    with Wire(front.url) as slow:
        slow.send(request("GET", path, f"X-Forwarded-For: {one}"))
        upstream.wait_for(lambda: len(upstream.requests) == 1, "the slow request")
        try:
            with Wire(front.url) as next_one:
                next_one.send(request("GET", path, f"X-Forwarded-For: {one}"))
                assert call(front.url, "GET", path, f"X-Forwarded-For: {other}").status == 200
                assert len(upstream.requests) == 2
                go_on.set()
                assert [slow.read().status, next_one.read().status] == [200, 200]
        finally:
            go_on.set()


def test_two_people_at_one_address_get_all_of_a_page(
    start_front: Callable[..., Proxy], upstream: Upstream
) -> None:
    """Over HTTP/2 a browser asks for a page's files at once, and it repeats none."""
    front = start_front()
    upstream.answers(Answer(pause(0.3), *OK.steps))
    paths = [f"/mlflow/static-files/{n}.png" for n in range(90)]
    with ThreadPoolExecutor(len(paths)) as pool:
        answers = list(pool.map(lambda path: call(front.url, "GET", path).status, paths))
    assert answers == [200] * len(paths)


def test_strangers_from_everywhere_leave_places_for_keys(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    """One person has as many networks of IPv6 addresses as it takes."""
    front, go_on = start_front(TRUSTED_PROXY_HOPS=1, MAX_IN_FLIGHT=8), threading.Event()
    slow, path = Answer(until(go_on), *OK.steps), "/mlflow/static-files/a.png"
    upstream.answers_by(lambda asked: slow if b"static-files" in asked.target else OK)
    with ExitStack() as ends:
        ends.callback(go_on.set)
        strangers = [ends.enter_context(Wire(front.url)) for _ in range(10)]
        for number, stranger in enumerate(strangers):
            stranger.send(request("GET", path, f"X-Forwarded-For: 2001:db8:0:{number}::1"))
        upstream.wait_for(lambda: len(upstream.requests) == 2, "a quarter of them")
        assert call(front.url, "GET", "/api/mlflow/version", bearer(key)).status == 200
        go_on.set()
        assert sorted(stranger.read().status for stranger in strangers) == [200] * 10


def test_without_a_key_no_body_is_read(front: Proxy, upstream: Upstream) -> None:
    head = ("Content-Length: 9000", "Transfer-Encoding: chunked")
    for field in head:
        with Wire(front.url) as client:
            client.send(request("GET", "/mlflow/static-files/a.png", field))
            assert client.read().error == (400, "BAD_REQUEST")
    assert not upstream.requests
