"""Our own pages: their template, their security headers, and errors as a page instead of JSON.

Only a browser's navigation gets HTML. SDKs, curl and the scripts of MLflow's own pages get the JSON
that they always get.
"""

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, g, render_template, request

from app.credentials import session_ticket
from app.errors import ProxyError, Unauthenticated
from app.record import Record
from app.responses import refuse

#: Where our pages stand. MLflow has no path that begins so, and the load balancer routes it.
BASE = "/mlflow/-"

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
    # Not no-referrer: with that, a browser sends `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
}

TITLES = {
    403: "This key may not do that",
    404: "There is nothing here",
    429: "Too much at once",
    502: "MLflow cannot be reached",
    503: "Not at the moment",
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
    headers: Mapping[str, str] = {},
) -> Response:
    """The form for a key. `problem` and `note` are sentences for the reader, `goal` is the path to
    go on to; `headers` are those of the error that leads here."""
    response = page("sign_in.html", status, problem=problem, goal=goal, note=note)
    response.headers.extend(headers)
    if "WWW-Authenticate" in headers:
        response.headers["WWW-Authenticate"] = CHALLENGE
    return response


def is_navigation(environ: Mapping[str, Any]) -> bool:
    """Whether a person waits for a page: a GET that accepts HTML, without a key, and, where the
    browser tells (https://www.w3.org/TR/fetch-metadata/), no script's request."""
    return (
        environ["REQUEST_METHOD"] == "GET"
        and "text/html" in environ.get("HTTP_ACCEPT", "")
        and environ.get("HTTP_SEC_FETCH_MODE", "navigate") == "navigate"
        and environ.get("HTTP_SEC_FETCH_DEST", "document") == "document"
        and not _has_key(environ)
    )


def install(routes: Blueprint) -> None:
    """Errors that a navigation under /mlflow/ meets become pages."""

    @routes.app_errorhandler(ProxyError)
    def refuse_as_fits(error: ProxyError) -> Response:
        environ = request.environ
        in_the_ui = g.record.path.startswith("/mlflow/")
        if in_the_ui and is_navigation(environ):
            refuse(error)  # for log and metrics
            return error_page(error)
        if in_the_ui and isinstance(error, Unauthenticated) and _is_script(environ):
            return refuse(_signed_out(error))
        return refuse(error)


def error_page(error: ProxyError) -> Response:
    """The same status as in JSON. Who is not signed in can do so here and now: with the page's
    address kept, and what stands behind its `#`."""
    record: Record = g.record
    if isinstance(error, Unauthenticated):
        note = error.message if session_ticket(request.environ) else ""
        goal = request.environ.get("RAW_URI", "")
        return sign_in_page(status=401, goal=goal, note=note, headers=error.headers)
    title = TITLES.get(error.status, "This did not work")
    message, request_id = error.message, record.request_id
    response = page("error.html", error.status, title=title, message=message, request_id=request_id)
    response.headers.extend(error.headers)
    return response


def _signed_out(error: Unauthenticated) -> Unauthenticated:
    """The same for a page's script: MLflow shows the message, and a person reads it."""
    why = error.message if session_ticket(request.environ) else "Sign in first."
    told = Unauthenticated(f"{why} {WAY_BACK}")
    told.headers["WWW-Authenticate"] = CHALLENGE
    return told


def _is_script(environ: Mapping[str, Any]) -> bool:
    """Whether a script of a page asks, without a key of its own: the browser is not to ask for a
    password. Every browser's User-Agent begins so."""
    agent: str = environ.get("HTTP_USER_AGENT", "")
    return agent.startswith("Mozilla/") and not _has_key(environ)


def _has_key(environ: Mapping[str, Any]) -> bool:
    return "HTTP_AUTHORIZATION" in environ or "HTTP_X_API_KEY" in environ
