"""From a key to a principal: the cache before the auth service, and what an outage means.

Fails closed on identity: a key that nobody vouches for is refused, in an outage with 503 and never
with 401. What is open then, and what is not (limits/request_limits.py says the rest):

- The auth service gives no answer: a key that it found valid earlier goes on for AUTH_STALE_TTL
  after that verdict's own life, and is asked about again every AUTH_RETRY_INTERVAL. An unknown key
  gets 503.
- It throttles: 429 for every key whose verdict's life is over; nothing stale is used.
- It says no: that ends the key at once, stale verdict or not.
- Redis is away: nobody notices. Each worker goes on with the verdicts that it remembers; new ones
  are shared by the workers of an instance, no longer by all instances. Revocations are not heard,
  so the life of a verdict (AUTH_CACHE_TTL) bounds them.
- Both are away: who was let in by this worker, or by its instance since Redis went, goes on for
  AUTH_STALE_TTL.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from app.auth.cache import VerdictCache
from app.auth.client import AuthService, throttled
from app.auth.single_flight import SingleFlight
from app.observability.metrics import count_authentication
from app.request.addresses import network
from app.request.credentials import Credentials, SessionTokens
from app.request.errors import AuthServiceUnavailable, Overloaded, RateLimited, Unauthenticated
from app.request.principal import Principal, Verdict


@dataclass(frozen=True, slots=True)
class Authentication:
    """Which principal, and how it was found: "hit", "miss", "stale" or "session"."""

    principal: Principal
    source: str


class FailureLimit(Protocol):
    """The limit of failed attempts, counted for a client's address or network."""

    def check_failures(self, client_ip: str) -> None:
        """RateLimited if too many attempts failed lately."""

    def guess(self, client_ip: str) -> AbstractContextManager[None]:
        """Surrounds a question about a key that may be a guess; RateLimited as above, Overloaded
        where too many wait."""

    def note_failure(self, client_ip: str) -> None:
        """Counts a failed attempt."""


class Authenticator:
    """Sole owner of authentication: the cache, the single flight, the auth service, sessions, and
    the limit of failed attempts."""

    def __init__(
        self,
        *,
        cache: VerdictCache,
        flights: SingleFlight,
        service: AuthService,
        service_id: str,
        patience: float,
        retry_interval: float,
        failures: FailureLimit,
        sessions: Callable[[Sequence[str], str], Principal] | None = None,
        most_waiting: int = 1000,
    ) -> None:
        """`patience` is how long one waits for another's question, in seconds; more than a question
        takes that gets no answer, or both would ask. `sessions` finds the principal of the
        first valid one of some browser sessions, by their names and the client's address; raises
        Unauthenticated or AuthServiceUnavailable. So many requests wait for the auth service at
        once: each holds a connection, and health checks need some."""
        self._waiting, self._most_waiting = 0, most_waiting
        self._cache = cache
        self._flights = flights
        self._service = service
        self._service_id = service_id
        self._patience = patience
        self._retry_interval = retry_interval
        self._sessions = sessions
        self._failures = failures

    def authenticate(
        self, credentials: Credentials | SessionTokens, client_ip: str
    ) -> Authentication:
        """The principal behind a key, or behind a browser's session.

        Failed attempts from one address are limited, but not for a key that was good lately: to ask
        about that again is no guess, and others at its address may have failed. Raises
        Unauthenticated, RateLimited or AuthServiceUnavailable.
        """
        if isinstance(credentials, SessionTokens):
            return Authentication(self._of_session(credentials, client_ip), "session")
        digest = self._cache.digest(credentials.key, client_ip, self._service_id)
        verdict, source = self._cache.fresh(digest), "hit"
        if verdict is None:
            verdict, source = self._ask(digest, credentials, client_ip)
        elif verdict.principal is None:
            self._failures.check_failures(client_ip)
        count_authentication(source, verdict.principal is not None)
        if verdict.principal is None:
            if source == "hit":
                self._failures.note_failure(client_ip)
            raise Unauthenticated(
                "This API key is not valid: unknown, expired, revoked, or not allowed from "
                f"your address ({client_ip})."
            )
        return Authentication(verdict.principal, source)

    def _of_session(self, tokens: SessionTokens, client_ip: str) -> Principal:
        """Not counted as a failed attempt: a page that is still open asks on when it has ended, and
        nobody guesses 256 bits."""
        if self._sessions is None:
            raise Unauthenticated("There are no sessions here; send an API key.")
        try:
            principal = self._sessions(tokens.sessions, client_ip)
        except Unauthenticated:
            count_authentication("session", False)
            raise
        count_authentication("session", True)
        return principal

    def _ask(self, digest: str, credentials: Credentials, client_ip: str) -> tuple[Verdict, str]:
        """The verdict and its source. Where the auth service gives no answer, nobody waits for the
        one request that asks again."""
        if found := self._while_unanswered(digest):
            return found
        if self._waiting >= self._most_waiting:
            return self._stale_or_raise(digest, None)
        self._waiting += 1
        try:
            with self._flights.turn(digest, self._patience):
                return self._ask_once(digest, credentials, client_ip)
        finally:
            self._waiting -= 1

    def _ask_once(
        self, digest: str, credentials: Credentials, client_ip: str
    ) -> tuple[Verdict, str]:
        """The same, in this key's turn: whoever was here before may have left an answer, or the
        news that there is none."""
        if verdict := self._cache.fresh(digest):
            return verdict, "hit"
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
        """Under what the last answer about a key is kept for all of a network: failed attempts are
        counted for it, so a key that is in use there is no guess at a neighbour's new address. Nor
        at the address where it was good, whatever the neighbour was told."""
        return self._cache.digest(credentials.key, network(client_ip), self._service_id)

    def _validated(
        self,
        digest: str,
        known: str,
        credentials: Credentials,
        client_ip: str,
        was_good: Callable[[], bool],
    ) -> tuple[Verdict, str]:
        """The auth service's answer, or what holds where it gives none."""
        self._cache.unanswered.extend(digest, self._patience)
        try:
            asked_at = time.time()
            answer = self._service.validate(credentials.key, client_ip, was_good)
            verdict = Verdict(answer, asked_at)
        except AuthServiceUnavailable as unavailable:
            self._cache.unanswered.note(digest, self._retry_interval)
            return self._stale_or_raise(digest, unavailable)
        except RateLimited as later:
            self._cache.unanswered.note(digest, self._retry_interval, later.retry_after)
            raise
        if known != digest:
            self._cache.put(known, verdict)
        if not self._cache.put(digest, verdict):  # revoked while the answer was on its way
            return Verdict(None, asked_at), "miss"
        return verdict, "miss"

    def _while_unanswered(self, digest: str) -> tuple[Verdict, str] | None:
        """What holds while the auth service is not to be asked about this key; None if it is."""
        throttled_for = self._cache.unanswered.get(digest)
        if throttled_for is None:
            return None
        if throttled_for:
            raise throttled(throttled_for)
        return self._stale_or_raise(digest, None)

    def _stale_or_raise(
        self, digest: str, unavailable: AuthServiceUnavailable | None
    ) -> tuple[Verdict, str]:
        verdict = self._cache.stale(digest)
        if verdict is None:
            raise unavailable or AuthServiceUnavailable(
                "API keys cannot be validated at the moment (the auth service gives no answer); "
                "repeat the request later.",
                int(self._retry_interval) or 1,
            )
        return verdict, "stale"
