"""Inbound: the request as it arrived, read once, immutable.

The path comes from the raw request line, not from WSGI's decoded PATH_INFO: the authorized path and
the forwarded path must be the same bytes. `path` is that string; `decoded_path` is how MLflow will
read it (it decodes once), and the key for the route table.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, unquote_plus

from app.request.addresses import find_client, note_fallback
from app.request.artifact_names import artifact_name, check_artifact_name
from app.request.errors import BadRequest, LoopDetected

#: Both public prefixes; the rest of the path is MLflow's.
PREFIXES = ("/api/mlflow", "/mlflow")

#: The methods that are forwarded; the pipeline and the pages beside it accept no other.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

#: Query parameters in which users put keys. A key in a URL ends up in logs and browser histories.
KEY_PARAMETERS = frozenset("api_key apikey api-key x-api-key x_api_key access_token".split())

#: Query parameters with which MLflow names a file below an artifact root.
FILE_PARAMETERS = frozenset(("path", "artifact_file_path", "artifact_directory_path"))

#: Sent with each request to MLflow. A server that receives it is not MLflow but one of these
#: proxies: a loop. See docs/decisions/doctor.md.
HOP = {"X-Hokusai-Hop": "1"}

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,127}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PLAIN_QUERY = re.compile(r"[\x21\x22\x24-\x7e]*")  # printable ASCII, no blank, no fragment
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DOT_SEGMENT = re.compile(r"(?:^|/)\.{1,2}(?:/|$)")
_EMPTY_SEGMENT = re.compile(r"(?:(?i:https?)://[^/]*)?(?P<prefix>/api/mlflow|/mlflow)//(?!/)")

#: The most file parameters in one query; each is decoded as often as MLflow decodes it.
MOST_FILES = 16


def _spelt(name: str) -> str:
    """A regular expression for a parameter's name, each character plain or percent-encoded."""
    return "".join(
        f"(?:{re.escape(letter)}|%{ord(letter):x}|%{ord(letter.upper()):x})" for letter in name
    )


def _any(names: frozenset[str]) -> str:
    return "|".join(map(_spelt, sorted(names, key=len, reverse=True)))


#: Finds these parameters in a raw query, in any case and encoding. Fast even with many others, as
#: the request is not authenticated yet. All the names begin with a, p or x.
_PARAMETER = re.compile(
    rf"(?:^|&)(?=[apx%])(?:(?P<of_key>{_any(KEY_PARAMETERS)})|{_any(FILE_PARAMETERS)})"
    r"(?:=(?P<value>[^&]*)|(?=&)|\Z)",
    re.IGNORECASE,
)
_KEY_SHAPED = re.compile(r"hk_(?:live|test)_\w{6}")
_WHOLE_KEY = re.compile(r"hk_(?:live|test)_[A-Za-z0-9]{16}")  # no name of a file or a model

LOOP = (
    "MLFLOW_SERVER_URL points back at this proxy, or at another one, instead of at MLflow. The "
    "proxy's operator must set it to MLflow's own address."
)
KEY_IN_URL = (
    "An API key must not be in the URL, where logs keep it. Send it as the header "
    "'Authorization: Bearer <key>' or 'X-API-Key: <key>', and replace this key."
)


@dataclass(frozen=True, slots=True)
class Inbound:
    """One request. `path` and `query` (without "?") are forwarded unchanged. `content_length` is
    None without the header; `chunked` means that Transfer-Encoding was sent."""

    request_id: str
    method: str
    prefix: str
    path: str
    decoded_path: str
    query: str
    client_ip: str
    scheme: str
    host: str
    traceparent: str | None
    content_length: int | None
    chunked: bool
    environ: Mapping[str, Any]


def receive(
    environ: Mapping[str, Any],
    request_id: str,
    hops: int,
    count_fallback: Callable[[str], None] = lambda reason: None,
) -> Inbound:
    """Read the request from a WSGI environment with gunicorn's RAW_URI.

    `count_fallback` gets the reason if the address of the proxy in front replaces an unknown client
    address.

    Raises BadRequest for a path that MLflow could read differently, or a key in the URL.
    """
    target, _, query = _origin_form(environ["RAW_URI"]).partition("?")
    prefix, path = _strip_prefix(target)
    decoded = checked_path(path)
    if _WHOLE_KEY.search(decoded):
        raise BadRequest(KEY_IN_URL)
    check_query(query)
    if coding := environ.get("HTTP_TRANSFER_ENCODING"):
        _check_coding(coding)
    length = environ.get("CONTENT_LENGTH")
    client = find_client(environ, hops)
    note_fallback(client, hops, count_fallback)
    return Inbound(
        request_id=request_id,
        method=environ["REQUEST_METHOD"],
        prefix=prefix,
        path=path,
        decoded_path=decoded,
        query=query,
        client_ip=client.text,
        scheme=scheme_of(environ, hops),
        host=public_host(environ, hops),
        traceparent=_traceparent(environ),
        content_length=int(length) if length else None,
        chunked="HTTP_TRANSFER_ENCODING" in environ,
        environ=environ,
    )


def _check_coding(codings: str) -> None:
    """Refuse a transfer coding such as gzip. MLflow supports none. Transfer-Encoding is hop-by-hop
    and not forwarded, so MLflow would read the coded bytes as content."""
    if set(re.split(r"[ \t]*,[ \t]*", codings.lower().strip())) - {"", "identity", "chunked"}:
        raise BadRequest(
            "The only Transfer-Encoding of a request may be chunked. Compressed content is named "
            "in Content-Encoding."
        )


def without_empty_segment(application: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the WSGI application to remove one empty segment right after the prefix.

    Clients that join a base with a trailing slash and a path send it (`/api/mlflow//api/2.0/…`). It
    is removed before routing and checks; a second one, or an encoded one, stays.
    """

    def normalised(environ: dict[str, Any], start_response: Any) -> Any:
        target = environ.get("RAW_URI", "")
        found = _EMPTY_SEGMENT.match(target)
        if found:
            environ["RAW_URI"] = target[: found.end() - 1] + target[found.end() :]
            head = f"{found['prefix']}/"
            environ["PATH_INFO"] = head + environ["PATH_INFO"][len(head) + 1 :]
        return application(environ, start_response)

    return normalised


def raw_path(environ: Mapping[str, Any]) -> str:
    """The path as the client sent it, undecoded; not for routing or authorization."""
    path: str = environ.get("RAW_URI") or environ["PATH_INFO"]
    return path.partition("?")[0]


def request_id_of(environ: Mapping[str, Any]) -> str:
    """The caller's X-Request-ID if it is valid and does not look like a key, else a new one."""
    given: str = environ.get("HTTP_X_REQUEST_ID", "")
    if _REQUEST_ID.fullmatch(given) and not _KEY_SHAPED.search(given):
        return given
    return os.urandom(16).hex()


def refuse_loop(environ: Mapping[str, Any]) -> None:
    """Raise LoopDetected for a request from one of these proxies that takes this one for MLflow."""
    if environ.get("HTTP_X_HOKUSAI_HOP") == HOP["X-Hokusai-Hop"]:
        raise LoopDetected(LOOP)


def client_address(environ: Mapping[str, Any], hops: int) -> str:
    """The address of the client as seen by the outermost of `hops` trusted proxies."""
    return find_client(environ, hops).text


def checked_path(path: str) -> str:
    """Decode a raw path; raise BadRequest if it is ambiguous.

    Refused: dot segments and backslashes (plain or encoded), `//`, NUL and other control
    characters, a percent sign that escapes nothing, and escapes that are not UTF-8. An artifact's
    name may have an encoded backslash, and any encoded control character except the line feed,
    for which MLflow has no route. It is checked as MLflow decodes it (InvalidName).
    """
    if _BAD_ESCAPE.search(path):
        raise BadRequest("The path has a percent sign that escapes nothing; encode it as %25.")
    try:
        decoded = unquote(path, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest("The path has percent-escapes that are not UTF-8.") from None
    if not path.isascii() or "#" in path:
        raise BadRequest("The path has characters that must be percent-encoded.")
    if "//" in decoded or "//" in path:
        raise BadRequest("The path has an empty segment (//); remove the second slash.")
    if _DOT_SEGMENT.search(decoded):
        raise BadRequest("The path has a dot segment (. or ..), plain or encoded; resolve it.")
    name = artifact_name(decoded)
    is_control = _CONTROL.search(decoded if name is None else path)
    if is_control or "\n" in decoded or "\\" in (path if name is not None else decoded):
        raise BadRequest("The path has a backslash or a control character, plain or encoded.")
    if name is not None:
        check_artifact_name(name)
    return decoded


def check_query(query: str) -> None:
    """Raise BadRequest for a query that cannot be forwarded unchanged, that contains a key, or
    whose file parameter leaves its folder."""
    if not query:
        return
    if not _PLAIN_QUERY.fullmatch(query):
        raise BadRequest("The query has characters that must be percent-encoded.")
    try:
        decoded = unquote_plus(query, errors="strict")
    except UnicodeDecodeError:  # MLflow and its server replace them in two ways
        raise BadRequest("The query has percent-escapes that are not UTF-8.") from None
    found = list(_PARAMETER.finditer(query))
    if any(each["of_key"] for each in found) or _WHOLE_KEY.search(decoded):
        raise BadRequest(KEY_IN_URL)
    if len(found) > MOST_FILES:
        raise BadRequest(f"The query names more than {MOST_FILES} files; name one.")
    for each in found:
        check_artifact_name(unquote_plus(each["value"] or ""))


def _origin_form(target: str) -> str:
    """Remove the optional scheme and host of a request target (RFC 9112 section 3.2.2)."""
    if target.startswith("/"):
        return target
    scheme, separator, rest = target.partition("://")
    if scheme.lower() not in ("http", "https") or not separator:
        raise BadRequest("The request target must be a path.")
    slash = rest.find("/")
    return rest[slash:] if slash >= 0 else "/"


def _strip_prefix(target: str) -> tuple[str, str]:
    """Split the public prefix from MLflow's path, which begins with a slash."""
    for prefix in PREFIXES:
        if target.startswith(prefix + "/"):
            return prefix, target[len(prefix) :]
    raise BadRequest("The path's prefix must not be encoded: write /api/mlflow/ or /mlflow/.")


def scheme_of(environ: Mapping[str, Any], hops: int) -> str:
    """http or https, as used by the client towards the outermost of `hops` trusted proxies. Most
    proxies replace X-Forwarded-Proto; with fewer entries than hops the first counts."""
    entries = str(environ.get("HTTP_X_FORWARDED_PROTO", "")).split(",")
    forwarded = entries[-min(hops, len(entries))].strip().lower() if hops else ""
    return forwarded if forwarded in ("http", "https") else str(environ["wsgi.url_scheme"])


def public_host(environ: Mapping[str, Any], hops: int) -> str:
    """The host (with port, if any) that the client requested. A trusted proxy in front that
    replaces Host may send the original in X-Forwarded-Host."""
    entries = str(environ.get("HTTP_X_FORWARDED_HOST", "")).split(",")
    forwarded = entries[-min(hops, len(entries))].strip() if hops else ""
    return forwarded or str(environ.get("HTTP_HOST", ""))


def _traceparent(environ: Mapping[str, Any]) -> str | None:
    """The W3C trace context, if it is well-formed (https://www.w3.org/TR/trace-context/)."""
    given: str = environ.get("HTTP_TRACEPARENT", "")
    return given if _TRACEPARENT.fullmatch(given) else None
