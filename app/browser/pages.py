"""Our own pages: their template, their security headers, and errors as a page instead of JSON.

Only a browser's navigation gets HTML, and never below MLflow's API. SDKs, curl and the scripts of
MLflow's own pages get the JSON that they always get.
"""

from collections.abc import Mapping
from typing import Any, cast

from flask import Flask, Response, g, redirect, render_template, request

from app.request.credentials import sends_key
from app.request.errors import ProxyError, SessionEnded, Unauthenticated, Value
from app.request.inbound import raw_path
from app.responses import error_json

#: Where our pages stand. MLflow has no path that begins so, and the load balancer routes it.
BASE = "/mlflow/-"

#: MLflow's UI, and where the links lead that the SDK prints: "View run … at", its tracking URI and
#: a `#`, which a browser takes along when it is sent on.
HOME, SDK_HOME = "/mlflow/", "/api/mlflow/"

#: Where people go with a browser, and what among it is for programs.
PAGES = (HOME, "/status")
NO_PAGES = ("/mlflow/api/", "/mlflow/ajax-api/", "/mlflow/v1/", "/mlflow/static-files/")

#: What a browser that may use these pages is told: with Basic among the schemes it would ask for a
#: user name and a password in a window of its own.
CHALLENGE = 'Bearer realm="mlflow"'

#: For whoever looks at a page of MLflow whose scripts are refused: reloading it is a navigation.
WAY_BACK = "Reloading the page brings the form for it."

SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with that, a browser sends `Origin: null` with our own forms. base.html says
    # it again, because many servers in front add no-referrer.
    "Referrer-Policy": "same-origin",
}

TITLES = {
    400: "This address cannot be read",
    403: "This is not allowed",
    404: "There is nothing here",
    408: "The request was too slow",
    414: "This address is too long",
    429: "Too many requests",
    431: "Your browser sends too much",
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
    go on to; `headers` are those of the error that leads here."""
    response = page("sign_in.html", status, problem=problem, goal=goal, note=note)
    response.headers.extend(headers)
    if "WWW-Authenticate" in headers:
        response.headers["WWW-Authenticate"] = CHALLENGE
    return response


def is_navigation(environ: Mapping[str, Any], path: str) -> bool:
    """Whether a person waits for a page: a GET of a page's path, or one of our forms, that accepts
    HTML, without a key. Where the browser tells (https://www.w3.org/TR/fetch-metadata/), no
    script's; where it does not, it must be a browser, because Java accepts HTML first too."""
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
    title = TITLES.get(error.status, "This did not work")
    message, request_id = error.message, g.record.request_id
    response = page("error.html", error.status, title=title, message=message, request_id=request_id)
    response.headers.extend(error.headers)
    return response


def page_without_request(
    app: Flask, environ: Mapping[str, Any], path: str, status: int, message: str, request_id: str
) -> tuple[dict[str, str], bytes] | None:
    """Fields and body of an error's page, for what the server refuses by itself; None where no
    browser navigates. Its `environ` holds what came of the request."""
    if not is_navigation(environ, path):
        return None
    title = TITLES.get(status, "This did not work")
    with app.app_context():
        values = {"base": BASE, "title": title, "message": message, "request_id": request_id}
        body = render_template("error.html", **values).encode()
    return {"Content-Type": "text/html; charset=utf-8", **SECURITY}, body


def _signed_out(error: ProxyError) -> Unauthenticated:
    """The same for a page's script: MLflow shows the message, and a person reads it. The challenge
    is not to make the browser ask for a password."""
    why = error.message if isinstance(error, SessionEnded) else "Sign in first."
    told = Unauthenticated(f"{why} {WAY_BACK}")
    told.headers["WWW-Authenticate"] = CHALLENGE
    return told


def _is_browser(environ: Mapping[str, Any]) -> bool:
    agent: str = environ.get("HTTP_USER_AGENT", "")
    return agent.startswith("Mozilla/")  # as every browser's does
