"""Classify MLflow's responses: who wrote one, and whether the caller caused the error.

Three kinds of response are not meant for the caller as they are: the error page of an intermediary
in front of MLflow; a refusal of the proxy's own credentials or Host header, which the caller would
mistake for a refused key; and MLflow's 400 for an exhausted database connection pool. Forwarding
and the health checks share these functions.
"""

import io
import re
import time
from collections.abc import Mapping
from typing import NamedTuple

import urllib3

from app.request.errors import (
    NoSuchWorkspace,
    ProxyError,
    UpstreamOverloaded,
    UpstreamRefusal,
    UpstreamReset,
    UpstreamTimeout,
)
from app.request.route_table import Route

#: Prefixes of `Server` that identify MLflow's server.
SERVERS = ("uvicorn", "gunicorn", "waitress", "werkzeug")

#: Start of werkzeug's error page, which MLflow's Flask sends, and fragments of MLflow's own texts.
OWN_PAGES = ("<!doctype html>\n<html lang=en>\n<title>",)
OWN_TEXTS = ("due to the mlflow server running", "because the server is running without workspaces")

#: Start of SQLAlchemy's message for an exhausted pool. MLflow sends it in a 400
#: (mlflow/store/db/utils.py) after 30 s. Its FastAPI routes (jobs, gateway) send it as `detail`, or
#: inside that; its basic-auth in front of those sends the message alone.
POOL_LIMIT = re.compile(rb'(?:\A|"(?:message|detail)": ?")QueuePool limit of size')

#: Statuses whose body is inspected, and the maximum bytes read of it.
JUDGED = frozenset((400, 401, 403, 502, 503, 504))
LONGEST = 16 * 1024

#: The longest response to a question of the proxy itself, in bytes.
LONGEST_WHOLE = 16 * 1024 * 1024

#: Seconds after which no further piece of such a body is read.
READ_TIMEOUT = 2.0

#: Basic-auth's refusal if the proxy's account lacks a permission, and MLflow's check of Host
#: (mlflow/server/auth/__init__.py, mlflow/server/security_utils.py).
NO_PERMISSION, BAD_HOST = "Permission denied", "Invalid Host header"

REFUSALS = {
    "credentials": "MLflow rejects this proxy's credentials, or requires some and the proxy has "
    "none. Your key is not the cause; tell the operator (MLFLOW_UPSTREAM_TOKEN, _USERNAME, "
    "_PASSWORD, or MLFLOW_IDENTITY_SECRET; MLflow's log has the reason).",
    "permission": "The MLflow account of this proxy lacks the permission for this call. "
    "Your key is not the cause; tell the operator (MLFLOW_UPSTREAM_USERNAME).",
    "host": "MLflow rejects the host name under which this proxy calls it (Invalid Host header). "
    "Your key is not the cause; tell the operator (mlflow server --allowed-hosts).",
}

#: MLflow's answer on every path if the workspace in the header does not exist. About the object
#: /workspaces/<name> it has a blank after the colon.
NO_WORKSPACE = b'"message":"Workspace \'%s\' not found"'

#: Seconds in Retry-After while MLflow is overloaded.
OVERLOADED = 5


class ProbeResponse(NamedTuple):
    """MLflow's response to a request that the proxy makes itself."""

    status: int
    headers: Mapping[str, str]
    data: bytes


def beginning(
    answer: urllib3.BaseHTTPResponse, method: str, workspace: str = ""
) -> tuple[urllib3.BaseHTTPResponse, bytes]:
    """Return the response, and the start of its body if that shows what the response means.
    `workspace` is that of the request, "" without one.

    The returned response can still be read from its first byte. Raises urllib3's HTTPError if the
    body is truncated.
    """
    plain = "Content-Encoding" not in answer.headers
    judged = answer.status in JUDGED or (workspace and answer.status == 404)
    if not judged or method == "HEAD" or not plain:
        return answer, b""
    first = _first_bytes(answer)
    again = urllib3.HTTPResponse(
        body=_Rest(first, answer),
        headers=answer.headers,
        status=answer.status,
        reason=answer.reason,
        version=answer.version,
        preload_content=False,
        decode_content=False,
        request_method=method,
    )
    return again, first


def _first_bytes(answer: urllib3.BaseHTTPResponse) -> bytes:
    """Read up to LONGEST bytes of the body, piece by piece; fewer if they arrive too slowly."""
    first, deadline = b"", time.monotonic() + READ_TIMEOUT
    while piece := answer.read1(LONGEST - len(first), decode_content=False):
        first += piece
        if len(first) == LONGEST or time.monotonic() > deadline:
            break
    return first


def whole(answer: urllib3.BaseHTTPResponse, timeout: float) -> ProbeResponse:
    """Read the body of a response to the proxy itself, within so many seconds, and close it. Raises
    UpstreamTimeout or UpstreamReset."""
    deadline, body = time.monotonic() + timeout, bytearray()
    try:
        while more := answer.read1():
            body += more
            if time.monotonic() > deadline:
                raise UpstreamTimeout(f"MLflow's response was incomplete after {timeout:g} s.")
            if len(body) > LONGEST_WHOLE:
                raise UpstreamReset("MLflow's response to a question of the proxy is too long.")
    except urllib3.exceptions.HTTPError as why:
        raise UpstreamReset("MLflow's response broke off.") from why
    finally:
        answer.close()
    return ProbeResponse(answer.status, answer.headers, bytes(body))


class _Rest(io.RawIOBase):
    """A response body whose first piece was already read."""

    def __init__(self, first: bytes, answer: urllib3.BaseHTTPResponse) -> None:
        self._first = first
        self._answer = answer

    def read1(self, size: int = -1) -> bytes:
        """Return the next piece, up to `size` bytes."""
        if self._first:
            size = len(self._first) if size < 0 else size
            piece, self._first = self._first[:size], self._first[size:]
            return piece
        return self._answer.read1(size if size >= 0 else None, decode_content=False)

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, or all the rest."""
        pieces, missing = [], size
        while missing and (piece := self.read1(missing if size >= 0 else -1)):
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Close the response, too."""
        self._answer.close()
        super().close()


def refuse(
    route: Route | None,
    answer: urllib3.BaseHTTPResponse,
    body: bytes,
    workspace: str = "",
    *,
    signed: bool = False,
) -> None:
    """Raise UpstreamRefusal or UpstreamOverloaded for a response unrelated to this request, and
    NoSuchWorkspace for one about its `workspace`. With `signed`, MLflow knows the caller, so a
    missing permission is the caller's."""
    error = unrelated(route, answer.status, answer.headers, body, workspace, signed=signed)
    if error is not None:
        answer.close()
        raise error


def unrelated(
    route: Route | None,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    workspace: str,
    *,
    signed: bool = False,
) -> ProxyError | None:
    """The error that `refuse` raises for such a response."""
    kind = route.kind if route else ""
    # MLflow relays a refusal by its artifact store (S3, say) in the form of its own errors.
    relays = kind == "gateway" or (kind == "artifacts" and b'"error_code"' in body)
    word = refusal(status, headers, body, relays)
    if word and not (signed and word == "permission"):
        return UpstreamRefusal(REFUSALS[word])
    if is_pool_limit(status, body) and not (route and route.partial):
        return UpstreamOverloaded(
            "MLflow is overloaded: no database connection became free in time (QueuePool limit). "
            f"Nothing was done; repeat the request in {OVERLOADED} s.",
            OVERLOADED,
        )
    if workspace and status == 404 and NO_WORKSPACE % workspace.encode() in body:
        return NoSuchWorkspace(
            f"Workspace '{workspace}' not found: MLflow's operator deleted it, or has not created "
            "it yet. Tell the operator, or name another one (MLFLOW_WORKSPACE)."
        )
    return None


def is_of_intermediary(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether an intermediary such as a load balancer wrote this error page. MLflow's own are JSON,
    name its server, or contain its words; a proxy may replace the server's name."""
    if status not in (502, 503, 504):
        return False
    if headers.get("Content-Type", "").startswith("application/json"):
        return False
    return not is_of_mlflow(headers, body)


def is_of_mlflow(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether MLflow or its server wrote this."""
    if headers.get("Server", "").lower().startswith(SERVERS):
        return True
    text = body.decode("utf-8", "replace")
    return text.startswith(OWN_PAGES) or any(words in text for words in OWN_TEXTS)


def refusal(status: int, headers: Mapping[str, str], body: bytes, relays: bool) -> str | None:
    """Return the key in REFUSALS for a refusal of the proxy, not of the caller; else None.
    `relays`: the response may come from behind MLflow, such as from a model provider."""
    text = body[:200].decode("utf-8", "replace").strip()
    if status == 401 and (not relays or "WWW-Authenticate" in headers):
        return "credentials"
    if status == 403 and text == NO_PERMISSION:
        return "permission"
    if status == 403 and text.startswith(BAD_HOST):
        return "host"
    return None


def is_pool_limit(status: int, body: bytes) -> bool:
    """Whether MLflow had no free database connection for this request."""
    return status == 400 and POOL_LIMIT.search(body) is not None
