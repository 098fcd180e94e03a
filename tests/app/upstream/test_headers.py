"""Headers both ways: identity stripped in every spelling before ours is added, no address out."""

import pytest

from app.upstream.headers import upstream_headers
from app.upstream.returned_headers import public_location, returned_headers
from tests.app.samples import inbound, permit, principal

MLFLOW = "http://mlflow.internal:5000"


def sent(**variables: str) -> dict[str, str]:
    """What MLflow gets for a request with these WSGI variables."""
    asked = inbound("POST", "/api/mlflow/version", **variables)
    return upstream_headers(permit(asked), "mlflow.internal:5000", {})


# --- to MLflow -----------------------------------------------------------------------------------

OURS = {
    "X-Hokusai-User-Id": "ann",
    "X-Hokusai-Key-Id": "key-1",
    "X-Hokusai-Service-Id": "platform",
    "X-Request-ID": "request-0001",
    "X-Forwarded-For": "198.51.100.7",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Host": "registry.hokus.ai",
    "X-Forwarded-Prefix": "/api/mlflow",
    "Host": "mlflow.internal:5000",
}


def test_what_goes_on_of_our_own() -> None:
    assert sent() == OURS


@pytest.mark.parametrize(
    ("variable", "name", "value"),
    [
        ("HTTP_ACCEPT", "Accept", "application/json"),
        ("HTTP_ACCEPT_ENCODING", "Accept-Encoding", "gzip"),
        ("HTTP_RANGE", "Range", "bytes=0-1"),
        ("HTTP_IF_NONE_MATCH", "If-None-Match", '"etag"'),
        ("HTTP_USER_AGENT", "User-Agent", "mlflow-python-client/3.17.2"),
        ("HTTP_X_MLFLOW_RUN_ID", "X-Mlflow-Run-Id", "abc"),
        ("HTTP_X_DATABRICKS_TRACE", "X-Databricks-Trace", "1"),
        ("HTTP_CONTENT_ENCODING", "Content-Encoding", "gzip"),
        ("HTTP_X_TEXT", "X-Text", "gr\xfc\xdfe"),
        ("CONTENT_TYPE", "Content-Type", "application/json; charset=utf-8"),
    ],
)
def test_what_means_something_to_mlflow_goes_on_unchanged(
    variable: str, name: str, value: str
) -> None:
    assert sent(**{variable: value}) == OURS | {name: value}


@pytest.mark.parametrize(
    "variable",
    """HTTP_AUTHORIZATION HTTP_X_API_KEY HTTP_COOKIE HTTP_PROXY_AUTHORIZATION
    HTTP_X_HOKUSAI_USER_ID HTTP_X_HOKUSAI_KEY_ID HTTP_X_HOKUSAI_SERVICE_ID HTTP_X_HOKUSAI_SCOPES
    HTTP_X_HOKUSAI_ HTTP_X_MLFLOW_AUTHORIZATION HTTP_X_MLFLOW_WORKSPACE HTTP_X_MLFLOW_USER_ID
    HTTP_X_MLFLOW_GATEWAY_TOKEN HTTP_X_REQUEST_ID HTTP_X_USER HTTP_X_USER_ID HTTP_X_USERNAME
    HTTP_X_AUTH_REQUEST_EMAIL HTTP_X_REMOTE_USER HTTP_REMOTE_USER HTTP_X_AMZN_OIDC_DATA
    HTTP_X_ORIGINAL_URL HTTP_X_REWRITE_URL
    HTTP_FORWARDED HTTP_VIA HTTP_X_REAL_IP HTTP_X_CLIENT_IP HTTP_X_FORWARDED_FOR
    HTTP_X_FORWARDED_HOST HTTP_X_FORWARDED_PROTO HTTP_X_FORWARDED_PREFIX HTTP_X_FORWARDED_USER
    HTTP_X_FORWARDED_EMAIL HTTP_X_FORWARDED_ACCESS_TOKEN HTTP_ORIGIN HTTP_TRACEPARENT
    HTTP_KEEP_ALIVE HTTP_TE HTTP_TRAILER HTTP_TRANSFER_ENCODING HTTP_UPGRADE HTTP_HTTP2_SETTINGS
    HTTP_PROXY_CONNECTION HTTP_PROXY_AUTHENTICATE HTTP_PROXY HTTP_EXPECT
    CONTENT_LENGTH REMOTE_USER AUTH_TYPE SCRIPT_NAME SERVER_NAME""".split(),
)
def test_what_a_client_must_not_say_does_not_go_on(variable: str) -> None:
    """WSGI's names: `-`, `_` and case are folded into one by the server already."""
    value = "chunked" if variable == "HTTP_TRANSFER_ENCODING" else "12345"
    assert sent(**{variable: value}) == OURS


def test_what_the_connection_header_names_ends_here() -> None:
    given = sent(
        HTTP_CONNECTION="close, X-Private , keep-alive", HTTP_X_PRIVATE="1", HTTP_X_PUBLIC="2"
    )
    assert given == OURS | {"X-Public": "2"}


def test_the_connection_header_cannot_take_ours_away() -> None:
    assert sent(HTTP_CONNECTION="X-Hokusai-User-Id, Host, X-Request-ID") == OURS


def test_what_the_proxy_shows_mlflow_replaces_the_clients() -> None:
    asked = inbound("GET", HTTP_AUTHORIZATION="Bearer hk_test_client")
    headers = upstream_headers(permit(asked), "mlflow", {"Authorization": "Bearer own"})
    assert headers["Authorization"] == "Bearer own"


def test_a_well_formed_trace_goes_on() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert sent(HTTP_TRACEPARENT=trace, HTTP_TRACESTATE="a=b") == OURS | {
        "traceparent": trace,
        "Tracestate": "a=b",
    }


def test_without_a_host_there_is_none_to_tell() -> None:
    asked = inbound("GET", "/api/mlflow/version", HTTP_HOST=None)
    assert "X-Forwarded-Host" not in upstream_headers(permit(asked), "mlflow", {})


@pytest.mark.parametrize(
    ("user_id", "told"),
    [
        ("ann@example.com", "ann@example.com"),
        ("Zo\u00eb", "Zo%C3%AB"),
        ("a\r\nX-Hokusai-Key-Id: other", "a%0D%0AX-Hokusai-Key-Id: other"),
        ("nul\0", "nul%00"),
        ("北", "%E5%8C%97"),
    ],
)
def test_an_identity_cannot_begin_a_line_of_its_own(user_id: str, told: str) -> None:
    allowed = permit(who=principal(user_id=user_id, key_id=user_id, service_id=user_id))
    headers = upstream_headers(allowed, "mlflow", {})
    for name in ("X-Hokusai-User-Id", "X-Hokusai-Key-Id", "X-Hokusai-Service-Id"):
        assert headers[name] == told


# --- to the client -------------------------------------------------------------------------------


def test_mlflows_headers_come_back_in_order_and_repeated_ones_apart() -> None:
    fields = [
        ("Content-Type", "text/plain"),
        ("X-Many", "1"),
        ("ETag", '"a"'),
        ("x-many", "2"),
        ("Content-Length", "3"),
        ("Vary", "Origin"),
    ]
    assert returned_headers(fields, MLFLOW, "/mlflow") == fields


@pytest.mark.parametrize(
    "name",
    """Connection connection Keep-Alive Transfer-Encoding Trailer Upgrade TE Proxy-Authenticate
    Proxy-Connection Server Date Set-Cookie SET-COOKIE X-Request-ID""".split(),
)
def test_what_is_mlflows_own_business_does_not_come_back(name: str) -> None:
    fields = [(name, "any"), ("X-Kept", "1")]
    assert returned_headers(fields, MLFLOW, "/mlflow") == [("X-Kept", "1")]


@pytest.mark.parametrize("name", ["Location", "location", "Content-Location"])
def test_an_address_is_made_public_wherever_it_stands(name: str) -> None:
    fields = [(name, f"{MLFLOW}/runs?a=b")]
    assert returned_headers(fields, MLFLOW, "/mlflow") == [(name, "/mlflow/runs?a=b")]


@pytest.mark.parametrize(
    ("upstream", "location", "public"),
    [
        (MLFLOW, "/runs/", "/mlflow/runs/"),
        (MLFLOW, "/runs?a=%2F#top", "/mlflow/runs?a=%2F#top"),
        (MLFLOW, "http://mlflow.internal:5000/runs", "/mlflow/runs"),
        (MLFLOW, "http://MLFLOW.internal:5000/runs", "/mlflow/runs"),
        (MLFLOW, "//mlflow.internal:5000/runs", "/mlflow/runs"),
        (MLFLOW, "http://mlflow.internal:5000", "/mlflow/"),
        (MLFLOW, "http://mlflow.internal:5000?a=b", "/mlflow/?a=b"),
        (MLFLOW, "runs/", "runs/"),
        (MLFLOW, "../runs", "../runs"),
        (MLFLOW, "?page=2", "?page=2"),
        (MLFLOW, "#/experiments", "#/experiments"),
        (MLFLOW, "https://bucket.s3.amazonaws.com/a?X=1", "https://bucket.s3.amazonaws.com/a?X=1"),
        (MLFLOW, "http://mlflow.internal:5001/a", "http://mlflow.internal:5001/a"),
        (MLFLOW, "http://mlflow.internal:port/a", "http://mlflow.internal:port/a"),
        (MLFLOW, "http://[::1", "http://[::1"),
        ("http://mlflow", "http://mlflow:80/a", "/mlflow/a"),
        ("http://mlflow:80", "http://mlflow/a", "/mlflow/a"),
        ("https://mlflow:443", "https://mlflow/a", "/mlflow/a"),
        ("https://mlflow", "https://mlflow:443/a", "/mlflow/a"),
        ("http://mlflow", "https://mlflow/a", "/mlflow/a"),  # where it believes X-Forwarded-Proto
        ("http://mlflow/base", "/base/runs", "/mlflow/runs"),
        ("http://mlflow/base", "http://mlflow/base", "/mlflow/"),
        ("http://mlflow/base", "/basement/runs", "/mlflow/basement/runs"),
    ],
)
def test_no_location_leads_to_an_internal_address(
    upstream: str, location: str, public: str
) -> None:
    assert public_location(location, upstream, "/mlflow") == public
