"""The request, read once: what arrived goes on, and what could be read two ways is refused."""

import contextlib
import re
import time

import pytest

from app.request import addresses
from app.request.errors import BadRequest, InvalidName, LoopDetected
from app.request.inbound import HOP, client_address, receive, refuse_loop, request_id_of
from tests.app.samples import KEY, environ, inbound

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


# --- path and query ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "prefix", "path", "decoded"),
    [
        ("/api/mlflow/version", "/api/mlflow", "/version", "/version"),
        ("/mlflow/version", "/mlflow", "/version", "/version"),
        ("/mlflow/", "/mlflow", "/", "/"),
        ("/api/mlflow/mlflow/x", "/api/mlflow", "/mlflow/x", "/mlflow/x"),
        ("/mlflow/a%2Fb", "/mlflow", "/a%2Fb", "/a/b"),
        ("/mlflow/a%2fb%20c+d", "/mlflow", "/a%2fb%20c+d", "/a/b c+d"),
        ("/mlflow/a%252Fb", "/mlflow", "/a%252Fb", "/a%2Fb"),
        ("/mlflow/%E5%8C%97", "/mlflow", "/%E5%8C%97", "/北"),
        ("/mlflow/...a/b..c/d.", "/mlflow", "/...a/b..c/d.", "/...a/b..c/d."),
        ("http://registry.hokus.ai/mlflow/a%2Fb", "/mlflow", "/a%2Fb", "/a/b"),
        ("HTTPS://registry.hokus.ai/api/mlflow/x", "/api/mlflow", "/x", "/x"),
    ],
)
def test_the_path_goes_on_as_it_came_and_is_decoded_once(
    target: str, prefix: str, path: str, decoded: str
) -> None:
    asked = inbound("GET", target)
    assert (asked.prefix, asked.path, asked.decoded_path) == (prefix, path, decoded)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "a=1&a=2&a=1",
        "a",
        "&&a=&",
        "a=b?c=d/e",
        "a=%2F%2f%20+%25&b=/x//y",
        "filter=100%&b=%zz",
        "a=../b&b=%2e%2e",
        "path=model/data%20set/a..b/...",
        'filter={"a"}|^`\'<>[]',
        "key=value&token=next",
        "run_id=hk_test_",
        "page_token=hk_live_1",
        "name=hk_live_trading_model&alias=hk_test_champion",
        "filter=name%3D%27hk_test_abcdefghi%27",
    ],
)
def test_the_query_goes_on_as_it_came(query: str) -> None:
    assert inbound("GET", f"/mlflow/x?{query}").query == query


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/mlflow/a/../b", "dot segment"),
        ("/mlflow/./b", "dot segment"),
        ("/mlflow/a/..", "dot segment"),
        ("/mlflow/a/.", "dot segment"),
        ("/mlflow/%2e%2e/b", "dot segment"),
        ("/mlflow/a/%2E%2e%2Fb", "dot segment"),
        ("/mlflow/a%2f..%2fb", "dot segment"),
        ("/mlflow//a", "empty segment"),
        ("/mlflow/a//b", "empty segment"),
        ("/mlflow/a%2F/b", "empty segment"),
        ("/mlflow/a%2f%2Fb", "empty segment"),
        ("/mlflow/%2Fa", "empty segment"),
        ("/mlflow/a\\b", "backslash"),
        ("/mlflow/a%5Cb", "backslash"),
        ("/mlflow/a%00", "control character"),
        ("/mlflow/a%0A", "control character"),
        ("/mlflow/a%7f", "control character"),
        (f"/mlflow{ARTIFACTS}/a%0Ab", "control character"),
        ("/mlflow/100%", "percent sign"),
        ("/mlflow/%zz", "percent sign"),
        ("/mlflow/%u0041", "percent sign"),
        ("/mlflow/%ff", "not UTF-8"),
        ("/mlflow/%C0%AE%C0%AE/", "not UTF-8"),
        ("/mlflow/caf\u00c3\u00a9", "percent-encoded"),
        ("/mlflow/a#b", "percent-encoded"),
        ("/mlflow/x?a=caf\u00c3\u00a9", "percent-encoded"),
        ("/mlflow/x?a=b#c", "percent-encoded"),
        ("/mlflow/x?a=\x01", "percent-encoded"),
        ("/mlflow/x?a=%ff", "not UTF-8"),
        ("/mlflow/x?%C3&a=%A9", "not UTF-8"),
        ("/mlflow", "prefix"),
        ("/api/mlflowx/", "prefix"),
        ("/api%2Fmlflow/x", "prefix"),
        ("/API/mlflow/x", "prefix"),
        ("//mlflow/x", "prefix"),
        ("*", "must be a path"),
        ("mlflow/x", "must be a path"),
        ("ftp://host/mlflow/x", "must be a path"),
        ("http://registry.hokus.ai", "prefix"),
    ],
)
def test_what_could_be_read_two_ways_is_refused(target: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        inbound("GET", target)


@pytest.mark.parametrize(
    "query",
    [
        "api_key=anything",
        "a=1&API_KEY=anything",
        "apikey=",
        "x-api-key=a",
        "access_token=a",
        "api%5Fkey=a",
        f"run_id={KEY}",
        f"a=b&c=%68k_live_{'x' * 20}",
        KEY,
        f"{KEY}=1",
    ],
)
def test_a_key_in_the_query_is_refused_with_the_place_where_it_belongs(query: str) -> None:
    with pytest.raises(BadRequest, match="X-API-Key") as caught:
        inbound("GET", f"/mlflow/x?{query}")
    assert KEY not in caught.value.message


@pytest.mark.parametrize(
    "query",
    [
        "path=..",
        "path=../secret",
        "a=b&artifact_file_path=a/../../b",
        "artifact_directory_path=a%2F..%2Fb",
        "path=%2e%2e/b",
        "path=%252e%252e%252fb",
        "path=%25252e%25252e",
        "PATH=../b",
        "p%61th=../b",
        "path=a%5C..%5Cb",
        "path=file:a%00",
        "path=.%09.",
        "path=ok&path=../b",
    ],
)
def test_a_file_parameter_that_climbs_is_refused(query: str) -> None:
    with pytest.raises(InvalidName, match="must be relative"):
        inbound("GET", f"/mlflow{ARTIFACTS}?{query}")


@pytest.mark.parametrize(
    "query", ["path2=..", "xpath=..", "a=path=..", "a=b%26path=..", "path%3D=.."]
)
def test_another_parameter_is_no_file(query: str) -> None:
    assert inbound("GET", f"/mlflow{ARTIFACTS}?{query}").query == query


@pytest.mark.parametrize("field", ["&", "%41&", "path=a&"])
def test_a_query_of_many_fields_costs_little(field: str) -> None:
    """Nobody has shown a key yet, and the worker's other callers wait meanwhile. It was 30 to 60 ms
    of the processor's time."""
    query = field * (60_000 // len(field))
    assert min(_seconds(query) for _ in range(5)) < 0.02


def _seconds(query: str) -> float:
    began = time.process_time()
    with contextlib.suppress(BadRequest):
        inbound("GET", f"/mlflow/x?{query}")
    return time.process_time() - began


def test_a_query_names_few_files() -> None:
    names = "&path=a" * 17
    with pytest.raises(BadRequest, match="more than 16 files"):
        inbound("GET", f"/mlflow{ARTIFACTS}?{names}")
    assert inbound("GET", f"/mlflow{ARTIFACTS}?{names[7:]}").query == names[7:]


# --- the rest of the head ------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip, chunked", "deflate,chunked", "GZIP"])
def test_a_body_in_another_transfer_coding_is_refused(coding: str) -> None:
    """MLflow would get the coded bytes, and no word of the coding."""
    with pytest.raises(BadRequest, match="Transfer-Encoding"):
        receive(environ(HTTP_TRANSFER_ENCODING=coding), "request-0001", 0)


@pytest.mark.parametrize(
    ("variables", "length", "chunked"),
    [
        ({}, None, False),
        ({"CONTENT_LENGTH": ""}, None, False),
        ({"CONTENT_LENGTH": "0"}, 0, False),
        ({"CONTENT_LENGTH": "17"}, 17, False),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, None, True),
    ],
)
def test_how_the_body_is_framed(
    variables: dict[str, str], length: int | None, chunked: bool
) -> None:
    asked = inbound("POST", **variables)
    assert (asked.content_length, asked.chunked) == (length, chunked)


@pytest.mark.parametrize(
    ("hops", "forwarded", "address"),
    [
        (0, None, "198.51.100.7"),
        (0, "203.0.113.9", "198.51.100.7"),
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "10.0.0.1, 203.0.113.9", "203.0.113.9"),
        (1, "10.0.0.1,203.0.113.9 ", "203.0.113.9"),
        (2, "10.0.0.1, 203.0.113.9, 192.0.2.1", "203.0.113.9"),
        (1, "2001:DB8:0::1", "2001:db8::1"),
        (2, "203.0.113.9", "198.51.100.7"),
        (1, None, "198.51.100.7"),
        (1, "", "198.51.100.7"),
        (1, "203.0.113.9,", "198.51.100.7"),
        (1, "unknown", "198.51.100.7"),
        (1, "203.0.113.9:1234", "203.0.113.9"),
        (1, "203.0.113.9:123456", "198.51.100.7"),
        (1, "[2001:db8::1]:443", "2001:db8::1"),
        (1, '"[2001:db8::1]:443"', "2001:db8::1"),
        (1, '"[::1]"', "::1"),
        (1, "::ffff:203.0.113.9", "203.0.113.9"),
        (1, "[::ffff:203.0.113.9]:80", "203.0.113.9"),
        (1, "fe80::1%eth0", "fe80::1"),
        (1, "_hidden", "198.51.100.7"),
        (1, "203.0.113.9, ", "198.51.100.7"),
        (2, "made-up, 203.0.113.9,", "203.0.113.9"),
        (2, "192.0.2.66, , 10.0.0.1", "198.51.100.7"),
        (1, "unix:", "127.0.0.1"),
    ],
)
def test_the_client_is_who_the_outermost_trusted_proxy_saw(
    hops: int, forwarded: str | None, address: str
) -> None:
    assert client_address(environ(HTTP_X_FORWARDED_FOR=forwarded), hops) == address


@pytest.mark.parametrize(
    ("hops", "forwarded", "scheme"),
    [
        (0, "https", "http"),
        (1, "https", "https"),
        (1, "http, HTTPS", "https"),
        (1, "https, http", "http"),
        (2, "https, http", "https"),
        (2, "https", "https"),
        (1, "gopher", "http"),
        (1, None, "http"),
    ],
)
def test_the_scheme_is_believed_of_a_trusted_proxy_only(
    hops: int, forwarded: str | None, scheme: str
) -> None:
    asked = receive(environ(HTTP_X_FORWARDED_PROTO=forwarded), "request-0001", hops)
    assert asked.scheme == scheme


@pytest.mark.parametrize("given", ["12345678", "a-b.c_d-0123456789", "A" * 128])
def test_a_usable_request_id_is_kept(given: str) -> None:
    assert request_id_of(environ(HTTP_X_REQUEST_ID=given)) == given


@pytest.mark.parametrize(
    "given",
    [None, "", "short", "A" * 129, "-starts-wrong", "with blank", "líne-feed", "a\r\nb-12345", KEY],
)
def test_an_unusable_request_id_is_replaced(given: str | None) -> None:
    made = {request_id_of(environ(HTTP_X_REQUEST_ID=given)) for _ in range(2)}
    assert len(made) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in made)


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (TRACE, TRACE),
        (None, None),
        (TRACE.upper(), None),
        (TRACE + "-00", None),
        (TRACE.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), None),
        (TRACE.replace("b7ad6b7169203331", "0" * 16), None),
        ("garbage", None),
    ],
)
def test_a_trace_context_goes_on_if_it_is_well_formed(given: str | None, kept: str | None) -> None:
    assert inbound(HTTP_TRACEPARENT=given).traceparent == kept


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        inbound().path = "/elsewhere"  # type: ignore[misc]


def test_what_a_proxy_sent_is_not_sent_again() -> None:
    (value,) = HOP.values()
    with pytest.raises(LoopDetected, match="MLFLOW_SERVER_URL"):
        refuse_loop(environ(HTTP_X_HOKUSAI_HOP=value))
    refuse_loop(environ(HTTP_X_HOKUSAI_HOP="something of a client's"))
    refuse_loop(environ())


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("", "127.0.0.1"),
        ("/run/client.sock", "127.0.0.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_the_peer_is_an_address_whatever_the_socket(peer: str, address: str) -> None:
    assert client_address(environ(REMOTE_ADDR=peer), 0) == address
    assert client_address(environ(REMOTE_ADDR=peer), 1) == address


@pytest.mark.parametrize(
    ("hops", "forwarded", "host"),
    [
        (0, "public.example", "registry.hokus.ai"),
        (1, "public.example", "public.example"),
        (1, "made-up, public.example:8080", "public.example:8080"),
        (2, "public.example, inner", "public.example"),
        (1, None, "registry.hokus.ai"),
    ],
)
def test_mlflow_is_told_the_host_that_the_client_asked_for(
    hops: int, forwarded: str | None, host: str
) -> None:
    asked = receive(environ(HTTP_X_FORWARDED_HOST=forwarded), "request-0001", hops)
    assert asked.host == host


@pytest.mark.parametrize(("forwarded", "lines"), [("unknown", 1), (None, 1), ("192.0.2.1", 0)])
def test_an_unknown_client_is_logged_once(
    forwarded: str | None,
    lines: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(addresses, "_warned", set())
    for _ in range(3):
        receive(environ(HTTP_X_FORWARDED_FOR=forwarded), "request-0001", 1)
    assert len(caplog.records) == lines
    assert all(
        "TRUSTED_PROXY_HOPS" in r.message or "not an IP" in r.message for r in caplog.records
    )
