"""The one key of a request, in four forms; two different ones are refused."""

import base64
from typing import Any

import pytest

from app.request.credentials import Credentials, SessionTokens, identify, session_tokens
from app.request.errors import BadRequest, Unauthenticated
from tests.app.samples import KEY, environ

OTHER = "hk_test_fedcba9876543210"


def basic(pair: str | bytes) -> str:
    raw = pair if isinstance(pair, bytes) else pair.encode()
    return "Basic " + base64.b64encode(raw).decode()


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [
        (f"Bearer {KEY}", None),
        (f"bearer {KEY}", None),
        (f"BEARER   {KEY}  ", None),
        (f"ApiKey {KEY}", None),
        (f"apikey {KEY}", None),
        (basic(f"ann:{KEY}"), None),
        (basic(f":{KEY}"), None),
        (basic(f"Anne-Léa: {KEY}"), None),
        (None, KEY),
        (None, f"  {KEY} "),
        (None, f"{KEY}, {KEY}"),
        (f"Bearer {KEY}", KEY),
        (basic(f"ann:{KEY}"), KEY),
        (basic(f"Anne-Léa:{KEY}".encode("latin-1")), None),
        (basic(b"\xff\xfe\x00:" + KEY.encode()), None),
        (basic("安:".encode("gb18030") + KEY.encode()), None),
        (basic(f"ann:{KEY}\r\n"), None),
        (f"Bearer\t{KEY}", None),
        (f"Bearer {KEY},Bearer {KEY}", None),
        (f"{basic(f'ann:{KEY}')}, Bearer {KEY}", KEY),
        (",", KEY),
        ("", KEY),
        ("Bearer", KEY),
        ("Bearer ", KEY),
        (basic("ann:"), KEY),
    ],
)
def test_a_key_is_found_in_each_of_its_places(
    authorization: str | None, api_key: str | None
) -> None:
    found = identify(environ(HTTP_AUTHORIZATION=authorization, HTTP_X_API_KEY=api_key), 0)
    assert found == Credentials(KEY)


@pytest.mark.parametrize("key", ["x", "a" * 512, "with:colon", "!#$%&'()*+-./;<=>?@[]^_`{|}~"])
def test_what_a_key_may_look_like(key: str) -> None:
    for value in (f"Bearer {key}", basic(f"ann:{key}")):
        found = identify(environ(HTTP_AUTHORIZATION=value), 0)
        assert isinstance(found, Credentials)
        assert found.key == key


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [
        (f"Bearer {KEY}", OTHER),
        (f"ApiKey {KEY}", OTHER),
        (basic(f"ann:{KEY}"), OTHER),
        (None, f"{KEY},{OTHER}"),
        (f"Bearer {KEY}, Bearer {OTHER}", None),
        (f"Bearer {KEY},{OTHER}", None),
        (f"{basic(f'ann:{KEY}')}, Bearer {OTHER}", None),
        (f"Bearer {KEY},Digest username=ann", None),
    ],
)
def test_two_credentials_in_one_request_are_refused(
    authorization: str | None, api_key: str | None
) -> None:
    with pytest.raises(BadRequest, match="two") as caught:
        identify(environ(HTTP_AUTHORIZATION=authorization, HTTP_X_API_KEY=api_key), 0)
    assert KEY not in caught.value.message
    assert OTHER not in caught.value.message


@pytest.mark.parametrize(
    ("authorization", "api_key", "message"),
    [
        (None, None, "No API key"),
        ("", "", "No API key"),
        (None, ",", "No API key"),
        ("Bearer", None, "No API key"),
        (basic("no-colon"), None, "No API key"),
        (basic("ann:"), None, "No API key"),
        ("Basic", None, "No API key"),
        ("Digest username=ann", None, "scheme is not supported"),
        ('Digest username="ann", realm="mlflow", nonce="x"', None, "scheme is not supported"),
        ("AWS4-HMAC-SHA256 Credential=A/a, SignedHeaders=host, Signature=0", None, "not supported"),
        (KEY, None, "scheme is not supported"),
        ("Basic !!!", None, "cannot be decoded"),
        ("Basic YW5u=Og", None, "cannot be decoded"),
        (basic(b"ann:\xff\xfe"), None, "cannot be an API key"),
        (basic("ann:kéy"), None, "cannot be an API key"),
        (basic(f"ann:{KEY}").rstrip("="), None, "base64 with padding"),
        ("Basic YW5uOj8_", None, "base64 with padding"),
        ("Basic YW5u\u00e9", None, "base64 with padding"),
        ("Bearer two words", None, "cannot be an API key"),
        ("Bearer cl\u00e9", None, "cannot be an API key"),
        (f"Bearer {'a' * 513}", None, "cannot be an API key"),
        (None, "tab\tinside", "cannot be an API key"),
        (basic("ann:a,b"), None, "cannot be an API key|two"),
    ],
)
def test_without_a_usable_key_it_says_how_to_send_one(
    authorization: str | None, api_key: str | None, message: str
) -> None:
    with pytest.raises((Unauthenticated, BadRequest), match=message) as caught:
        identify(environ(HTTP_AUTHORIZATION=authorization, HTTP_X_API_KEY=api_key), 0)
    if isinstance(caught.value, Unauthenticated):
        assert "MLFLOW_TRACKING_TOKEN" in caught.value.message
        schemes = [field.split()[0] for field in caught.value.headers["WWW-Authenticate"]]
        assert schemes == ["Bearer", "Basic"]


def test_a_key_is_not_shown() -> None:
    assert KEY not in repr(Credentials(KEY))
    assert KEY not in f"{Credentials(KEY)}"


def test_a_client_that_sends_proxy_authorization_is_told() -> None:
    with pytest.raises(Unauthenticated, match="Proxy-Authorization is not read here"):
        identify(environ(HTTP_PROXY_AUTHORIZATION=basic(f"ann:{KEY}")), 0)


ONE, TWO = "a" * 43, "b" * 43


@pytest.mark.parametrize(
    ("cookie", "sessions"),
    [
        (f"hokusai-session={ONE}", (ONE,)),
        (f'hokusai-session="{ONE}"', (ONE,)),
        (f"x=1; hokusai-session={ONE},hokusai-session={TWO}", (ONE, TWO)),
        (f"hokusai-session={ONE}; hokusai-session={TWO}; hokusai-session={ONE}", (ONE, TWO)),
        (f"hokusai-session=junk; hokusai-session={ONE}", (ONE,)),
        (f"__Secure-hokusai-session={ONE}; hokusai-session={TWO}", (TWO,)),
        (f"__Secure-hokusai-session={ONE}", None),
        ("; ".join(f"hokusai-session={number:043}" for number in range(500)), "four"),
    ],
)
def test_the_session_cookies_of_a_request(cookie: str, sessions: Any) -> None:
    tokens = session_tokens(environ(HTTP_COOKIE=cookie), 0)
    if sessions == "four":
        assert tokens is not None
        assert tokens.sessions == tuple(f"{number:043}" for number in range(4))
    else:
        assert (tokens.sessions if tokens else None) == sessions


@pytest.mark.parametrize(
    ("authorization", "api_key", "found"),
    [
        (basic("ann:anything"), None, SessionTokens((ONE,))),
        (basic(f"ann:{KEY}"), None, SessionTokens((ONE,))),
        ('Digest username="ann", realm="elsewhere", nonce="1"', None, SessionTokens((ONE,))),
        ("Negotiate YIIJ", None, SessionTokens((ONE,))),
        ("Bearer", None, SessionTokens((ONE,))),
        (None, " ", SessionTokens((ONE,))),
        (None, None, SessionTokens((ONE,))),
        (f"Bearer {KEY}", None, Credentials(KEY)),
        (f"Bearer {KEY}, {basic(f'ann:{KEY}')}", None, Credentials(KEY)),
        (f"Bearer\t{KEY}", None, Credentials(KEY)),
        (None, KEY, Credentials(KEY)),
        (basic(f"ann:{KEY}"), KEY, Credentials(KEY)),
    ],
)
def test_a_session_comes_before_all_but_a_key_that_no_browser_sends(
    authorization: str | None, api_key: str | None, found: Any
) -> None:
    """Other credentials may be for another application: a browser sends them along."""
    cookie = f"hokusai-session={ONE}"
    sent = environ(HTTP_COOKIE=cookie, HTTP_AUTHORIZATION=authorization, HTTP_X_API_KEY=api_key)
    assert identify(sent, 0) == found


@pytest.mark.parametrize(
    ("hops", "proto", "sessions"),
    [
        (0, "https", (TWO,)),
        (1, "https", (ONE,)),
        (1, "http", (TWO,)),
        (1, "http, https", (ONE,)),
        (2, "https, http", (ONE,)),
        (2, "https", (ONE,)),
        (1, "", (TWO,)),
    ],
)
def test_over_tls_only_the_secure_cookie_counts(
    hops: int, proto: str, sessions: tuple[str, ...]
) -> None:
    cookie = f"hokusai-session={TWO}; __Secure-hokusai-session={ONE}"
    tokens = session_tokens(environ(HTTP_COOKIE=cookie, HTTP_X_FORWARDED_PROTO=proto), hops)
    assert tokens is not None
    assert tokens.sessions == sessions
    assert ONE not in repr(tokens)
