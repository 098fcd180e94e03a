"""Signing in and out. The key is validated as the pipeline does it, failed attempts counted."""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass

from flask import g, request
from werkzeug.wrappers import Response as WerkzeugResponse

from app.auth.authentication import Authentication
from app.auth.sessions import Session
from app.request.credentials import (
    SESSION_COOKIES,
    Credentials,
    SessionTokens,
    checked,
    identify,
    sends_key,
    session_tokens,
)
from app.request.errors import AuthServiceUnavailable, Unauthenticated
from app.request.inbound import client_address, scheme_of
from app.request.principal import Principal
from app.services import Services

log = logging.getLogger("hokusai.browser")

#: Where the cookie goes: MLflow's UI and our pages, nowhere else on this host.
COOKIE_PATHS = ("/mlflow", "/status")

#: Seconds after which to try again to sign in, in an outage of the auth service.
RETRY_AFTER = 10


@dataclass(frozen=True, slots=True)
class SignIn:
    """Signing in and out, with the services that the pipeline uses."""

    services: Services

    @property
    def hops(self) -> int:
        """TRUSTED_PROXY_HOPS."""
        return self.services.settings.trusted_proxy_hops

    def session(self) -> Session | None:
        """The session of this request, whose idle time runs on: these pages refresh themselves.
        None where there is none or it is over; AuthServiceUnavailable where nobody knows."""
        tokens = session_tokens(request.environ, self.hops)
        if tokens is None:
            return None
        try:
            return self.services.sessions.find(tokens.sessions, self._client_ip())
        except Unauthenticated:
            return None

    def asking(self) -> Principal | None:
        """Who is signed in, or whose key the request carries, which must be valid."""
        environ = request.environ
        if not sends_key(environ) and (session := self.session()):
            return session.principal
        if "HTTP_AUTHORIZATION" in environ or "HTTP_X_API_KEY" in environ:
            return self._validated(identify(environ, self.hops)).principal
        return None

    def begin(self, key: str) -> str:
        """A session for this key; raises what the pipeline would.

        It counts as a request of the key's sessions, so that a key whose own limit is used up can
        still look. A stale verdict begins none, because the session would outlast it by hours.
        """
        since, client_ip = time.time(), self._client_ip()
        found = self._validated(checked(key, "Paste the key alone, nothing else."))
        if found.source == "stale":
            raise AuthServiceUnavailable(
                "Nobody can sign in at the moment (the auth service gives no answer). Try again "
                "later; programs go on with the key meanwhile.",
                RETRY_AFTER,
            )
        principal = found.principal
        g.record.limit_fields = self.services.limits.count(principal, "session")
        with suppress(AuthServiceUnavailable):  # the old one, if any, ends by itself then
            self._end_session()
        token = self.services.sessions.begin(principal, client_ip, since)
        _log("a session began", principal, client_ip)
        return token

    def end(self) -> None:
        """Ends the session of this request, if there is one. AuthServiceUnavailable where that
        cannot be done now."""
        if (session := self.session()) is not None:
            _log("a session was ended", session.principal, self._client_ip())
        self._end_session()

    def set_cookies(self, response: WerkzeugResponse, token: str) -> None:
        """The session's cookie, or with an empty token its removal. It has no age of its own: it
        goes with the browser, and the session may have ended before."""
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

    def _validated(self, credentials: Credentials | SessionTokens) -> Authentication:
        """Whose key it is, asked as the pipeline does; failed attempts are counted."""
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
