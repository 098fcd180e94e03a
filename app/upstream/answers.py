"""What an answer says beside its contents: who wrote it, and whether the caller is to blame for it.

Three kinds of answer are not for the caller as they stand: the error page of something between the
proxy and MLflow; a refusal of the proxy's own credentials or Host header, which the caller would
take for one of his key; and MLflow's 400 for a full pool of database connections. The forwarding
and the health checks judge by the same functions.
"""

import io
import re
import time
from collections.abc import Mapping

import urllib3

from app.request.errors import ProxyError, UpstreamOverloaded, UpstreamRefusal
from app.request.route_table import Route

#: What MLflow's server calls itself in `Server`: uvicorn, or gunicorn, waitress and werkzeug.
SERVERS = ("uvicorn", "gunicorn", "waitress", "werkzeug")

#: Beginnings and pieces of MLflow's own pages: of its Flask (werkzeug's page), and of its texts.
OWN_PAGES = ("<!doctype html>\n<html lang=en>\n<title>",)
OWN_TEXTS = ("due to the mlflow server running", "because the server is running without workspaces")

#: How SQLAlchemy's message begins where a pool has no free connection; MLflow answers 400 with it
#: (mlflow/store/db/utils.py) after 30 s. Its FastAPI routes (jobs, gateway) call it `detail`, or
#: put it there; its basic-auth in front of those says nothing else.
POOL_LIMIT = re.compile(rb'(?:\A|"(?:message|detail)": ?")QueuePool limit of size')

#: Statuses whose body is looked at, and how many bytes of it.
JUDGED = frozenset((400, 401, 403, 502, 503, 504))
LONGEST = 16 * 1024

#: Seconds after which no further piece of such a body is waited for.
PATIENCE = 2.0

#: Basic-auth's refusal where the proxy's account lacks a permission, and the check of Host
#: (mlflow/server/auth/__init__.py, mlflow/server/security_utils.py).
NO_PERMISSION, BAD_HOST = "Permission denied", "Invalid Host header"

REFUSALS = {
    "credentials": "MLflow refuses the credentials of this proxy, or wants some and the proxy has "
    "none. Your key is not the cause; tell the operator (MLFLOW_UPSTREAM_TOKEN, _USERNAME, "
    "_PASSWORD).",
    "permission": "MLflow does not permit this call to the account that this proxy uses there. "
    "Your key is not the cause; tell the operator (MLFLOW_UPSTREAM_USERNAME).",
    "host": "MLflow refuses the host name under which this proxy calls it (Invalid Host header). "
    "Your key is not the cause; tell the operator (mlflow server --allowed-hosts).",
}

#: Seconds after which an overloaded MLflow may be asked again.
OVERLOADED = 5


def beginning(
    answer: urllib3.BaseHTTPResponse, method: str
) -> tuple[urllib3.BaseHTTPResponse, bytes]:
    """The answer, and the beginning of its body where that says what the answer means; the answer
    can still be read from its beginning.

    Raises urllib3's HTTPError where the body breaks off.
    """
    plain = "Content-Encoding" not in answer.headers
    if answer.status not in JUDGED or method == "HEAD" or not plain:
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
    """Up to LONGEST bytes of the body, which may come in several pieces; fewer where they come too
    slowly."""
    first, deadline = b"", time.monotonic() + PATIENCE
    while piece := answer.read1(LONGEST - len(first), decode_content=False):
        first += piece
        if len(first) == LONGEST or time.monotonic() > deadline:
            break
    return first


class _Rest(io.RawIOBase):
    """A body of which a first piece was read already."""

    def __init__(self, first: bytes, answer: urllib3.BaseHTTPResponse) -> None:
        self._first = first
        self._answer = answer

    def read1(self, size: int = -1) -> bytes:
        """The next piece, up to `size` bytes."""
        if self._first:
            size = len(self._first) if size < 0 else size
            piece, self._first = self._first[:size], self._first[size:]
            return piece
        return self._answer.read1(size if size >= 0 else None, decode_content=False)

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, or all that is left."""
        pieces, missing = [], size
        while missing and (piece := self.read1(missing if size >= 0 else -1)):
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Ends the answer, too."""
        self._answer.close()
        super().close()


def refuse(route: Route | None, answer: urllib3.BaseHTTPResponse, body: bytes) -> None:
    """Raises UpstreamRefusal or UpstreamOverloaded for an answer that is not about this request."""
    kind = route.kind if route else ""
    # An artifact store's refusal of MLflow, such as S3's, has the form of MLflow's own errors.
    relays = kind == "gateway" or (kind == "artifacts" and b'"error_code"' in body)
    error: ProxyError | None = None
    if word := refusal(answer.status, answer.headers, body, relays):
        error = UpstreamRefusal(REFUSALS[word])
    elif is_pool_limit(answer.status, body) and not (route and route.partial):
        error = UpstreamOverloaded(
            "MLflow is overloaded: no connection to its database became free in time (QueuePool "
            f"limit). It did nothing; repeat the request in {OVERLOADED} s.",
            OVERLOADED,
        )
    if error is not None:
        answer.close()
        raise error


def is_of_intermediary(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether this is the error page of a load balancer or the like in front of MLflow. MLflow's
    own are JSON, come from its server, or have its words; a proxy may replace the server's name."""
    if status not in (502, 503, 504):
        return False
    if headers.get("Content-Type", "").startswith("application/json"):
        return False
    return not is_of_mlflow(headers, body)


def is_of_mlflow(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether MLflow, or its server, wrote this."""
    if headers.get("Server", "").lower().startswith(SERVERS):
        return True
    text = body.decode("utf-8", "replace")
    return text.startswith(OWN_PAGES) or any(words in text for words in OWN_TEXTS)


def refusal(status: int, headers: Mapping[str, str], body: bytes, relays: bool) -> str | None:
    """A word for a refusal that is about the proxy, not about the caller: credentials, permission
    or host. `relays`: the answer may be of somebody behind MLflow, such as a model provider."""
    text = body[:200].decode("utf-8", "replace").strip()
    if status == 401 and (not relays or "WWW-Authenticate" in headers):
        return "credentials"
    if status == 403 and text == NO_PERMISSION:
        return "permission"
    if status == 403 and text.startswith(BAD_HOST):
        return "host"
    return None


def is_pool_limit(status: int, body: bytes) -> bool:
    """Whether MLflow had no database connection left for this request."""
    return status == 400 and POOL_LIMIT.search(body) is not None
