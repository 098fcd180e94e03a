"""Find the API key in a request; refuse ambiguous credentials.

Four forms: `Authorization: Bearer K`, `Authorization: ApiKey K`, `Authorization: Basic` with K as
the password (any user name), and `X-API-Key: K`. Without a key, a session cookie represents the key
that was given at sign-in (app/browser/).
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from app.request.cross_site import require_own_page
from app.request.errors import BadRequest, Unauthenticated
from app.request.inbound import scheme_of

_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,512}")  # printable, no blank, no comma

_SESSION = re.compile(r"[A-Za-z0-9_-]{43}")  # 256 random bits

#: The session cookie's name, by the client's scheme. A page without TLS can neither set nor replace
#: the https one.
SESSION_COOKIES = {"https": "__Secure-hokusai-session", "http": "hokusai-session"}

#: The most session cookies of a request that are looked up. A sibling host can add its own; each
#: costs a round trip to Redis.
MOST_SESSIONS = 4

HOW = (
    "Send an API key as 'Authorization: Bearer <key>' (MLFLOW_TRACKING_TOKEN), as the password of "
    "Basic authentication (MLFLOW_TRACKING_PASSWORD), or as 'X-API-Key: <key>'."
)


#: How our own keys begin.
OURS = "hk_"

#: The Authorization schemes that may carry a key.
SCHEMES = ("bearer", "apikey", "basic")

#: Which of a key's two counters applies: requests with the key, or all its browser sessions
#: together. Each has the full limit. A counter per session would let a user multiply the limit by
#: signing in again.
Counted = Literal["key", "session"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """The one key of a request, hidden even from the repr in a traceback. `provider` is the
    Authorization field for the AI gateway's provider, "" without one."""

    key: str = field(repr=False)
    provider: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class SessionTokens:
    """1 to MOST_SESSIONS distinct session tokens, secret like a key. The first valid one counts."""

    sessions: tuple[str, ...] = field(repr=False)


def identify(environ: Mapping[str, Any], hops: int) -> Credentials | SessionTokens:
    """Find the key or the session tokens in a WSGI environment; `hops` as TRUSTED_PROXY_HOPS.

    Raises Unauthenticated if there is none or it cannot be a key, BadRequest if there are two
    different keys, Forbidden for a session's write that may come from another site.
    """
    if not sends_key(environ) and (tokens := session_tokens(environ, hops)):
        require_own_page(environ, hops)
        return tokens
    keys = _from_authorization(environ.get("HTTP_AUTHORIZATION", "")) | _from_x_api_key(environ)
    if len(keys) > 1:
        raise BadRequest("The request carries two different API keys; send one.")
    if not keys:
        raise Unauthenticated(f"No API key. {_proxy_authorization(environ)}{HOW}")
    (key,) = keys
    return checked(key)


def identify_at_gateway(environ: Mapping[str, Any], hops: int) -> Credentials | SessionTokens:
    """The same on a route of the AI gateway: with the key in X-API-Key or X-MLflow-Authorization,
    Authorization may be for the gateway's provider. It is not, if it may hold a key of ours."""
    own = _from_x_api_key(environ)
    own |= _from_authorization(environ.get("HTTP_X_MLFLOW_AUTHORIZATION", ""))
    authorization = environ.get("HTTP_AUTHORIZATION", "")
    if not own:
        return identify(environ, hops)
    try:
        others = _from_authorization(authorization)
    except Unauthenticated:
        others = set()  # a scheme that is not ours
    others |= set(re.split(r'[\s,:="]+', authorization))  # a key in a form that is not ours, too
    ours = {key for key in others if key in own or key.startswith(OURS)}
    if len(own | ours) > 1:
        raise BadRequest("The request carries two different API keys; send one.")
    (key,) = own
    return replace(checked(key), provider="" if ours else authorization)


def _from_x_api_key(environ: Mapping[str, Any]) -> set[str]:
    """The keys in X-API-Key. The server joins repeated headers with commas, which no key holds."""
    return {key for part in environ.get("HTTP_X_API_KEY", "").split(",") if (key := part.strip())}


def sends_key(environ: Mapping[str, Any]) -> bool:
    """Whether a key is sent in a form that no browser sends by itself. A browser may send Basic,
    Digest or Negotiate for another application on this host, or for a proxy in front (RFC 7617
    section 2.2, RFC 7616 section 3.3). So sessions and the sign-in form take precedence."""
    authorization = environ.get("HTTP_AUTHORIZATION", "").replace("\t", " ").strip(" ,")
    scheme, _, given = authorization.partition(" ")
    named = scheme.lower() in ("bearer", "apikey") and given.strip()
    return bool(named or environ.get("HTTP_X_API_KEY", "").strip(" \t,"))


def session_tokens(environ: Mapping[str, Any], hops: int) -> SessionTokens | None:
    """The session cookies of a request in their order, or None. Browsers send the longest path
    first: the proxy's cookie precedes one that another host set for the whole domain."""
    cookie = SESSION_COOKIES[scheme_of(environ, hops)]
    sessions: dict[str, None] = {}
    for part in re.split("[;,]", environ.get("HTTP_COOKIE", "")):  # the server joins lines with ,
        name, _, value = part.strip().partition("=")
        if name == cookie and _SESSION.fullmatch(value := _unquoted(value)):
            sessions[value] = None
    return SessionTokens(tuple(sessions)[:MOST_SESSIONS]) if sessions else None


def _unquoted(value: str) -> str:
    """Remove the optional quotes of a cookie's value (RFC 6265 section 4.1.1)."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def _proxy_authorization(environ: Mapping[str, Any]) -> str:
    """The message for a client whose only credentials are in Proxy-Authorization."""
    if "HTTP_PROXY_AUTHORIZATION" in environ:
        return "Proxy-Authorization is not read here. "
    return ""


def checked(key: str, how: str = HOW) -> Credentials:
    """Check the format of a key; raise Unauthenticated with the advice `how`."""
    if not _KEY.fullmatch(key):
        raise Unauthenticated(f"This cannot be an API key. {how}")
    return Credentials(key)


def _from_authorization(value: str) -> set[str]:
    """The keys in the Authorization header. The server joins repeated headers with commas; no key
    and no base64 contains a comma, but other schemes may (Digest, AWS's)."""
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
    raise Unauthenticated(f"This Authorization scheme is not supported. {HOW}")


def _basic_password(encoded: str) -> str:
    """The password of Basic credentials (RFC 7617). The user name, in any encoding, is ignored; it
    ends at the first colon. A key is ASCII."""
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Unauthenticated(
            f"The Basic credentials cannot be decoded: they must be base64 with padding. {HOW}"
        ) from None
    return decoded.partition(b":")[2].decode("latin-1").strip(" \t\r\n")
