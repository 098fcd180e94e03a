"""Finding the API key in a request, and refusing what could be read two ways.

Four forms: `Authorization: Bearer K`, `Authorization: ApiKey K`, `Authorization: Basic` with K as
the password (any user name), and `X-API-Key: K`. Where there is none, the cookie of a browser's
session stands for the key that was given at sign-in (app/browser/).
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from app.cross_site import require_own_page
from app.errors import BadRequest, Unauthenticated

_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,512}")  # printable, no blank, no comma

_SESSION = re.compile(r"[A-Za-z0-9_-]{43}")  # 256 random bits

#: The session's cookie: with TLS, where a page without it cannot set it; and without.
SESSION_COOKIES = ("__Secure-hokusai-session", "hokusai-session")

HOW = (
    "Send an API key as 'Authorization: Bearer <key>' (MLFLOW_TRACKING_TOKEN), as the password of "
    "Basic authentication (MLFLOW_TRACKING_PASSWORD), or as 'X-API-Key: <key>'."
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The one key of a request; never shown, not even in a traceback's repr."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ticket:
    """The random name of a browser's session, as secret as a key."""

    session: str = field(repr=False)


def identify(environ: Mapping[str, Any]) -> Credentials | Ticket:
    """The key in a WSGI environment, or a session's ticket.

    Raises Unauthenticated where there is none or it cannot be a key, BadRequest where there are two
    different ones, Forbidden for a session's write that may not be of our own pages.
    """
    keys = set(_from_authorization(environ.get("HTTP_AUTHORIZATION", "").strip()))
    # The server joins repeated headers with commas, which no key holds.
    keys |= {key for part in environ.get("HTTP_X_API_KEY", "").split(",") if (key := part.strip())}
    if len(keys) > 1:
        raise BadRequest("The request carries two different API keys; send one.")
    if not keys:
        if ticket := session_ticket(environ):
            require_own_page(environ)
            return ticket
        raise Unauthenticated(f"No API key. {HOW}")
    (key,) = keys
    return checked(key)


def session_ticket(environ: Mapping[str, Any]) -> Ticket | None:
    """The session's ticket in the Cookie header, or None. The one that only TLS can set wins; of
    several the first, which has the longest path: ours, before one for the whole host."""
    cookies: dict[str, str] = {}
    for part in re.split("[;,]", environ.get("HTTP_COOKIE", "")):  # the server joins lines with ,
        name, _, value = part.strip().partition("=")
        if name in SESSION_COOKIES and _SESSION.fullmatch(value):
            cookies.setdefault(name, value)
    return next((Ticket(cookies[name]) for name in SESSION_COOKIES if name in cookies), None)


def checked(key: str, how: str = HOW) -> Credentials:
    """What was given as a key, if it can be one; else Unauthenticated, which says `how`."""
    if not _KEY.fullmatch(key):
        raise Unauthenticated(f"This cannot be an API key. {how}")
    return Credentials(key)


def _from_authorization(value: str) -> list[str]:
    """The key in an Authorization header; an empty list where there is none."""
    if not value:
        return []
    scheme, _, rest = value.partition(" ")
    if scheme.lower() in ("bearer", "apikey"):
        return _only_one(rest.strip())
    if scheme.lower() == "basic":
        return _only_one(_basic_password(rest.strip()))
    raise Unauthenticated(f"This Authorization scheme is not known. {HOW}")


def _only_one(key: str) -> list[str]:
    if "," in key:  # two Authorization headers, joined by the server
        raise BadRequest("The request carries two Authorization headers; send one.")
    return [key] if key else []


def _basic_password(encoded: str) -> str:
    """The password of Basic credentials (RFC 7617); the user name may be anything."""
    if "," in encoded:
        raise BadRequest("The request carries two Authorization headers; send one.")
    try:
        decoded = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise Unauthenticated(f"The Basic credentials cannot be decoded. {HOW}") from None
    return decoded.partition(":")[2].strip()
