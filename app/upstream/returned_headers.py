"""Header fields of MLflow's response: drop hop-by-hop ones, make a Location public."""

import re
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

from app.upstream.headers import HOP_BY_HOP

#: Fields of MLflow's response that are dropped. Server reveals which software runs inside. A cookie
#: would be dropped on the way back anyway.
NOT_RETURNED = HOP_BY_HOP | {"server", "date", "set-cookie", "x-request-id"}

#: Valid names and values (RFC 9110 section 5); the server refuses to write anything else.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def returned_status(status: int, reason: str) -> str:
    """Return MLflow's status for the client. Raises ValueError if it is malformed, or not final
    (1xx)."""
    if status < 200 or not _VALUE.fullmatch(reason):
        raise ValueError(f"the status {status} {reason!r} is not a valid final status")
    return f"{status} {reason}".strip()


def returned_headers(
    upstream: Iterable[tuple[str, str]], upstream_url: str, prefix: str
) -> list[tuple[str, str]]:
    """Build the client's header fields from MLflow's; repeated fields stay separate.

    `upstream_url` is MLflow's internal address, to which no response may send the client. Raises
    ValueError for a malformed field.
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
    """Rewrite a Location for the client.

    A path of MLflow's, or its internal address, becomes a path under the public prefix. A relative
    reference and a foreign address (object storage, say) stay as they are.
    """
    try:
        parts, internal = urlsplit(location), urlsplit(upstream_url)
        # MLflow may trust X-Forwarded-Proto: then it returns its own name with https.
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
    """Return host and port. MLflow omits the default port of a scheme in its Location."""
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
