"""Our own pages: their template, their security headers, and errors as a page instead of JSON.

Only a browser's navigation gets HTML, and never below MLflow's API. SDKs, curl and the scripts of
MLflow's own pages always get JSON.
"""

from collections.abc import Mapping
from typing import Any, cast

from flask import Flask, Response, g, redirect, render_template, request

from app.request.credentials import sends_key
from app.request.errors import ProxyError, SessionEnded, Unauthenticated, Value
from app.request.inbound import raw_path
from app.responses import error_json

#: The prefix of our pages. MLflow has no such path, and the load balancer routes it.
BASE = "/mlflow/-"

#: MLflow's UI, and the path of the links that the SDK prints ("View run … at"): its tracking URI
#: and a fragment, which a browser keeps when it is redirected.
HOME, SDK_HOME = "/mlflow/", "/api/mlflow/"

#: The paths of pages, and those below them that are for programs.
PAGES = (HOME, "/status")
NO_PAGES = ("/mlflow/api/", "/mlflow/ajax-api/", "/mlflow/v1/", "/mlflow/static-files/")

#: For browsers. With Basic among the schemes they would open a password dialog.
CHALLENGE = 'Bearer realm="mlflow"'

#: For someone who looks at a page of MLflow whose scripts are refused: a reload is a navigation.
WAY_BACK = "Reload the page to get the form."

SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with that, a browser sends `Origin: null` with our own forms. base.html
    # repeats it, because many servers in front add no-referrer.
    "Referrer-Policy": "same-origin",
}

#: Characters of an address to open after sign-in. A longer one would make the page of a slow reader
#: take 300 KB, and the form takes no more.
LONGEST_GOAL = 8 * 1024

TITLES = {
    400: "Bad address",
    403: "This is not allowed",
    404: "Page not found",
    408: "The request took too long",
    414: "This address is too long",
    429: "Too many requests",
    431: "Your browser sent too many headers",
    502: "MLflow cannot be reached",
    503: "Temporarily unavailable",
    504: "MLflow is too slow",
}


def page(template: str, status: int = 200, **values: Any) -> Response:
    """One of our pages, never cached."""
    response = Response(render_template(template, base=BASE, **values), status=status)
    response.headers.extend(SECURITY)
    response.headers["Cache-Control"] = "no-store"
    return response


def sign_in_page(
    problem: str = "",
    status: int = 200,
    goal: str = "",
    note: str = "",
    headers: Mapping[str, Value] = {},
) -> Response:
    """The form for a key. `problem` and `note` are sentences for the reader, `goal` is the path to
    open afterwards, unless it is too long, `headers` are those of the error."""
    goal = goal if len(goal) <= LONGEST_GOAL else ""
    response = page("sign_in.html", status, problem=problem, goal=goal, note=note)
    response.headers.extend(headers)
    if "WWW-Authenticate" in headers:
        response.headers["WWW-Authenticate"] = CHALLENGE
    return response


def is_navigation(environ: Mapping[str, Any], path: str) -> bool:
    """Whether a person waits for a page: a GET of a page, or one of our forms, that accepts HTML,
    without a key. Sec-Fetch-Mode excludes scripts (https://www.w3.org/TR/fetch-metadata/). Without
    it the client must be a browser, because Java accepts HTML first too."""
    mode: str | None = environ.get("HTTP_SEC_FETCH_MODE")
    return (
        path.startswith(f"{BASE}/" if environ["REQUEST_METHOD"] == "POST" else PAGES)
        and not path.startswith(NO_PAGES)
        and environ["REQUEST_METHOD"] in ("GET", "POST")
        and "text/html" in environ.get("HTTP_ACCEPT", "")
        and (mode == "navigate" if mode else _is_browser(environ))
        and environ.get("HTTP_SEC_FETCH_DEST", "document") == "document"
        and not sends_key(environ)
    )


def render_error(error: ProxyError) -> Response:
    """A page for a browser's navigation, JSON for everything else."""
    environ = request.environ
    path = raw_path(environ)
    wants_key = isinstance(error, Unauthenticated)
    if wants_key and path == SDK_HOME and is_navigation(environ, HOME):
        return cast(Response, redirect(HOME, Response=Response))
    if is_navigation(environ, path):
        return _error_page(error)
    is_a_pages_script = _is_browser(environ) and not sends_key(environ)
    if wants_key and is_a_pages_script and path.startswith(HOME):
        return error_json(_signed_out(error))
    return error_json(error)


def _error_page(error: ProxyError) -> Response:
    """A page with the error's status. Without a session it is the sign-in form, which leads back to
    this page's address, the part behind `#` included."""
    if isinstance(error, Unauthenticated):
        note = error.message if isinstance(error, SessionEnded) else ""
        goal = request.environ.get("RAW_URI", "")
        return sign_in_page(status=401, goal=goal, note=note, headers=error.headers)
    values = _error_values(error.status, error.message, g.record.request_id)
    response = page("error.html", error.status, **values)
    response.headers.extend(error.headers)
    return response


def _error_values(status: int, message: str, request_id: str) -> dict[str, str]:
    title = TITLES.get(status, "The request failed")
    return {"title": title, "message": message, "request_id": request_id}


def page_without_request(
    app: Flask, environ: Mapping[str, Any], path: str, status: int, message: str, request_id: str
) -> tuple[dict[str, str], bytes] | None:
    """(header fields, body) of the page for a request that the server itself refuses; None unless
    a browser navigates. `environ` holds what was received of the request."""
    if not is_navigation(environ, path):
        return None
    with app.app_context():
        values = _error_values(status, message, request_id)
        body = render_template("error.html", base=BASE, **values).encode()
    return {"Content-Type": "text/html; charset=utf-8", **SECURITY}, body


def _signed_out(error: ProxyError) -> Unauthenticated:
    """The error for a page's script: MLflow shows its message to a person."""
    why = error.message if isinstance(error, SessionEnded) else "Sign in first."
    signed_out = Unauthenticated(f"{why} {WAY_BACK}")
    signed_out.headers["WWW-Authenticate"] = CHALLENGE
    return signed_out


def _is_browser(environ: Mapping[str, Any]) -> bool:
    agent: str = environ.get("HTTP_USER_AGENT", "")
    return agent.startswith("Mozilla/")  # as every browser's does
