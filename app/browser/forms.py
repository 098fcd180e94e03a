"""The routes of signing in and out, and the static files of our pages.

The form comes without a key, so its size, time and number are bounded. The time is the server's
(CLIENT_REQUEST_TIMEOUT). Once a worker reads MOST_AT_ONCE forms, it gives up the oldest for a new
one. A person's form takes milliseconds, so a client that sends many slowly keeps nobody from
signing in.
"""

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, quote

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as WerkzeugResponse

from app.browser import account, pages
from app.browser.pages import HOME
from app.browser.sign_in import SignIn
from app.request.body import whole_body
from app.request.cross_site import require_own_page
from app.request.errors import (
    AuthServiceUnavailable,
    BadRequest,
    ClientGone,
    NoSuchPath,
    Overloaded,
    ProxyError,
    RequestTimeout,
)
from app.request.inbound import METHODS, check_query, checked_path
from app.responses import note

#: Bytes of a form: three for each character of the longest accepted address, and a key.
MAX_FORM = 32 * 1024

#: Forms read at once, and seconds until the next attempt.
MOST_AT_ONCE = 64
RETRY_AFTER = 5

#: Fields of a form; ours has three.
MOST_FIELDS = 10

NOT_ENDED = (
    "This browser is signed out. The session itself could not be ended: it ends by its idle time."
)


def blueprint(signing: SignIn, split_scopes: bool) -> Blueprint:
    """Sign-in, sign-out and static files; every other path below BASE is 404, never MLflow's.
    `split_scopes` as SPLIT_SCOPES."""
    routes = Blueprint(
        "browser",
        __name__,
        static_folder="static",
        static_url_path=f"{pages.BASE}/static",
        template_folder="templates",
    )
    forms = SignInForms()

    @routes.before_request
    def refuse_keys() -> None:
        check_query(request.query_string.decode("latin-1"))

    @routes.after_request
    def forbid_sniffing(response: Response) -> Response:
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response

    @routes.get(f"{pages.BASE}/sign-in")
    def form() -> Response:
        note = "You are signed out." if "signed-out" in request.args else ""
        try:
            session = signing.session()
        except AuthServiceUnavailable as unknown:
            session, note = None, unknown.message
        if session is not None:
            principal = session.principal
            return pages.page(
                "account.html",
                key=account.describe(principal, split_scopes, signing.left(principal)),
                rights=account.rights(principal, split_scopes),
                expires_soon=principal.expires_soon,
                ends=time.gmtime(session.until),
                goal=own_path(request.args.get("next", "")),
            )
        return pages.sign_in_page(goal=request.args.get("next", ""), note=note)

    @routes.post(f"{pages.BASE}/sign-in")
    def sign_in() -> WerkzeugResponse:
        require_own_page(request.environ, signing.hops)
        key, goal = forms.read(request.environ)
        try:
            token = signing.begin(key)
        except ProxyError as error:
            note(error)
            return pages.sign_in_page(error.message, error.status, goal, headers=error.headers)
        moved = redirect(_page_for(own_path(goal)), 303)
        moved.headers["Cache-Control"] = "no-store"
        signing.set_cookies(moved, token)
        return moved

    _add_sign_out(routes, signing)

    @routes.route(f"{pages.BASE}/", defaults={"rest": ""}, methods=METHODS, strict_slashes=False)
    @routes.route(f"{pages.BASE}/<any_rest:rest>", methods=METHODS)
    def not_found(rest: str) -> Response:
        raise NoSuchPath("The proxy has no such page of its own.")

    return routes


def _add_sign_out(routes: Blueprint, signing: SignIn) -> None:
    @routes.post(f"{pages.BASE}/sign-out")
    def sign_out() -> WerkzeugResponse:
        require_own_page(request.environ, signing.hops)
        try:
            signing.end()
            done: WerkzeugResponse = redirect(f"{pages.BASE}/sign-in?signed-out", 303)
        except AuthServiceUnavailable as error:
            note(error)
            done = pages.sign_in_page(NOT_ENDED, error.status, headers=error.headers)
        done.headers["Cache-Control"] = "no-store"
        signing.set_cookies(done, "")
        return done

    @routes.get(f"{pages.BASE}/sign-out")
    def link_to_sign_out() -> WerkzeugResponse:
        return redirect(f"{pages.BASE}/sign-in", 303)


class SignInForms:
    """The forms that this worker is reading."""

    def __init__(self) -> None:
        #: Their clients, as app/server/client_socket.py knows them; the oldest first.
        self._being_read: list[Any] = []

    def read(self, environ: Mapping[str, Any]) -> tuple[str, str]:
        """(key, path to open afterwards).

        Raises BadRequest for a body that our own form does not send, RequestTimeout for one that
        is too slow, Overloaded for one that is given up for others.
        """
        client = environ.get("gunicorn.socket")
        self._being_read.append(client)
        others = [one for one in self._being_read if one is not None and not one.is_given_up]
        if len(others) > MOST_AT_ONCE:
            others[0].give_up()
        try:
            return _parsed(whole_body(environ, _length(environ)))
        except RequestTimeout:
            raise RequestTimeout("The form took too long; sign in again.") from None
        except ClientGone:
            if client is not None and client.is_given_up:
                message = "Too many people sign in at once; sign in again."
                raise Overloaded(message, RETRY_AFTER) from None
            raise
        finally:
            self._being_read.remove(client)


def _length(environ: Mapping[str, Any]) -> int:
    length = environ.get("CONTENT_LENGTH", "0") or "0"
    is_a_form = environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded")
    if not is_a_form or "HTTP_TRANSFER_ENCODING" in environ or int(length) > MAX_FORM:
        raise BadRequest("This is not what the sign-in form sends.")
    return int(length)


def _parsed(body: bytes) -> tuple[str, str]:
    try:
        fields = parse_qs(body.decode(errors="replace"), max_num_fields=MOST_FIELDS)
    except ValueError:
        raise BadRequest("This is not what the sign-in form sends.") from None
    return _bare(fields.get("key", [""])[0]), fields.get("next", [""])[0]


def _bare(pasted: str) -> str:
    """The key without what may be pasted with it: blanks, quotes, the name of the scheme."""
    return pasted.strip(" \t\r\n\"'\u200b\ufeff").removeprefix("Bearer ")


def own_path(goal: str) -> str:
    """The path to open: one of MLflow's UI, or the status page, never another site's."""
    path, _, query = goal.partition("?")
    if path == "/status":
        return "/status"
    if not path.startswith(HOME) or path.startswith(f"{pages.BASE}/"):
        return HOME
    try:
        checked_path(path)
        check_query(query)
    except BadRequest:
        return HOME
    return goal


def _page_for(goal: str) -> str:
    """MLflow's UI or the status page itself. Anything else may be a download, which would leave the
    form on the screen, so a page shows a link to it."""
    if goal.partition("?")[0] in (HOME, "/status"):
        return goal
    return f"{pages.BASE}/sign-in?next={quote(goal, safe='/')}"
