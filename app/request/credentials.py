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
from typing import Any, Literal

from app.request.cross_site import require_own_page
from app.request.errors import BadRequest, Unauthenticated
from app.request.inbound import scheme_of

_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,512}")  # printable, no blank, no comma

_SESSION = re.compile(r"[A-Za-z0-9_-]{43}")  # 256 random bits

#: The session's cookie, by the scheme under which the client came. With TLS a page without it can
#: neither set nor replace the cookie.
SESSION_COOKIES = {"https": "__Secure-hokusai-session", "http": "hokusai-session"}

#: How many session cookies of one request are looked up. A sibling host can add some of its own;
#: each costs a round trip to Redis.
MOST_SESSIONS = 4

HOW = (
    "Send an API key as 'Authorization: Bearer <key>' (MLFLOW_TRACKING_TOKEN), as the password of "
    "Basic authentication (MLFLOW_TRACKING_PASSWORD), or as 'X-API-Key: <key>'."
)


#: The schemes of the Authorization header with which a key may come.
SCHEMES = ("bearer", "apikey", "basic")

#: Which of a key's two counts, each of the size of its limit: that of the requests with the key, or
#: that of all its browser sessions together. One count for each session would multiply the limit by
#: signing in.
Counted = Literal["key", "session"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """The one key of a request; never shown, not even in a traceback's repr."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SessionTokens:
    """The random names of browser sessions, as secret as a key: the first valid one counts. One to
    MOST_SESSIONS, each once."""

    sessions: tuple[str, ...] = field(repr=False)


def identify(environ: Mapping[str, Any], hops: int) -> Credentials | SessionTokens:
    """The key in a WSGI environment, or the session tokens; `hops` as TRUSTED_PROXY_HOPS.

    Raises Unauthenticated where there is none or it cannot be a key, BadRequest where there are two
    different ones, Forbidden for a session's write that may not be of our own pages.
    """
    if not sends_key(environ) and (tokens := session_tokens(environ, hops)):
        require_own_page(environ, hops)
        return tokens
    keys = _from_authorization(environ.get("HTTP_AUTHORIZATION", ""))
    # The server joins repeated headers with commas, which no key holds.
    keys |= {key for part in environ.get("HTTP_X_API_KEY", "").split(",") if (key := part.strip())}
    if len(keys) > 1:
        raise BadRequest("The request carries two different API keys; send one.")
    if not keys:
        raise Unauthenticated(f"No API key. {_proxy_authorization(environ)}{HOW}")
    (key,) = keys
    return checked(key)


def sends_key(environ: Mapping[str, Any]) -> bool:
    """Whether a key is sent in a form that no browser chooses by itself. Basic, Digest or Negotiate
    may be for another application of this host, or for a proxy in front: a browser sends them along
    (RFC 7617 section 2.2, RFC 7616 section 3.3). So a session, and the form for one, come first."""
    authorization = environ.get("HTTP_AUTHORIZATION", "").replace("\t", " ").strip(" ,")
    scheme, _, given = authorization.partition(" ")
    named = scheme.lower() in ("bearer", "apikey") and given.strip()
    return bool(named or environ.get("HTTP_X_API_KEY", "").strip(" \t,"))


def session_tokens(environ: Mapping[str, Any], hops: int) -> SessionTokens | None:
    """The session cookies of a request, in their order, or None. Browsers send the one with the
    longest path first: ours, before one that another host set for the whole domain."""
    cookie = SESSION_COOKIES[scheme_of(environ, hops)]
    sessions: dict[str, None] = {}
    for part in re.split("[;,]", environ.get("HTTP_COOKIE", "")):  # the server joins lines with ,
        name, _, value = part.strip().partition("=")
        if name == cookie and _SESSION.fullmatch(value := _unquoted(value)):
            sessions[value] = None
    return SessionTokens(tuple(sessions)[:MOST_SESSIONS]) if sessions else None


def _unquoted(value: str) -> str:
    """A cookie's value may stand in quotes (RFC 6265 section 4.1.1)."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def _proxy_authorization(environ: Mapping[str, Any]) -> str:
    """What to say to a client whose only credentials are in a header that is for other proxies."""
    if "HTTP_PROXY_AUTHORIZATION" in environ:
        return "Proxy-Authorization is not read here. "
    return ""


def checked(key: str, how: str = HOW) -> Credentials:
    """What was given as a key, if it can be one; else Unauthenticated, which says `how`."""
    if not _KEY.fullmatch(key):
        raise Unauthenticated(f"This cannot be an API key. {how}")
    return Credentials(key)


def _from_authorization(value: str) -> set[str]:
    """The keys in the Authorization header, which the server joins with commas if it is repeated.
    Neither a key nor base64 holds a comma; what another scheme sends may (Digest, AWS's)."""
    fields = [field.strip() for field in value.split(",") if field.strip()]
    if len(fields) < 2 or not any(_scheme(field) in SCHEMES for field in fields):
        return _key_of(fields[0]) if fields else set()
    try:
        keys = {key for field in fields for key in _key_of(field)}
    except Unauthenticated:
        keys = set()
    if len(keys) != 1:
        raise BadRequest("The request carries two Authorization headers; send one.")
    return keys


def _scheme(field: str) -> str:
    """The scheme of an Authorization field, in lower case."""
    return field.replace("\t", " ").partition(" ")[0].lower()


def _key_of(field: str) -> set[str]:
    """The key in one Authorization field; an empty set where there is none."""
    scheme = _scheme(field)
    given = field[len(scheme) :].strip()
    if scheme in ("bearer", "apikey"):
        return {given} if given else set()
    if scheme == "basic":
        return {key} if (key := _basic_password(given)) else set()
    raise Unauthenticated(f"This Authorization scheme is not known. {HOW}")


def _basic_password(encoded: str) -> str:
    """The password of Basic credentials (RFC 7617). The user name may be anything, in any encoding:
    it ends at the first colon. A key is ASCII."""
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Unauthenticated(
            f"The Basic credentials cannot be decoded: they must be base64 with padding. {HOW}"
        ) from None
    return decoded.partition(b":")[2].decode("latin-1").strip(" \t\r\n")
