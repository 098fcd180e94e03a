"""Who the caller is, is told by the proxy alone; what MLflow may know of a request, goes on."""

from collections.abc import Callable
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.upstreams import Received, Upstream, chunk
from tests.wire import Response, Wire, bearer, call, request

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
ARTIFACT = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/model/weights.bin"

IDENTITY = ("X-Hokusai-User-Id", "X-Hokusai-Key-Id", "X-Hokusai-Service-Id")


def ask(front: Proxy, upstream: Upstream, key: str, *fields: str | bytes) -> Received:
    """What MLflow gets to see of a search with these header lines."""
    assert call(front.url, "GET", SEARCH, bearer(key), *fields).status == 200
    return upstream.requests[-1]


# --- identity ------------------------------------------------------------------------------------

SPELLINGS = (
    "X-Hokusai-User-Id",
    "x-hokusai-user-id",
    "X-HOKUSAI-USER-ID",
    "x-HoKuSaI-uSeR-iD",
    "X_Hokusai_User_Id",
    "X_HOKUSAI_USER_ID",
    "X-Hokusai_User-Id",
    "X_Hokusai-User-Id",
    "X-Hokusai-User_Id",
    "HTTP_X_HOKUSAI_USER_ID",
)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_forged_identity_never_reaches_mlflow(
    front: Proxy, upstream: Upstream, auth_service: Any, spelling: str
) -> None:
    own = auth_service.create_key(user="ann")
    seen = ask(front, upstream, own.key, f"{spelling}: root", f"{spelling}: root")
    assert seen.one("X-Hokusai-User-Id") == "ann"
    assert seen.one("X-Hokusai-Key-Id") == own.key_id
    assert seen.one("X-Hokusai-Service-Id") == "platform"
    assert b"root" not in seen.head


@pytest.mark.parametrize("name", [*IDENTITY, "X-Hokusai-Admin", "X-Hokusai-Scopes"])
def test_no_field_of_that_family_is_believed(
    front: Proxy, upstream: Upstream, key: str, name: str
) -> None:
    assert b"forged" not in ask(front, upstream, key, f"{name}: forged").head


@pytest.mark.parametrize("name", [*IDENTITY, "X-Request-ID", "X-Forwarded-For", "Host"])
def test_a_field_named_by_connection_is_ours_all_the_same(
    front: Proxy, upstream: Upstream, key: str, name: str
) -> None:
    """Connection: lists what a hop must remove (RFC 9110 section 7.6.1): the client's, not ours."""
    fields: tuple[str, ...]
    fields = (f"Connection: keep-alive, {name}", f"{name.lower()}: forged-by-client")
    fields = fields[:1] if name in ("Host", "X-Request-ID") else fields
    seen = ask(front, upstream, key, *fields)
    assert seen.one(name)
    assert b"forged" not in seen.head


def test_an_identity_in_the_trailers_stays_behind(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    body = chunk(b"hello") + b"0\r\nX-Hokusai-User-Id: root\r\nX_Hokusai_User_Id: root\r\n\r\n"
    fields = (bearer(key), "Transfer-Encoding: chunked", "Trailer: X-Hokusai-User-Id")
    assert call(front.url, "PUT", ARTIFACT, *fields, body=body).status == 200
    (seen,) = upstream.requests
    assert (seen.body, seen.trailers) == (b"hello", b"")
    assert len(seen.all("X-Hokusai-User-Id")) == 1
    assert b"root" not in seen.head


@pytest.mark.parametrize(
    ("user", "header"),
    [
        ("ann@hokus.ai", "ann@hokus.ai"),
        ("Katsushika Hokusai", "Katsushika Hokusai"),
        ("北斎", "%E5%8C%97%E6%96%8E"),
        ("zoë", "zo%C3%AB"),
        ("a\r\nX-Hokusai-User-Id: root", "a%0D%0AX-Hokusai-User-Id: root"),
        ("a%0D", "a%250D"),
    ],
)
def test_a_user_id_that_no_header_can_hold_is_percent_encoded(
    front: Proxy, upstream: Upstream, auth_service: Any, user: str, header: str
) -> None:
    seen = ask(front, upstream, auth_service.create_key(user=user).key)
    assert seen.all("X-Hokusai-User-Id") == [header]


CREDENTIALS_AND_ORIGINS = (
    "X-MLflow-Authorization: Basic cm9vdDpyb290",
    "X-Mlflow_Workspace: other",
    "X-MLflow-User: root",
    "Cookie: session=1",
    "Proxy-Authorization: Basic cm9vdDpyb290",
    "Forwarded: for=203.0.113.7;host=evil.test",
    "X-Forwarded-For: 203.0.113.7",
    "X-Forwarded-Host: evil.test",
    "X-Forwarded-Port: 64738",
    "X-Forwarded-User: root",
    "X-Forwarded-Email: root",
    "X-Forwarded-Access-Token: root",
    "X-Forwarded-Server: evil.test",
    "X-Real-IP: 203.0.113.7",
    "X-Client-IP: 203.0.113.7",
    "X-Remote-User: root",
    "Remote-User: root",
    "X-Auth-Request-User: root",
    "X-User: root",
    "X-Amzn-Oidc-Data: root",
    "X-Original-URL: /evil",
    "X-Rewrite-URL: /evil",
    "Origin: https://evil.test",
    "Via: 1.1 evil.test",
    "Proxy: http://evil.test",
)


@pytest.mark.parametrize("field", CREDENTIALS_AND_ORIGINS, ids=lambda field: field.split(":")[0])
def test_what_a_client_must_not_tell_mlflow_stays_behind(
    front: Proxy, upstream: Upstream, key: str, field: str
) -> None:
    name, _, value = field.partition(": ")
    spellings = (field, f"{name.upper()}: {value}", f"{name.replace('-', '_')}: {value}")
    for spelling in spellings:
        assert value.encode() not in ask(front, upstream, key, spelling).head


@pytest.mark.parametrize(
    "field",
    ["Authorization: Bearer {}", "Authorization: ApiKey {}", "X-API-Key: {}", "x-api-key: {}"],
)
def test_the_key_itself_stays_behind(
    front: Proxy, upstream: Upstream, key: str, field: str
) -> None:
    assert call(front.url, "GET", SEARCH, field.format(key)).status == 200
    assert key.encode() not in upstream.requests[0].head
    assert upstream.requests[0].all("Authorization") == []


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"MLFLOW_UPSTREAM_TOKEN": "a-token"}, "Bearer a-token"),
        (
            {"MLFLOW_UPSTREAM_USERNAME": "proxy", "MLFLOW_UPSTREAM_PASSWORD": "secret"},
            "Basic cHJveHk6c2VjcmV0",
        ),
    ],
    ids=["token", "password"],
)
def test_mlflow_is_shown_the_proxys_own_credentials(
    start_front: Callable[..., Proxy],
    upstream: Upstream,
    key: str,
    settings: dict[str, str],
    shown: str,
) -> None:
    front = start_front(**settings)
    assert ask(front, upstream, key, "X-API-Key: " + key).all("Authorization") == [shown]


# --- where the request came from -----------------------------------------------------------------


def test_mlflow_gets_its_own_host_and_is_told_the_clients(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    seen = ask(front, upstream, key, "Host: registry.hokus.ai", "X-Forwarded-Proto: https")
    assert seen.one("Host") == upstream.url.removeprefix("http://")
    assert seen.one("X-Forwarded-Host") == "registry.hokus.ai"
    assert seen.one("X-Forwarded-Prefix") == "/api/mlflow"
    assert seen.one("X-Forwarded-Proto") == "http", "no hop is trusted"
    assert seen.one("X-Forwarded-For") == "127.0.0.1"


def test_the_prefix_is_the_one_that_was_used(front: Proxy, upstream: Upstream, key: str) -> None:
    assert call(front.url, "GET", "/mlflow/version", bearer(key)).status == 200
    assert upstream.requests[0].one("X-Forwarded-Prefix") == "/mlflow"


#: Number of trusted hops, X-Forwarded-For as it came in, and whom it is then from.
HOPS = {
    0: [
        ((), "127.0.0.1"),
        (("203.0.113.7",), "127.0.0.1"),
    ],
    1: [
        ((), "127.0.0.1"),
        (("203.0.113.7",), "203.0.113.7"),
        (("10.0.0.1, 203.0.113.7",), "203.0.113.7"),
        (("10.0.0.1", "203.0.113.7"), "203.0.113.7"),
        (("203.0.113.7, ",), "127.0.0.1"),
        (("203.0.113.7, unknown",), "127.0.0.1"),
        (("<script>",), "127.0.0.1"),
        (("2001:DB8:0::1",), "2001:db8::1"),
    ],
    2: [
        (("203.0.113.7",), "127.0.0.1"),
        (("203.0.113.7, 10.0.0.1",), "203.0.113.7"),
        (("198.51.100.1, 203.0.113.7, 10.0.0.1",), "203.0.113.7"),
        (("198.51.100.1, 203.0.113.7", "10.0.0.1"), "203.0.113.7"),
    ],
}


@pytest.mark.parametrize("hops", HOPS)
def test_the_client_is_whom_the_outermost_trusted_proxy_saw(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str, hops: int
) -> None:
    front = start_front(TRUSTED_PROXY_HOPS=hops)
    for lines, client in HOPS[hops]:
        fields = [f"X-Forwarded-For: {line}" for line in lines]
        seen = ask(front, upstream, key, *fields, "X-Forwarded-Proto: https")
        assert seen.all("X-Forwarded-For") == [client], lines
        assert seen.one("X-Forwarded-Proto") == ("https" if hops else "http")


@pytest.mark.parametrize("field", ["Script_Name", "SCRIPT_NAME", "Script-Name", "X-Script-Name"])
@pytest.mark.parametrize("value", ["/api/mlflow", "/api", "/x"])
def test_no_field_moves_the_path(
    front: Proxy, upstream: Upstream, key: str, field: str, value: str
) -> None:
    seen = ask(front, upstream, key, f"{field}: {value}")
    assert seen.target == SEARCH.removeprefix("/api/mlflow").encode()
    assert seen.all("Script-Name") in ([], [value])


# --- hop by hop ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: trailers",
        "Trailer: X-Checksum",
        "Upgrade: websocket",
        "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
        "Proxy-Authenticate: Basic",
    ],
    ids=lambda field: field.split(":")[0],
)
def test_a_field_for_one_hop_goes_one_hop(
    front: Proxy, upstream: Upstream, key: str, field: str
) -> None:
    name = field.partition(":")[0]
    assert ask(front, upstream, key, field).all(name) == []


def test_a_field_named_by_connection_goes_one_hop(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    named = ("Connection: x-private , X-Also", "X-Private: 1", "X-Also: 1", "X-Public: 1")
    seen = ask(front, upstream, key, *named)
    assert (seen.all("X-Private"), seen.all("X-Also"), seen.all("X-Public")) == ([], [], ["1"])


# --- request id and trace ------------------------------------------------------------------------


def id_of(front: Proxy, upstream: Upstream, key: str, *fields: str | bytes) -> str:
    """The id that the client is told, which must be the one that MLflow is told."""
    answer: Response = call(front.url, "GET", SEARCH, bearer(key), *fields)
    told = answer.one("X-Request-ID")
    assert told
    assert told == upstream.requests[-1].one("X-Request-ID")
    return told


@pytest.mark.parametrize("given", ["12345678", "a" * 128, "b0e1.c2_d3-F4", "0" * 36])
def test_a_usable_request_id_is_kept(
    front: Proxy, upstream: Upstream, key: str, given: str
) -> None:
    assert id_of(front, upstream, key, f"X-Request-ID: {given}") == given


@pytest.mark.parametrize(
    "given",
    [
        "",
        "short",
        "a" * 129,
        "with a blank",
        "comma,comma",
        '"quoted"',
        "<script>alert(1)</script>",
        "-begins-with-a-dash",
        b"umlaut-\xfc-umlaut",
        "hk_test_0123456789abcdef",
    ],
)
def test_an_unusable_request_id_is_replaced(
    front: Proxy, upstream: Upstream, key: str, given: str | bytes
) -> None:
    line = b"X-Request-ID: " + (given if isinstance(given, bytes) else given.encode())
    told = id_of(front, upstream, key, line)
    assert len(told) == 32
    assert told.isalnum()


def test_of_two_request_ids_neither_is_believed(front: Proxy, upstream: Upstream, key: str) -> None:
    told = id_of(front, upstream, key, "X-Request-ID: aaaaaaaa", "X-Request-ID: bbbbbbbb")
    assert "aaaaaaaa" not in told
    assert "bbbbbbbb" not in told


def test_each_request_gets_an_id_of_its_own(front: Proxy, upstream: Upstream, key: str) -> None:
    with Wire(front.url) as wire:
        ids = {wire.ask(request("GET", SEARCH, bearer(key))).one("X-Request-ID") for _ in range(20)}
    assert len(ids) == 20


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_trace_goes_on_and_is_logged(front: Proxy, upstream: Upstream, key: str) -> None:
    seen = ask(front, upstream, key, f"traceparent: {TRACE}", "tracestate: vendor=1")
    assert seen.all("traceparent") == [TRACE]
    assert seen.all("tracestate") == ["vendor=1"]


@pytest.mark.parametrize(
    "given",
    [
        "nonsense",
        TRACE.upper(),
        TRACE[:-1],
        TRACE.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        TRACE.replace("b7ad6b7169203331", "0" * 16),
        f"{TRACE}, {TRACE}",
    ],
)
def test_a_malformed_trace_stays_behind(
    front: Proxy, upstream: Upstream, key: str, given: str
) -> None:
    assert ask(front, upstream, key, f"traceparent: {given}").all("traceparent") == []


# --- everything else goes on ---------------------------------------------------------------------

LEGITIMATE = (
    ("Range", "bytes=0-1"),
    ("If-None-Match", '"a", W/"b"'),
    ("If-Modified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("X-MLflow-Experiment-Id", "7"),
    ("User-Agent", "mlflow-python-client/3.17.2"),
    ("Accept", "application/json, */*;q=0.5"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("Accept-Language", "ja"),
    ("Content-Encoding", "gzip"),
    ("Content-Type", "application/x-protobuf"),
    ("Content-MD5", "XUFAKrxLKna5cZ2REBfFkg=="),
    ("baggage", "a=1"),
    ("X-Own-Invention", "gr\xfc\xdfe"),
)


def test_what_else_a_client_says_goes_on(front: Proxy, upstream: Upstream, key: str) -> None:
    fields = [f"{name}: {value}".encode("latin-1") for name, value in LEGITIMATE]
    seen = ask(front, upstream, key, *fields)
    assert [(name, seen.all(name)) for name, _ in LEGITIMATE] == [
        (name, [value]) for name, value in LEGITIMATE
    ]


def test_a_repeated_field_keeps_all_its_values(front: Proxy, upstream: Upstream, key: str) -> None:
    seen = ask(front, upstream, key, "Accept: a/b", "X-Other: 1", "accept: c/d")
    assert ", ".join(seen.all("Accept")).replace(" ", "") == "a/b,c/d"


def test_nothing_is_added_but_what_the_contract_names(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    seen = ask(front, upstream, key)
    names = sorted(name.lower() for name, _ in seen.headers)
    assert [name for name in names if name not in ("accept-encoding", "connection")] == [
        "host",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-prefix",
        "x-forwarded-proto",
        "x-hokusai-hop",
        "x-hokusai-key-id",
        "x-hokusai-service-id",
        "x-hokusai-user-id",
        "x-request-id",
    ]
    assert seen.one("Accept-Encoding") in (None, "identity")
