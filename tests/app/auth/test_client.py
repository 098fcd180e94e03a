"""Each answer of the auth service in our words: yes, no, throttled, or unavailable; no guesses."""

import contextlib
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from app.auth import answer
from app.auth.client import IN_A_ROW, MAX_ANSWER, AuthService, retry_after_seconds
from app.request.errors import AuthServiceUnavailable, RateLimited
from app.request.principal import Principal
from app.upstream.circuit import Circuit
from app.upstream.names import NAMES
from tests.app.samples import KEY
from tests.drills.redis_topologies import make_certificates
from tests.upstreams import (
    Answer,
    Exchange,
    Received,
    Step,
    Upstream,
    chunked,
    close,
    generate,
    head,
    pause,
    refused_port,
    reset,
    send,
    silence,
    sized,
)

IP = "203.0.113.7"
YES: dict[str, Any] = {"user_id": "ann", "key_id": "key-1", "scopes": ["read"]}

#: Seconds; the first for whoever gets an answer, the second for whoever waits for none.
PATIENT, TIMEOUT = 10.0, 0.2


@pytest.fixture
def server() -> Iterator[Upstream]:
    """The auth service's end of the wire."""
    with Upstream() as server:
        yield server


@pytest.fixture
def make_client() -> Iterator[Callable[..., AuthService]]:
    """`make_client(url)`: the client, with a circuit that stays closed unless told otherwise."""
    made: list[AuthService] = []

    def make(url: str, timeout: float = PATIENT, fail_max: int = 1000) -> AuthService:
        circuit = Circuit("auth_service", fail_max, 60)
        made.append(AuthService(url, service_id="platform", timeout=timeout, circuit=circuit))
        return made[-1]

    yield make
    for client in made:
        client._session.close()


@pytest.fixture
def client(server: Upstream, make_client: Callable[..., AuthService]) -> AuthService:
    return make_client(server.url)


def says(content: Any, status: int = 200, *fields: tuple[str, str]) -> Answer:
    """An answer in JSON, or of bytes as they are."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Answer(send(sized(body, status, ("Content-Type", "application/json"), *fields)))


def dribble(data: bytes, seconds: float) -> Step:
    """One byte at a time, each after a pause."""

    def step(exchange: Exchange) -> None:
        for byte in data:
            if exchange.fake.stopping.wait(seconds):
                return
            exchange.connection.sendall(bytes((byte,)))

    return step


# --- the question --------------------------------------------------------------------------------


def test_the_question_is_the_contracts(client: AuthService, server: Upstream) -> None:
    server.answers(says(YES))
    client.validate(KEY, IP)
    (asked,) = server.requests
    assert asked.line == b"POST /api/v1/keys/validate HTTP/1.1"
    assert asked.one("Authorization") == f"Bearer {KEY}"
    assert asked.one("Content-Type") == "application/json"
    assert json.loads(asked.body) == {"service_id": "platform", "client_ip": IP}
    assert KEY.encode() not in asked.body


def test_a_base_path_is_kept(server: Upstream, make_client: Callable[..., AuthService]) -> None:
    server.answers(says(YES))
    make_client(f"{server.url}/internal").validate(KEY, IP)
    assert server.requests[0].target == b"/internal/api/v1/keys/validate"


def test_a_ping_carries_no_key(client: AuthService, server: Upstream) -> None:
    server.answers(says({}, 401))
    assert client.ping(PATIENT)[0] == 401
    assert server.requests[0].all("Authorization") == []


def test_connections_are_reused(client: AuthService, server: Upstream) -> None:
    server.answers(says(YES), says({}, 401), says({}, 404), says({}, 500), says(YES))
    for _ in range(5):
        with contextlib.suppress(AuthServiceUnavailable):
            client.validate(KEY, IP)
    assert server.connections == 1


def test_one_that_was_idle_is_not(client: AuthService, server: Upstream) -> None:
    """A server closes it after 2 s (gunicorn) or 5 s (uvicorn), maybe just as it is used again."""
    server.answers(says(YES))
    client.validate(KEY, IP)
    time.sleep(1.1)
    client.validate(KEY, IP)
    assert server.connections == 2


# --- yes -----------------------------------------------------------------------------------------

ANN = Principal("ann", "key-1", "platform", frozenset(("read",)), None, False)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({}, {}),
        ({"user_id": ..., "user": {"id": "bob"}}, {"user_id": "bob"}),
        ({"user_id": None, "user": {"id": 17}}, {"user_id": "17"}),
        ({"user_id": "ann", "user": {"id": "bob"}}, {}),
        ({"user_id": 42, "key_id": 7}, {"user_id": "42", "key_id": "7"}),
        ({"user_id": " ann "}, {}),
        ({"service_id": "other"}, {"service_id": "other"}),
        ({"service_id": None}, {}),
        ({"scopes": []}, {"scopes": frozenset()}),
        ({"scopes": None}, {"scopes": frozenset()}),
        ({"scopes": ...}, {"scopes": frozenset()}),
        ({"scopes": ["a", "b", "a"]}, {"scopes": frozenset(("a", "b"))}),
        ({"rate_limit_per_hour": 1000}, {"limit_per_hour": 1000}),
        ({"rate_limit_per_hour": 0}, {"limit_per_hour": 0}),
        ({"rate_limit_per_hour": 99.0}, {"limit_per_hour": 99}),
        ({"rate_limit_per_hour": None}, {}),
        ({"is_admin": True}, {"is_admin": True}),
        ({"is_admin": "true"}, {}),
        ({"is_admin": 1}, {}),
        ({"roles": ["admin"], "email": "ann@example.com"}, {}),
        ({"valid": True, "is_valid": True, "plan": {"nested": [1]}, "unknown": None}, {}),
    ],
)
def test_a_yes(
    client: AuthService, server: Upstream, answer: dict[str, Any], expected: dict[str, Any]
) -> None:
    content = {name: value for name, value in (YES | answer).items() if value is not ...}
    server.answers(says(content))
    facts = {name: getattr(ANN, name) for name in Principal.__slots__}
    assert client.validate(KEY, IP) == Principal(**facts | expected)


def test_a_yes_may_come_in_chunks(client: AuthService, server: Upstream) -> None:
    body = json.dumps(YES).encode()
    server.answers(Answer(send(chunked(body[:10], body[10:]))))
    assert client.validate(KEY, IP) == ANN


# --- no ------------------------------------------------------------------------------------------


NO = {
    "valid is false": says({"valid": False}),
    "is_valid is false": says({"is_valid": False}),
    "a whole answer, and valid is false": says(YES | {"valid": False}),
    "one of the two is false": says(YES | {"valid": True, "is_valid": False}),
    "401": says({"detail": "unknown key"}, 401),
    "403": says({"detail": "not from this address"}, 403),
    "404": says({}, 404),
    "401 without a word": says(b"", 401),
    "403 in plain text": says(b"not json", 403),
    "404 in HTML": says(b"<html>no</html>", 404),
}


@pytest.mark.parametrize("case", NO)
def test_a_no(client: AuthService, server: Upstream, case: str) -> None:
    server.answers(NO[case])
    assert client.validate(KEY, IP) is None


# --- throttled -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ([("Retry-After", "17")], "17"),
        ([("Retry-After", "1.5")], "2"),
        ([("Retry-After", "0")], "1"),
        ([], "10"),
        ([("Retry-After", "soon")], "10"),
    ],
)
def test_throttled(
    client: AuthService, server: Upstream, fields: list[tuple[str, str]], told: str
) -> None:
    server.answers(says({}, 429, *fields))
    with pytest.raises(RateLimited) as caught:
        client.validate(KEY, IP)
    assert caught.value.headers["Retry-After"] == told


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1", 1),
        ("120", 120),
        ("0", 1),
        ("-5", 1),
        ("2.1", 3),
        ("999999", 3600),
        ("1e9", 3600),
        ("", 7),
        ("tomorrow", 7),
        ("nan", 7),
        ("inf", 7),
        ("Wed, 99 Foo 2026 00:00:00 GMT", 7),
    ],
)
def test_a_retry_after_becomes_whole_seconds(value: str, seconds: int) -> None:
    assert retry_after_seconds(value, 7) == seconds


@pytest.mark.parametrize(("ahead", "seconds"), [(90, 90), (-90, 1), (90_000, 3600)])
def test_a_retry_after_may_be_a_date(ahead: float, seconds: int) -> None:
    date = formatdate(time.time() + ahead, usegmt=True)
    assert retry_after_seconds(date, 7) == pytest.approx(seconds, abs=2)


# --- unavailable ---------------------------------------------------------------------------------

UNAVAILABLE = {
    "500": says({}, 500),
    "502": says(b"<html>", 502),
    "503": says({}, 503, ("Retry-After", "5")),
    "504": says({}, 504),
    "400: our question is wrong": says({}, 400),
    "204": Answer(send(head(204))),
    "a redirect": says({}, 302, ("Location", "http://192.0.2.1/")),
    "a permanent redirect": says({}, 308, ("Location", "/api/v2/keys/validate")),
    "never an answer": Answer(silence()),
    "a head too late": Answer(pause(TIMEOUT * 2), send(sized(json.dumps(YES).encode()))),
    "half a body, then silence": Answer(
        send(head(200, ("Content-Length", "99")) + b"{"), silence()
    ),
    "half a body, then the end": Answer(send(head(200, ("Content-Length", "99")) + b"{"), close()),
    "half the chunks": Answer(send(chunked(b'{"user_id":', last=False)), close()),
    "a reset": Answer(reset()),
    "an end": Answer(close()),
    "no HTTP": Answer(send(b"SSH-2.0-OpenSSH_9.2\r\n"), close()),
    "a broken head": Answer(send(b"HTTP/1.1 200 OK\r\nContent-Le"), close()),
    "broken gzip": says(b"not gzip", 200, ("Content-Encoding", "gzip")),
    "a login page": says(b"<html>Sign in</html>"),
    "nothing": says(b""),
    "half of JSON": says(b'{"user_id": "ann"'),
    "a list": says([YES]),
    "null": says(None),
    "a number": says(1),
    "a text": says("valid"),
    "not UTF-8": says(b'{"user_id": "\xff", "key_id": "key-1"}'),
    "no key id": says({"user_id": "ann"}),
    "an empty key id": says(YES | {"key_id": ""}),
    "a blank key id": says(YES | {"key_id": " \n"}),
    "a key id that would have to be cut": says(YES | {"key_id": "k" * 257}),
    "a key id that is a list": says(YES | {"key_id": ["key-1"]}),
    "a key id that is true": says(YES | {"key_id": True}),
    "no user": says({"key_id": "key-1"}),
    "a user without an id": says({"key_id": "key-1", "user": {"name": "ann"}}),
    "a user that is a text": says({"key_id": "key-1", "user": "ann"}),
    "scopes in one text": says(YES | {"scopes": "read write"}),
    "a scope that is a number": says(YES | {"scopes": ["read", 1]}),
    "scopes in an object": says(YES | {"scopes": {"read": True}}),
    "a limit below nothing": says(YES | {"rate_limit_per_hour": -1}),
    "a limit in words": says(YES | {"rate_limit_per_hour": "1000"}),
    "a limit that is true": says(YES | {"rate_limit_per_hour": True}),
    "a limit beyond counting": says(YES | {"rate_limit_per_hour": 2**31}),
    "neither valid nor invalid": says(YES | {"valid": None}),
    "valid in words": says(YES | {"is_valid": "yes"}),
    "a body without an end": Answer(send(head(200)), generate(MAX_ANSWER * 64)),
    "a yes that is too long": says(json.dumps(YES).encode() + b" " * MAX_ANSWER),
    "a no that is too long": Answer(
        send(head(401, ("Content-Length", "9999999999"))), generate(MAX_ANSWER * 64)
    ),
    "a body in drops": Answer(
        send(head(200, ("Content-Length", "999"))), dribble(b" " * 999, 0.05)
    ),
    "chunks in drops": Answer(
        send(head(200, ("Transfer-Encoding", "chunked"))), dribble(b"1\r\n \r\n" * 99, 0.05)
    ),
}


@pytest.mark.parametrize(
    ("said", "until", "is_unread"),
    [
        (None, None, False),
        ("2030-01-01T00:00:00Z", 1893456000.0, False),
        ("2030-01-01T01:00:00+01:00", 1893456000.0, False),
        (1893456000, 1893456000.0, False),
        (0, None, False),
        ("2030-01-01T00:00:00", None, True),
        (1893456000000, None, True),
        ("next week", None, True),
        (True, None, True),
    ],
)
def test_when_a_key_ends_is_read_or_the_log_says_that_it_is_not(
    server: Upstream,
    client: AuthService,
    caplog: pytest.LogCaptureFixture,
    said: object,
    until: float | None,
    is_unread: bool,
) -> None:
    answer._say_that_it_is_unread.cache_clear()
    server.answers(says(YES | {"expires_at": said}))
    for _ in range(2):
        found = client.validate(KEY, IP)
        assert found is not None
        assert found.expires_at == until
    lines = [line for line in caplog.messages if "expires_at" in line]
    assert len(lines) == is_unread, "once"


@pytest.mark.parametrize("case", UNAVAILABLE)
def test_what_is_no_clear_answer_is_unavailable_and_in_time(
    server: Upstream, make_client: Callable[..., AuthService], case: str
) -> None:
    client = make_client(server.url, TIMEOUT)
    server.answers(UNAVAILABLE[case])
    began = time.monotonic()
    with pytest.raises(AuthServiceUnavailable) as caught:
        client.validate(KEY, IP)
    assert time.monotonic() - began < TIMEOUT + 2, "AUTH_TIMEOUT is for everything"
    assert caught.value.headers == {"Retry-After": "10"}
    assert len(server.requests) <= 1, "it is neither repeated nor redirected"


def test_refused(make_client: Callable[..., AuthService]) -> None:
    with refused_port() as port, pytest.raises(AuthServiceUnavailable):
        make_client(f"http://127.0.0.1:{port}").validate(KEY, IP)


def test_an_address_that_does_not_exist(make_client: Callable[..., AuthService]) -> None:
    with pytest.raises(AuthServiceUnavailable):
        make_client("http://[fe80::1%25nosuch]:80").validate(KEY, IP)


@pytest.mark.parametrize("case", ["500", "a reset", "not UTF-8", "no HTTP"])
def test_the_cause_is_for_the_operator_and_holds_no_key(
    client: AuthService, server: Upstream, case: str
) -> None:
    server.answers(UNAVAILABLE[case])
    with pytest.raises(AuthServiceUnavailable) as caught:
        client.validate(KEY, IP)
    error = caught.value
    assert str(error.__cause__).startswith("the auth service ")
    assert "127.0.0.1" not in error.message
    told = f"{error.message} {error.headers} {error.__cause__!r} {error.__context__!r}"
    assert KEY not in told


def test_a_service_that_fails_is_left_alone_for_a_while(
    server: Upstream, make_client: Callable[..., AuthService]
) -> None:
    client = make_client(server.url, fail_max=2)
    server.answers(says({}, 500))
    for _ in range(5):
        with pytest.raises(AuthServiceUnavailable):
            client.validate(KEY, IP)
    assert len(server.requests) == 2


CLEAR = {"yes": says(YES), "no": says({}, 401), "later": says({}, 429)}


@pytest.mark.parametrize("case", CLEAR)
def test_a_clear_answer_is_no_failure(
    server: Upstream, make_client: Callable[..., AuthService], case: str
) -> None:
    client = make_client(server.url, fail_max=1)
    server.answers(CLEAR[case])
    for _ in range(3):
        with contextlib.suppress(RateLimited):
            client.validate(KEY, IP)
    assert len(server.requests) == 3


ABOUT_ONE_KEY = {
    "a form of key that it refuses": says({"detail": "not a key"}, 422),
    "400": says({}, 400),
    "no user": says({"user_id": None, "key_id": "key-1"}),
    "an odd limit": says(YES | {"rate_limit_per_hour": -1}),
    "neither yes nor no": says(YES | {"valid": "maybe"}),
    "too much": says(YES | {"workspaces": ["x" * 100] * 1000}),
}


@pytest.mark.parametrize("case", ABOUT_ONE_KEY)
def test_what_it_says_of_one_key_keeps_nobody_else_out(
    server: Upstream, make_client: Callable[..., AuthService], case: str
) -> None:
    client = make_client(server.url, fail_max=1)
    server.answers(ABOUT_ONE_KEY[case])
    for _ in range(3):
        with pytest.raises(AuthServiceUnavailable):
            client.validate(KEY, IP)
    assert client.circuit.state == "closed"
    server.answers(says(YES))
    assert client.validate("hk_test_another", IP) is not None


FAILURES = {
    "500": says({}, 500),
    "reset": Answer(reset()),
    "delay": Answer(silence()),
    "page": says(b"<html>"),
}


@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.parametrize(
    ("was_good", "without_a_key", "state"),
    [
        (False, says({}, 401), "closed"),
        (False, says({"valid": False}), "closed"),
        (False, says(YES), "open"),
        (False, None, "open"),
        (True, says({}, 401), "open"),
    ],
)
def test_a_key_at_which_it_fails_keeps_nobody_else_out(
    server: Upstream,
    make_client: Callable[..., AuthService],
    case: str,
    was_good: bool,
    without_a_key: Answer | None,
    state: str,
) -> None:
    """Anybody can make up a key that is too long for its hash function, or whose refusal it
    delays."""

    def answer(question: Received) -> Answer:
        has_key = question.one("Authorization") is not None
        return FAILURES[case] if has_key else without_a_key or FAILURES[case]

    server.answers_by(answer)
    client = make_client(server.url, TIMEOUT, fail_max=2)
    for _ in range(3):
        with pytest.raises(AuthServiceUnavailable):
            client.validate(KEY, IP, lambda: was_good)
    assert client.circuit.state == state


@pytest.mark.parametrize("case", [*ABOUT_ONE_KEY, *FAILURES])
def test_no_decision_on_several_keys_is_remembered_until_there_is_one(
    server: Upstream, make_client: Callable[..., AuthService], case: str
) -> None:
    client = make_client(server.url, TIMEOUT)
    failure = (ABOUT_ONE_KEY | FAILURES)[case]
    server.answers_by(lambda asked: failure if asked.one("Authorization") else says({}, 401))
    for number in range(IN_A_ROW):
        assert client.without_decision == ""
        with pytest.raises(AuthServiceUnavailable):
            client.validate(f"hk_test_{number}", IP, lambda: False)
    assert "the auth service" in client.without_decision
    assert "hk_test" not in client.without_decision
    server.answers(says({}, 401))
    assert client.validate(KEY, IP) is None
    assert client.without_decision == ""


def test_a_made_up_key_that_is_the_probe_keeps_no_circuit_open(
    server: Upstream, make_client: Callable[..., AuthService]
) -> None:
    client = make_client(server.url, TIMEOUT, fail_max=1)
    client.circuit = Circuit("auth_service", 1, 0.05)
    server.answers(Answer(reset()))
    with pytest.raises(AuthServiceUnavailable):
        client.validate(KEY, IP)
    assert client.circuit.state == "open"
    time.sleep(0.1)
    server.answers_by(
        lambda asked: says({}, 401) if asked.one("Authorization") is None else FAILURES["delay"]
    )
    with pytest.raises(AuthServiceUnavailable):
        client.validate("hk_test_made_up", IP, lambda: False)
    assert client.circuit.state == "closed"


def test_a_made_up_key_closes_no_circuit_that_opened_meanwhile(
    server: Upstream, make_client: Callable[..., AuthService]
) -> None:
    client = make_client(server.url, TIMEOUT, fail_max=1)

    def answer(question: Received) -> Answer:
        if question.one("Authorization") is None:
            return says({}, 401)
        client.circuit.trip()  # keys that were good lately got no answer
        return FAILURES["reset"]

    server.answers_by(answer)
    with pytest.raises(AuthServiceUnavailable):
        client.validate("hk_test_made_up", IP, lambda: False)
    assert client.circuit.state == "open"


# --- nothing but the question goes out -----------------------------------------------------------


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
