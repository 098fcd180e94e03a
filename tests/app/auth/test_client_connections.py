"""The auth service's client: nothing but the question goes out, and to the right service only."""

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.auth.client import AuthService
from app.request.errors import AuthServiceUnavailable
from app.upstream.names import NAMES
from tests.app.auth.auth_service import ANN, IP, YES, says
from tests.app.samples import KEY
from tests.drills.redis_topologies import make_certificates
from tests.upstreams import Answer, Upstream, refused_port


def test_no_cookie_is_carried_to_the_next_call(client: AuthService, server: Upstream) -> None:
    cookies = ("Set-Cookie", "session=ann; Path=/"), ("Set-Cookie", "b=1; Domain=127.0.0.1")
    server.answers(says(YES, 200, *cookies))
    for _ in range(2):
        client.validate(KEY, IP)
    assert [asked.all("Cookie") for asked in server.requests] == [[], []]


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """This process's environment, as it was afterwards."""
    before = dict(os.environ)
    yield os.environ  # type: ignore[misc]
    os.environ.clear()
    os.environ.update(before)


def test_no_netrc_replaces_the_key(
    client: AuthService, server: Upstream, environment: dict[str, str], tmp_path: Path
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login ann password secret\n")
    netrc.chmod(0o600)
    environment |= {"HOME": str(tmp_path), "NETRC": str(netrc)}
    server.answers(says(YES))
    client.validate(KEY, IP)
    assert server.requests[0].one("Authorization") == f"Bearer {KEY}"


def test_no_proxy_variable_leads_the_key_astray(
    client: AuthService, server: Upstream, environment: dict[str, str]
) -> None:
    with refused_port() as port:
        astray = f"http://127.0.0.1:{port}"
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
            environment[name] = astray
        server.answers(says(YES))
        assert client.validate(KEY, IP) == ANN


def test_threads_do_not_get_each_others_answers(client: AuthService, server: Upstream) -> None:
    def echo(request: Any) -> Answer:
        key = request.one("Authorization").removeprefix("Bearer ")
        return says(YES | {"key_id": key})

    server.answers_by(echo)
    wrong = []

    def ask(number: int) -> None:
        for turn in range(10):
            key = f"hk_test_{number}_{turn}"
            found = client.validate(key, IP)
            if found is None or found.key_id != key:
                wrong.append((key, found))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority that nobody knows, and a server's certificate."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@contextlib.contextmanager
def over_tls(certificates: Path, host: str) -> Iterator[Upstream]:
    """The auth service's end of the wire, over TLS."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    with Upstream(host, tls=tls) as server:
        server.answers(says(YES))
        yield server


def test_an_authority_of_the_machine_is_trusted(
    certificates: Path, make_client: Callable[..., AuthService], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MLflow's connections do, which OpenSSL tells where the machine's store is."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.crt"))
    with over_tls(certificates, "127.0.0.1") as server:
        found = make_client(server.url).validate(KEY, IP)
    assert found is not None
    assert found.key_id == "key-1"


@pytest.mark.parametrize(("host", "is_known"), [("127.0.0.1", False), ("127.0.0.2", True)])
def test_another_authority_or_another_name_is_not(
    certificates: Path,
    make_client: Callable[..., AuthService],
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    is_known: bool,
) -> None:
    if is_known:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.crt"))
    with over_tls(certificates, host) as server:
        with pytest.raises(AuthServiceUnavailable) as refused:
            make_client(server.url).validate(KEY, IP)
        assert server.requests == [], "the key was shown to nobody"
    assert "certificate verify failed" in str(refused.value.__context__)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("closes", [False, True])
def test_of_two_addresses_the_one_without_an_answer_is_tried_last(
    certificates: Path,
    make_client: Callable[..., AuthService],
    monkeypatch: pytest.MonkeyPatch,
    tls: bool,
    closes: bool,
) -> None:
    """Two auth services under one name: the first accepts connections, and never answers, or
    closes them."""
    both = [(socket.AF_INET, ("127.0.0.2",)), (socket.AF_INET, ("127.0.0.1",))]
    monkeypatch.setattr(NAMES, "addresses", lambda host, timeout: both)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.crt"))
    with over_tls(certificates, "127.0.0.1") if tls else Upstream() as server:
        server.answers(says(YES))
        with socket.create_server(("127.0.0.2", server.port)) as other:
            if closes:
                threading.Thread(target=lambda: other.accept()[0].close()).start()
            client = make_client(server.url.replace("127.0.0.1", "localhost"), timeout=1.0)
            with pytest.raises(AuthServiceUnavailable):
                client.validate(KEY, IP)
            assert client.validate(KEY, IP)
