"""Forwarding: what goes out byte for byte, what comes back, and which connection is used."""

import time
from pathlib import Path

import pytest

from app.upstream.forwarding import Upstream as Forwarder
from app.upstream.streaming import Body
from tests.app.samples import TRANSFER, permit
from tests.app.upstream.forwarders import NO_BODY, OK, MakeForwarder, forward, whole
from tests.upstreams import Answer, Upstream, refused_port, send, sized

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
