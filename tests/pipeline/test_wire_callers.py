"""Who pays: addresses behind proxies and on a unix socket, a session's own count."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.environments import ROOT
from devstack.proxy import Proxy
from devstack.server import Running, Server
from tests.pipeline.signing_in import (
    BROWSER,
    DECISION,
    HOME,
    NAVIGATION,
    OWN,
    SEARCH,
    cookie_of,
    sign_in,
)
from tests.upstreams import Answer, Upstream, chunked, close, send, sized
from tests.wire import bearer, call, request


class OnUnixSocket(Server):
    """gunicorn with the repository's own configuration, on a unix socket."""

    name = "proxy"
    in_repository = True

    def __init__(self, folder: Path, path: Path, settings: dict[str, str]) -> None:
        self.path = path
        gunicorn = Path(sys.executable).with_name("gunicorn")
        command = [str(gunicorn), "-c", "gunicorn.conf.py", "wsgi:app"]
        super().__init__(command, folder, settings | {"BIND": f"unix:{path}"})

    def is_ready(self) -> bool:
        """Whether /health is 200."""
        try:
            return self.ask(request("GET", "/health", "Connection: close")).startswith(
                b"HTTP/1.1 200"
            )
        except OSError:
            return False

    def ask(self, data: bytes) -> bytes:
        """The whole answer to a request that ends its connection."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(self.path))
            client.sendall(data)
            answer = b""
            while piece := client.recv(65536):
                answer += piece
        return answer


@pytest.fixture
def start_on_socket(
    tmp_path_factory: pytest.TempPathFactory, _front_settings: dict[str, str]
) -> Iterator[Callable[..., OnUnixSocket]]:
    """Start a proxy on a unix socket."""

    def start(**settings: object) -> OnUnixSocket:
        folder = tmp_path_factory.mktemp("unix")
        own = {name: str(value) for name, value in settings.items()}
        return running.start(OnUnixSocket(folder, folder / "x.sock", _front_settings | own))

    with Running(kill=True) as running:
        yield start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hops", "field", "address"),
    [
        (0, (), "127.0.0.1"),
        (1, ("X-Forwarded-For: [2001:db8::1]:443",), "2001:db8::1"),
        (1, (), "127.0.0.1"),
        (1, ("X-Forwarded-For: unix:",), "127.0.0.1"),
    ],
)
def test_a_key_is_good_on_a_unix_socket(
    start_on_socket: Callable[..., OnUnixSocket],
    upstream: Upstream,
    hops: int,
    field: tuple[str, ...],
    address: str,
) -> None:
    with Upstream() as service:
        service.answers(Answer(send(sized(json.dumps(DECISION).encode()))))
        local = start_on_socket(TRUSTED_PROXY_HOPS=hops, HOKUSAI_AUTH_SERVICE_URL=service.url)
        answer = local.ask(
            request("GET", SEARCH, bearer("hk_test_unix_socket"), "Connection: close", *field)
        )
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert json.loads(service.requests[-1].body)["client_ip"] == address
        assert upstream.requests[-1].one("X-Forwarded-For") == address
        broken = local.ask(b"BROKEN\r\n\r\n")
        assert broken.startswith(b"HTTP/1.1 400")


@pytest.mark.slow
def test_a_broken_download_shows_on_a_unix_socket(
    start_on_socket: Callable[..., OnUnixSocket], upstream: Upstream, key: str
) -> None:
    """It has no reset, and nginx asks there in HTTP/1.0 by default."""
    local = start_on_socket()
    asked = request("GET", SEARCH, bearer(key), version="1.0")
    upstream.answers(Answer(send(chunked(b"half a model", last=False)), close()))
    assert local.ask(asked).endswith(b"\r\n\r\nC\r\nhalf a model\r\n")
    upstream.answers(Answer(send(chunked(b"half a model", b", and half"))))
    assert local.ask(asked).endswith(b"\r\nA\r\n, and half\r\n0\r\n\r\n")
    upstream.forget()
    assert local.ask(asked).endswith(b"\r\n\r\n{}")


def test_bad_keys_from_one_ipv6_network_are_limited_together(
    start_front: Callable[..., Proxy], upstream: Upstream
) -> None:
    with Upstream() as service:
        service.answers(Answer(send(sized(b"{}", 401))))
        behind = start_front(
            TRUSTED_PROXY_HOPS=1, AUTH_FAILURE_LIMIT=30, HOKUSAI_AUTH_SERVICE_URL=service.url
        )

        def ask(number: int, address: str) -> int:
            fields = (bearer(f"hk_test_bad_{behind.port}_{number}"), f"X-Forwarded-For: {address}")
            return call(behind.url, "GET", SEARCH, *fields).status

        statuses = [ask(n, f"[2001:db8:{behind.port:x}::{n:x}]:443") for n in range(100)]
        assert statuses == [401] * 30 + [429] * 70
        asked = [json.loads(question.body)["client_ip"] for question in service.requests]
        assert len(set(asked)) == 30, "each with its full address"
        assert ask(1, f"2001:db8:{behind.port:x}:1::1") == 401


def test_a_caller_without_a_usable_address_is_counted_and_logged_once(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    behind = start_front(TRUSTED_PROXY_HOPS=2)
    for _ in range(3):
        call(behind.url, "GET", SEARCH, bearer(key), "X-Forwarded-For: 192.0.2.1")
    log = behind.log.read_text(errors="replace")
    assert log.count("fewer entries than TRUSTED_PROXY_HOPS") == 1
    metrics = call(behind.url, "GET", "/metrics").body.decode()
    assert 'hokusai_proxy_address_fallbacks_total{reason="missing"} 3.0' in metrics


# --- a session's own count -----------------------------------------------------------------------


@pytest.mark.slow
def test_looking_never_stops_training_nor_training_looking(
    front: Proxy, upstream: Upstream, auth_service: Any, redis_url: str
) -> None:
    issued = auth_service.create_key(scopes=["read"], limit=3)
    for _ in range(3):
        assert call(front.url, "GET", SEARCH, bearer(issued.key)).status == 200
    assert call(front.url, "GET", SEARCH, bearer(issued.key)).status == 429
    session = cookie_of(sign_in(front, issued.key))  # one of three
    for _ in range(2):
        assert call(front.url, "GET", SEARCH, session, *BROWSER).status == 200
    script = call(front.url, "GET", SEARCH, session, *BROWSER)
    assert script.error == (429, "REQUEST_LIMIT_EXCEEDED")
    assert script.one("X-RateLimit-Limit") == "3"
    assert "browser sessions" in script.json["message"]
    page = call(front.url, "GET", HOME, session, *NAVIGATION)
    assert page.status == 429
    assert b"browser sessions of this API key may make 3 requests" in page.body
    shown = _flask("limits", "show", issued.key_id, redis_url=redis_url)
    assert f"key {issued.key_id}: 3 of 3 requests" in shown
    assert f"session {issued.key_id}: 3 of 3 browser requests" in shown
    _flask("limits", "clear", issued.key_id, redis_url=redis_url)
    assert call(front.url, "GET", SEARCH, session, *BROWSER).status == 200
    assert call(front.url, "GET", SEARCH, bearer(issued.key)).status == 200


def _flask(*arguments: str, redis_url: str) -> str:
    command = [str(Path(sys.executable).with_name("flask")), "--app", "wsgi", *arguments]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={"REDIS_URL": redis_url, "REDIS_TIMEOUT": "5"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_junk_before_the_session_cookie_locks_nobody_out(
    front: Proxy, upstream: Upstream, session: str
) -> None:
    own = session.removeprefix("Cookie: ")
    junk = f"hokusai-session={'a' * 43}"
    for cookie in (f"{junk}; {own}", f"{junk}, {own}", f"{own}; {junk}"):
        assert call(front.url, "GET", SEARCH, f"Cookie: {cookie}").status == 200
    assert (
        call(front.url, "POST", "/mlflow/-/sign-out", f"Cookie: {junk}; {own}", OWN).status == 303
    )
    assert call(front.url, "GET", SEARCH, session).error == (401, "UNAUTHENTICATED")
