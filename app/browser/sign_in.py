"""Signing in and out. The key is validated as in the pipeline, and failed attempts are counted."""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass

from flask import g, request
from werkzeug.wrappers import Response as WerkzeugResponse

from app.auth.authentication import Authentication
from app.auth.sessions import Session
from app.browser.account import require_a_key
from app.request.credentials import (
    SESSION_COOKIES,
    Credentials,
    checked,
    sends_key,
    session_tokens,
)
from app.request.errors import AuthServiceUnavailable, Unauthenticated
from app.request.inbound import client_address, scheme_of
from app.request.principal import Principal
from app.services import Services

log = logging.getLogger("hokusai.browser")

#: The paths of the cookie: MLflow's UI and our pages, nothing else on this host.
COOKIE_PATHS = ("/mlflow", "/status")


@dataclass(frozen=True, slots=True)
class SignIn:
    """Signing in and out, with the services that the pipeline uses."""

    services: Services

    @property
    def hops(self) -> int:
        """TRUSTED_PROXY_HOPS."""
        return self.services.settings.trusted_proxy_hops

    def session(self, as_stored: bool = False) -> Session | None:
        """The session of this request, without extending its idle time: these pages refresh
        themselves. None if there is none or it has ended. `as_stored` as in Sessions. Raises
        AuthServiceUnavailable."""
        tokens = session_tokens(request.environ, self.hops)
        if tokens is None:
            return None
        try:
            sessions, client_ip = self.services.sessions, self._client_ip()
            return sessions.find(tokens.sessions, client_ip, as_stored=as_stored)
        except Unauthenticated:
            return None

    def current_user(self) -> Principal | None:
        """The user who is signed in, or of the request's key. Basic does not count: a browser may
        send that of another application. Raises Unauthenticated for an invalid key."""
        if sends_key(request.environ):
            require_a_key(self.services)
        elif session := self.session():
            g.record.principal = session.principal
            g.record.limit_fields = self.left(session.principal)
        principal: Principal | None = g.record.principal
        return principal

    def begin(self, key: str) -> str:
        """Begin a session for this key and return its token. Raises the pipeline's errors.

        It counts against the limit of the key's sessions, so a key whose own limit is used up can
        still sign in. A stale result is not enough: the session would outlast it by hours.
        """
        since, client_ip = time.time(), self._client_ip()
        found = self._validated(checked(key, "Paste the key alone, nothing else."))
        if found.source == "stale":
            raise AuthServiceUnavailable(
                "Signing in is unavailable: the auth service does not answer. Try again later; "
                "programs can still use the key."
            )
        principal = found.principal
        g.record.limit_fields = self.services.limits.count(principal, "session")
        with suppress(AuthServiceUnavailable):  # then the old session ends by its idle time
            self._end_session()
        token = self.services.sessions.begin(principal, client_ip, since)
        _log("a session began", principal, client_ip)
        return token

    def left(self, principal: Principal) -> dict[str, str]:
        """What is left of the limit of the key's sessions, as X-RateLimit fields."""
        return self.services.limits.left(principal, "session")

    def end(self) -> None:
        """End the session of this request, if there is one. Raises AuthServiceUnavailable."""
        if (session := self.session(as_stored=True)) is not None:
            _log("a session was ended", session.principal, self._client_ip())
        self._end_session()

    def set_cookies(self, response: WerkzeugResponse, token: str) -> None:
        """Set the session's cookie, or remove it if the token is empty. It has no age: it ends
        with the browser."""
        scheme = scheme_of(request.environ, self.hops)
        for path in COOKIE_PATHS:
            response.set_cookie(
                SESSION_COOKIES[scheme],
                token,
                max_age=None if token else 0,
                path=path,
                secure=scheme == "https",
                httponly=True,
                samesite="Lax",
            )

    def _validated(self, credentials: Credentials) -> Authentication:
        found = self.services.authenticator.authenticate(credentials, self._client_ip())
        g.record.principal, g.record.auth_source = found.principal, found.source
        return found

    def _end_session(self) -> None:
        tokens = session_tokens(request.environ, self.hops)
        if tokens is not None:
            self.services.sessions.end(tokens.sessions)

    def _client_ip(self) -> str:
        return client_address(request.environ, self.hops)


def _log(what: str, principal: Principal, client_ip: str) -> None:
    fields = {
        "request_id": g.record.request_id,
        "user_id": principal.user_id,
        "key_id": principal.key_id,
        "client_ip": client_ip,
    }
    log.info(what, extra={"fields": fields})
