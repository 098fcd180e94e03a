"""The auth service's client: what is no clear response is unavailable; no guesses."""

import json
import time
from collections.abc import Callable

import pytest

from app.auth.client import MAX_ANSWER, AuthService
from app.request.errors import AuthServiceUnavailable
from tests.app.auth.auth_service import IP, TIMEOUT, YES, says
from tests.app.samples import KEY
from tests.upstreams import (
    Answer,
    Exchange,
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


def dribble(data: bytes, seconds: float) -> Step:
    """One byte at a time, each after a pause."""

    def step(exchange: Exchange) -> None:
        for byte in data:
            if exchange.fake.stopping.wait(seconds):
                return
            exchange.connection.sendall(bytes((byte,)))

    return step


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
    "workspaces in one text": says(YES | {"workspaces": "team-a"}),
    "a workspace that is a number": says(YES | {"workspaces": [1]}),
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
