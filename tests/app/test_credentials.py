"""The one key of a request, in four forms; two different ones are refused."""

import base64

import pytest

from app.credentials import Credentials, identify
from app.errors import BadRequest, Unauthenticated
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
        ("", KEY),
        ("Bearer", KEY),
        ("Bearer ", KEY),
        (basic("ann:"), KEY),
    ],
)
def test_a_key_is_found_in_each_of_its_places(
    authorization: str | None, api_key: str | None
) -> None:
    found = identify(environ(HTTP_AUTHORIZATION=authorization, HTTP_X_API_KEY=api_key))
    assert found == Credentials(KEY)


@pytest.mark.parametrize("key", ["x", "a" * 512, "with:colon", "!#$%&'()*+-./;<=>?@[]^_`{|}~"])
def test_what_a_key_may_look_like(key: str) -> None:
    assert identify(environ(HTTP_AUTHORIZATION=f"Bearer {key}")).key == key
    assert identify(environ(HTTP_AUTHORIZATION=basic(f"ann:{key}"))).key == key


@pytest.mark.parametrize(
    ("authorization", "api_key"),
    [
        (f"Bearer {KEY}", OTHER),
        (f"ApiKey {KEY}", OTHER),
        (basic(f"ann:{KEY}"), OTHER),
        (None, f"{KEY},{OTHER}"),
        (f"Bearer {KEY}, Bearer {KEY}", None),
        (f"Bearer {KEY},{OTHER}", None),
        (f"{basic(f'ann:{KEY}')}, Bearer {KEY}", None),
    ],
)
def test_two_credentials_in_one_request_are_refused(
    authorization: str | None, api_key: str | None
) -> None:
    with pytest.raises(BadRequest, match="two") as caught:
        identify(environ(HTTP_AUTHORIZATION=authorization, HTTP_X_API_KEY=api_key))
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
        ("Digest username=ann", None, "scheme is not known"),
        (KEY, None, "scheme is not known"),
        ("Basic !!!", None, "cannot be decoded"),
        ("Basic YW5u=Og", None, "cannot be decoded"),
        (basic(b"ann:\xff\xfe"), None, "cannot be decoded"),
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
        identify(environ(HTTP_AUTHORIZATION=authorization, HTTP_X_API_KEY=api_key))
    if isinstance(caught.value, Unauthenticated):
        assert "MLFLOW_TRACKING_TOKEN" in caught.value.message
        assert caught.value.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_key_is_not_shown() -> None:
    assert KEY not in repr(Credentials(KEY))
    assert KEY not in f"{Credentials(KEY)}"
