"""The routes of signing in and out, and the static files of our pages."""

import time
from urllib.parse import quote

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as WerkzeugResponse

from app.auth.authorization import granted
from app.browser import pages
from app.browser.pages import HOME
from app.browser.sign_in import SignIn
from app.browser.sign_in_form import SignInForms
from app.request.cross_site import require_own_page
from app.request.errors import AuthServiceUnavailable, BadRequest, NoSuchPath, ProxyError
from app.request.inbound import METHODS, check_query, checked_path
from app.request.principal import Principal
from app.request.route_table import Access
from app.responses import note

NOT_ENDED = (
    "This browser is signed out. The session itself could not be ended: it ends by its idle time."
)


def blueprint(signing: SignIn) -> Blueprint:
    """Sign-in, sign-out and static files; every other path below BASE is 404, never MLflow's."""
    routes = Blueprint(
        "browser",
        __name__,
        static_folder="static",
        static_url_path=f"{pages.BASE}/static",
        template_folder="templates",
    )
    forms = SignInForms()
    _forbid_sniffing(routes)

    @routes.before_request
    def refuse_keys() -> None:
        check_query(request.query_string.decode("latin-1"))

    @routes.get(f"{pages.BASE}/sign-in")
    def form() -> Response:
        note = "You are signed out." if "signed-out" in request.args else ""
        try:
            session = signing.session()
        except AuthServiceUnavailable as unknown:
            session, note = None, unknown.message
        if session is not None:
            return pages.page(
                "account.html",
                principal=session.principal,
                rights=rights(session.principal),
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
    _add_not_found(routes)
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


def _add_not_found(routes: Blueprint) -> None:
    @routes.route(f"{pages.BASE}/", defaults={"rest": ""}, methods=METHODS, strict_slashes=False)
    @routes.route(f"{pages.BASE}/<any_rest:rest>", methods=METHODS)
    def not_found(rest: str) -> Response:
        raise NoSuchPath("The proxy has no such page of its own.")


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


def rights(principal: Principal) -> str:
    """The rights of a key, such as "read and write"."""
    words = {Access.READ: "read", Access.WRITE: "write", Access.ADMIN: "administer"}
    own = granted(principal)
    *first, last = [word for access, word in words.items() if access in own] or ["nothing"]
    return f"{', '.join(first)} and {last}" if first else last


def _forbid_sniffing(routes: Blueprint) -> None:
    @routes.after_request
    def harden(response: Response) -> Response:
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response
