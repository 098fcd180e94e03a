"""Headers on their way through: hop-by-hop and identity taken off, ours put on.

Strip before injecting, and in every spelling: WSGI folds `X-Hokusai-User-Id`, `x-hokusai-user-id`
and (where a server lets it pass) `X_Hokusai_User_Id` into one name, so names are compared in that
folded form, HTTP_X_HOKUSAI_USER_ID.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote, urlsplit

from app.request.permit import Permit

#: RFC 9110 section 7.6.1 and the framing, which each hop makes for itself.
HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-authentication-info",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "expect",
    )
)

#: What a client must not tell MLflow: its credentials, who it is, where it came from.
#: Host: MLflow checks it against its own names, so it gets the one of its own address. Origin: its
#: cross-origin check is ours to make. X-MLflow-Workspace: which workspace a key sees is not its
#: own choice; app/upstream/workspaces.py refuses a request that has one.
NOT_FORWARDED = HOP_BY_HOP | {
    "authorization",
    "content-length",
    "cookie",
    "forwarded",
    "host",
    "origin",
    "proxy",
    "remote-user",
    "traceparent",
    "via",
    "x-api-key",
    "x-client-ip",
    "x-real-ip",
    "x-request-id",
}
NOT_FORWARDED_PREFIXES = (
    "x-hokusai-",
    "x-forwarded-",
    "x-mlflow-authorization",
    "x-mlflow-workspace",
    "x-mlflow-gateway-",
    "x-mlflow-guardrail-",
    "x-mlflow-user",
    "x-remote-",
    "x-auth-",
    "x-user",
    "x-original-",
    "x-rewrite-",
    "x-amzn-oidc-",
    "proxy-",
)

#: What every proxy removes or replaces, so no caller is surprised. All other fields that are not
#: forwarded are named in the answer, in X-Hokusai-Dropped-Headers.
REMOVED_EVERYWHERE = (HOP_BY_HOP - {"trailer"}) | {
    "authorization",
    "content-length",
    "cookie",
    "forwarded",
    "host",
    "origin",
    "traceparent",
    "via",
    "x-api-key",
    "x-client-ip",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-real-ip",
    "x-request-id",
}

#: The names that the server dropped by itself, with commas (app/server/request_head.py).
SERVER_DROPPED = "HTTP_HOKUSAI DROPPED"

#: At most so many names, of so many characters each, are repeated to the caller.
MOST_NAMES, LONGEST_NAME = 10, 64

#: Of MLflow's answer: its server's name says which software runs inside, and its cookies would be
#: dropped on the way back anyway.
NOT_RETURNED = HOP_BY_HOP | {"server", "date", "set-cookie", "x-request-id"}


#: What a field is made of (RFC 9110 section 5); the server refuses to write anything else.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def upstream_headers(permit: Permit, upstream_host: str, own: Mapping[str, str]) -> dict[str, str]:
    """The header fields for MLflow: the client's, cleaned, then ours.

    `own` is what the proxy shows MLflow by configuration (Authorization, or nothing).
    Content-Length and Transfer-Encoding are left to whoever frames the body.
    """
    headers = dict(_cleaned(permit.inbound.environ))
    headers.update(own)
    headers["Host"] = upstream_host
    headers.update(_identity(permit))
    return headers


class _Field(NamedTuple):
    """What happens to a header field: forwarded or not, and named in the answer if not."""

    name: str
    forwarded: bool
    announced: bool


@lru_cache(maxsize=1024)
def _field(variable: str) -> _Field:
    """The field behind a WSGI variable such as HTTP_X_USER."""
    name = variable[5:].replace("_", "-").lower()
    forwarded = name not in NOT_FORWARDED and not name.startswith(NOT_FORWARDED_PREFIXES)
    return _Field(name.title(), forwarded, not forwarded and name not in REMOVED_EVERYWHERE)


def _cleaned(environ: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The client's header fields that may go on, as (name, value)."""
    named_by_connection = {
        token.strip().title() for token in environ.get("HTTP_CONNECTION", "").split(",")
    }
    for variable, value in environ.items():
        if not variable.startswith("HTTP_") or variable == SERVER_DROPPED:
            continue
        field = _field(variable)
        if field.forwarded and field.name not in named_by_connection:
            yield field.name, value
    if content_type := environ.get("CONTENT_TYPE"):
        yield "Content-Type", content_type


def dropped_names(permit: Permit, answer: Iterable[str]) -> str:
    """The header fields that did not get through and that somebody may miss, with commas; empty as
    a rule. Of the client's: what claims an identity or a place, and names with an underscore, which
    the server drops. Of MLflow's `answer` (names): Set-Cookie, because one user's cookies must not
    reach another."""
    environ = permit.inbound.environ
    names = [
        _field(variable).name[:LONGEST_NAME]
        for variable in environ
        if variable.startswith("HTTP_") and _field(variable).announced
    ]
    if with_underscore := environ.get(SERVER_DROPPED):
        names += [name.title()[:LONGEST_NAME] for name in with_underscore.split(",")]
    if "HTTP_TRACEPARENT" in environ and permit.inbound.traceparent is None:
        names.append("Traceparent")
    if any(name.lower() == "set-cookie" for name in answer):
        names.append("Set-Cookie")
    more = ["and others"] if len(names) > MOST_NAMES else []
    return ", ".join(names[:MOST_NAMES] + more)


def _identity(permit: Permit) -> Iterator[tuple[str, str]]:
    """Who the caller is and how the request came, in the words of the contract."""
    principal, inbound = permit.principal, permit.inbound
    if principal.key_id:  # else nobody in particular, who asks for public files
        yield "X-Hokusai-User-Id", _header_text(principal.user_id)
        yield "X-Hokusai-Key-Id", _header_text(principal.key_id)
        yield "X-Hokusai-Service-Id", _header_text(principal.service_id)
    yield "X-Request-ID", inbound.request_id
    yield "X-Forwarded-For", inbound.client_ip
    yield "X-Forwarded-Proto", inbound.scheme
    if inbound.host:
        yield "X-Forwarded-Host", inbound.host
    yield "X-Forwarded-Prefix", inbound.prefix
    if inbound.traceparent:
        yield "traceparent", inbound.traceparent


def _header_text(value: str) -> str:
    """A value as it may stand in a header; what may not is percent-encoded."""
    return quote(value, safe=" !#$%&'()*+,-./:;<=>?@[]^_`{|}~")


def returned_status(status: int, reason: str) -> str:
    """MLflow's status as the client gets it. ValueError for one that cannot be written, or that
    ends no exchange (1xx)."""
    if status < 200 or not _VALUE.fullmatch(reason):
        raise ValueError(f"the status {status} {reason!r} is no final one")
    return f"{status} {reason}".strip()


def returned_headers(
    upstream: Iterable[tuple[str, str]], upstream_url: str, prefix: str
) -> list[tuple[str, str]]:
    """MLflow's header fields as the client gets them, repeated ones kept apart.

    `upstream_url` is MLflow's internal address; no answer sends the client there. ValueError for a
    field that cannot be written.
    """
    fields = list(upstream)
    named_by_connection = {
        token.strip().lower()
        for name, value in fields
        if name.lower() == "connection"
        for token in value.split(",")
    }
    kept = []
    for name, value in fields:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"the field {name!r} is malformed")
        lowered = name.lower()
        if lowered in NOT_RETURNED or lowered in named_by_connection:
            continue
        if lowered in ("location", "content-location"):
            value = public_location(value, upstream_url, prefix)
        kept.append((name, value))
    return kept


def public_location(location: str, upstream_url: str, prefix: str) -> str:
    """A Location as the client can use it.

    A path of MLflow's, or its internal address, becomes a path behind the public prefix; a relative
    reference and a foreign address (object storage, say) stay as they are.
    """
    try:
        parts, internal = urlsplit(location), urlsplit(upstream_url)
        # MLflow may believe X-Forwarded-Proto: then its own name comes with https.
        named = parts.netloc not in ("", internal.netloc)
        foreign = named and _host_and_port(parts) != _host_and_port(internal)
    except ValueError:
        return location
    if foreign or not (parts.netloc or location.startswith("/")):
        return location
    path, base = parts.path, internal.path.rstrip("/")
    if path == base or path.startswith(f"{base}/"):
        path = path[len(base) :] or "/"
    return parts._replace(scheme="", netloc="", path=prefix + path).geturl()


def _host_and_port(parts: SplitResult) -> tuple[str | None, int]:
    """Where an address leads: MLflow leaves the scheme's own port out of its Location."""
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
