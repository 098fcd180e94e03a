"""From a key to a principal: first the cache, then the auth service; behaviour in an outage.

Identity fails closed: a key without a valid decision is refused, in an outage with 503, never with
401. What fails open (limits/request_limits.py covers the limits):

- Auth service unavailable: a key found valid earlier keeps working for AUTH_STALE_TTL after its
  decision's TTL, and is revalidated every AUTH_RETRY_INTERVAL. An unknown key gets 503.
- Auth service throttling: 429 for every key whose decision is past its TTL; none is used stale.
- Auth service refuses the key: the key ends at once, even with a stale decision.
- Redis unavailable: callers see no change. Each worker uses the decisions in its memory; new ones
  are shared by the workers of an instance only. Revocations do not arrive, so a revoked key works
  until its decision's TTL (AUTH_CACHE_TTL).
- Both unavailable: a key accepted by this worker, or by its instance since Redis failed, keeps
  working for AUTH_STALE_TTL.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from app.auth.answer import throttled
from app.auth.cache import DecisionCache
from app.auth.client import AuthService
from app.auth.single_flight import SingleFlight
from app.observability.metrics import count_authentication
from app.request.addresses import network
from app.request.credentials import Credentials, SessionTokens
from app.request.errors import AuthServiceUnavailable, Overloaded, RateLimited, Unauthenticated
from app.request.principal import Decision, Principal


@dataclass(frozen=True, slots=True)
class Authentication:
    """A principal and the source of the decision: "hit", "miss", "stale" or "session"."""

    principal: Principal
    source: str


class FailureLimit(Protocol):
    """The limit of failed attempts per client address or network."""

    def check_failures(self, client_ip: str) -> None:
        """Raise RateLimited if too many recent attempts failed."""

    def guess(self, client_ip: str) -> AbstractContextManager[None]:
        """Wrap the validation of a key that may be a guess. Raises RateLimited as above, or
        Overloaded if too many wait."""

    def note_failure(self, client_ip: str) -> None:
        """Count a failed attempt."""


class Authenticator:
    """The only owner of authentication: cache, single flight, auth service, sessions, and the
    limit of failed attempts."""

    def __init__(
        self,
        *,
        cache: DecisionCache,
        flights: SingleFlight,
        service: AuthService,
        issuer: str,
        timeout: float,
        retry_interval: float,
        failures: FailureLimit,
        sessions: Callable[[Sequence[str], str], Principal] | None = None,
    ) -> None:
        """`timeout`: seconds to wait for another request's validation of the same key. It must
        exceed the auth service's timeout, or both requests would call. `sessions` maps browser
        session tokens and the client's address to the principal of the first valid session; raises
        Unauthenticated or AuthServiceUnavailable."""
        self._cache = cache
        self._flights = flights
        self._service = service
        self._issuer = issuer
        self._timeout = timeout
        self._retry_interval = retry_interval
        self._sessions = sessions
        self._failures = failures

    def authenticate(
        self, credentials: Credentials | SessionTokens, client_ip: str
    ) -> Authentication:
        """Find the principal behind a key or a browser's session.

        Failed attempts are limited per address. A recently valid key is exempt: it is no guess, and
        the failures may be others' at the same address. Raises Unauthenticated, RateLimited or
        AuthServiceUnavailable.
        """
        if isinstance(credentials, SessionTokens):
            return Authentication(self._of_session(credentials, client_ip), "session")
        digest = self._cache.digest(credentials.key, client_ip, self._issuer)
        decision, source = self._cache.fresh(digest), "hit"
        if decision is None:
            decision, source = self._ask(digest, credentials, client_ip)
        elif decision.principal is None:
            self._failures.check_failures(client_ip)
        count_authentication(source, decision.principal is not None)
        if decision.principal is None:
            if source == "hit":
                self._failures.note_failure(client_ip)
            raise Unauthenticated(
                "This API key is not valid: unknown, expired, revoked, or not allowed from "
                f"your address ({client_ip})."
            )
        return Authentication(decision.principal, source)

    def _of_session(self, tokens: SessionTokens, client_ip: str) -> Principal:
        """Find a session's principal. A failure does not count as a failed attempt: an open page
        keeps sending requests after its session ends, and 256 bits cannot be guessed."""
        if self._sessions is None:
            raise Unauthenticated("Sessions are not supported; send an API key.")
        try:
            principal = self._sessions(tokens.sessions, client_ip)
        except Unauthenticated:
            count_authentication("session", False)
            raise
        count_authentication("session", True)
        return principal

    def _ask(self, digest: str, credentials: Credentials, client_ip: str) -> tuple[Decision, str]:
        """Return the decision and its source. While the auth service is unavailable, only the
        probing request waits."""
        if found := self._while_unanswered(digest):
            return found
        if self._flights.is_full:
            return self._stale_or_raise(digest, None)
        since = time.time()
        with self._flights.lock(digest, self._timeout):
            return self._ask_once(digest, credentials, client_ip, since)

    def _ask_once(
        self, digest: str, credentials: Credentials, client_ip: str, since: float
    ) -> tuple[Decision, str]:
        """Re-check under the key's lock: the previous holder may have stored a decision or a
        failure."""
        if decision := self._cache.fresh(digest, since):
            return decision, "hit"
        if found := self._while_unanswered(digest):
            return found
        known = self._known(credentials, client_ip)

        def was_good() -> bool:
            return any(map(self._cache.was_good, {digest, known}))

        guess = self._failures.guess(client_ip)
        try:
            with nullcontext() if was_good() else guess:
                found = self._validated(digest, known, credentials, client_ip, was_good)
                if found[0].principal is None:
                    self._failures.note_failure(client_ip)
                return found
        except Overloaded:  # so are the others with this key, who would wait one after the other
            self._cache.unanswered.note(digest, 1.0)
            raise

    def _known(self, credentials: Credentials, client_ip: str) -> str:
        """The cache digest of a key's last decision for the client's network. Failed attempts count
        per network, so a key in use there is no guess when it comes from a new address in it, nor
        at the address where it was good."""
        return self._cache.digest(credentials.key, network(client_ip), self._issuer)

    def _validated(
        self,
        digest: str,
        known: str,
        credentials: Credentials,
        client_ip: str,
        was_good: Callable[[], bool],
    ) -> tuple[Decision, str]:
        """Call the auth service; fall back to a stale decision if it is unavailable."""
        self._cache.unanswered.extend(digest, self._timeout)
        try:
            asked_at = time.time()
            answer = self._service.validate(credentials.key, client_ip, was_good)
            decision = Decision(answer, asked_at)
        except AuthServiceUnavailable as unavailable:
            self._cache.unanswered.note(digest, self._retry_interval)
            return self._stale_or_raise(digest, unavailable)
        except RateLimited as later:
            self._cache.unanswered.note(digest, self._retry_interval, later.retry_after)
            raise
        if known != digest:
            self._cache.put(known, decision)
        if not self._cache.put(digest, decision):  # maybe not for its sake: see `flask revoke`
            raise AuthServiceUnavailable(
                "This API key was revoked while it was validated. Repeat the request.", 1
            )
        return decision, "miss"

    def _while_unanswered(self, digest: str) -> tuple[Decision, str] | None:
        """Apply the negative cache: a stale decision, or an error. None if the auth service may be
        called about this key."""
        throttled_for = self._cache.unanswered.get(digest)
        if throttled_for is None:
            return None
        if throttled_for:
            raise throttled(throttled_for)
        return self._stale_or_raise(digest, None)

    def _stale_or_raise(
        self, digest: str, unavailable: AuthServiceUnavailable | None
    ) -> tuple[Decision, str]:
        decision = self._cache.stale(digest)
        if decision is None:
            raise unavailable or AuthServiceUnavailable(
                "API keys cannot be validated: the auth service is unavailable. Repeat the request "
                "later."
            )
        return decision, "stale"
