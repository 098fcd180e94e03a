"""Sign-in and sign-out. The key is validated as the walk does it, failed attempts counted."""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass

from flask import Blueprint, Response, g, redirect, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse

from app.authentication import Authenticator
from app.authorization import granted
from app.browser import pages
from app.browser.sessions import Sessions
from app.credentials import (
    SESSION_COOKIES,
    Credentials,
    Ticket,
    checked,
    identify,
    session_ticket,
)
from app.cross_site import require_own_page
from app.errors import AuthServiceUnavailable, BadRequest, NoSuchPath, ProxyError, RequestTimeout
from app.inbound import check_query, checked_path, client_address, scheme_of
from app.limits import Limits
from app.principal import Principal
from app.responses import refuse
from app.route_table import Access

log = logging.getLogger("hokusai.browser")

#: Where the cookie goes: MLflow's UI and our pages, nowhere else on this host.
COOKIE_PATHS = ("/mlflow", "/status")

HOME = "/mlflow/"

#: Seconds after which to try again to sign in, in an outage of the auth service.
RETRY_AFTER = 10

#: Bytes of a form; a key and an address are far less.
MAX_FORM = 16 * 1024


@dataclass(frozen=True, slots=True)
class SignIn:
    """What signing in works with; `hops` as TRUSTED_PROXY_HOPS."""

    authenticator: Authenticator
    limits: Limits
    sessions: Sessions
    hops: int

    def principal(self) -> Principal | None:
        """Who is signed in on this request, or None."""
        ticket = session_ticket(request.environ)
        if ticket is None:
            return None
        try:
            return self.sessions.principal(ticket.session, self._client_ip())
        except ProxyError:
            return None

    def asking(self) -> Principal | None:
        """The same, or whose key the request carries. A key must be valid; a session may be
        over."""
        environ = request.environ
        if "HTTP_AUTHORIZATION" in environ or "HTTP_X_API_KEY" in environ:
            return self._validated(identify(environ))
        return self.principal()

    def begin(self, key: str) -> str:
        """A session for this key; raises what the walk would. It counts against the key's limit. A
        stale verdict begins none, because the session would outlast it by hours."""
        since, client_ip = time.time(), self._client_ip()
        principal = self._validated(checked(key, "Paste the key alone: it has no blank in it."))
        if g.record.auth_source == "stale":
            raise AuthServiceUnavailable(
                "Nobody can sign in at the moment (the auth service gives no answer). Try again "
                "later; programs go on with the key meanwhile.",
                RETRY_AFTER,
            )
        self.limits.count(principal)
        with suppress(AuthServiceUnavailable):  # the old one, if any, ends by itself then
            self._end_ticket()
        _log("a session began", principal, client_ip)
        return self.sessions.begin(principal, client_ip, since)

    def end(self) -> None:
        """Ends the session of this request, if there is one."""
        if (principal := self.principal()) is not None:
            _log("a session was ended", principal, self._client_ip())
        self._end_ticket()

    def set_cookies(self, response: WerkzeugResponse, token: str) -> None:
        """The session's cookie, or with an empty token its removal. It has no age of its own: it
        goes with the browser, and the session may have ended before."""
        secure = scheme_of(request.environ, self.hops) == "https"
        for path in COOKIE_PATHS:
            response.set_cookie(
                SESSION_COOKIES[0 if secure else 1],
                token,
                max_age=None if token else 0,
                path=path,
                secure=secure,
                httponly=True,
                samesite="Lax",
            )

    def _validated(self, credentials: Credentials | Ticket) -> Principal:
        """Whose key it is, asked as the walk does; failed attempts are counted."""
        client_ip = self._client_ip()
        found = self.authenticator.authenticate(
            credentials,
            client_ip,
            before_asking=lambda: self.limits.check_failures(client_ip),
            on_failure=lambda: self.limits.note_failure(client_ip),
        )
        g.record.principal, g.record.auth_source = found.principal, found.source
        return found.principal

    def _end_ticket(self) -> None:
        ticket = session_ticket(request.environ)
        if ticket is not None:
            self.sessions.end(ticket.session)

    def _client_ip(self) -> str:
        return client_address(request.environ, self.hops)


def blueprint(parts: SignIn) -> Blueprint:
    """The form, what it sends, the way out, and the static files of our pages."""
    routes = Blueprint(
        "browser",
        __name__,
        static_folder="static",
        static_url_path=f"{pages.BASE}/static",
        template_folder="templates",
    )
    pages.install(routes)
    _files_are_files(routes)

    @routes.get(f"{pages.BASE}/sign-in")
    def form() -> Response:
        principal = parts.principal()
        if principal is not None:
            return pages.page("account.html", principal=principal, may=may(principal))
        note = "You are signed out." if "signed-out" in request.args else ""
        return pages.sign_in_page(goal=request.args.get("next", ""), note=note)

    @routes.post(f"{pages.BASE}/sign-in")
    def sign_in() -> WerkzeugResponse:
        require_own_page(request.environ)
        key, goal = _form()
        try:
            token = parts.begin(key)
        except ProxyError as error:
            refuse(error)  # for log and metrics; a person gets it as a page
            return pages.sign_in_page(error.message, error.status, goal, headers=error.headers)
        moved = redirect(own_path(goal), 303)
        moved.headers["Cache-Control"] = "no-store"
        parts.set_cookies(moved, token)
        return moved

    @routes.post(f"{pages.BASE}/sign-out")
    def sign_out() -> WerkzeugResponse:
        require_own_page(request.environ)
        parts.end()
        moved = redirect(f"{pages.BASE}/sign-in?signed-out", 303)
        parts.set_cookies(moved, "")
        return moved

    @routes.route(f"{pages.BASE}/", defaults={"rest": ""})
    @routes.route(f"{pages.BASE}/<path:rest>")
    def nothing(rest: str) -> Response:
        raise NoSuchPath("The proxy has no such page of its own.")

    return routes


def own_path(goal: str) -> str:
    """Where to go on to: a path of MLflow's UI or the status page, and never another site's."""
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


def may(principal: Principal) -> str:
    """What a key may do, for its owner: "read and write", say."""
    words = {Access.READ: "read", Access.WRITE: "write", Access.ADMIN: "administer"}
    own = granted(principal)
    *first, last = [word for access, word in words.items() if access in own] or ["nothing"]
    return f"{', '.join(first)} and {last}" if first else last


def _form() -> tuple[str, str]:
    """The key and where to go on to. BadRequest for what our own form does not send."""
    if not 0 <= (request.content_length or 0) <= MAX_FORM or "HTTP_TRANSFER_ENCODING" in (
        request.environ
    ):
        raise BadRequest("This is not what the sign-in form sends.")
    try:
        return request.form.get("key", "").strip(), request.form.get("next", "")
    except TimeoutError:
        raise RequestTimeout("The form stopped coming; sign in again.") from None
    except HTTPException:
        raise BadRequest("This is not what the sign-in form sends.") from None


def _files_are_files(routes: Blueprint) -> None:
    """No browser is to make anything else of them; they may be kept, and are asked about again."""

    @routes.after_request
    def harden(response: Response) -> Response:
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response


def _log(what: str, principal: Principal, client_ip: str) -> None:
    fields = {
        "request_id": g.record.request_id,
        "user_id": principal.user_id,
        "key_id": principal.key_id,
        "client_ip": client_ip,
    }
    log.info(what, extra={"fields": fields})
