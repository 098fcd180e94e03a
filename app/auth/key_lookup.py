"""What the keys of browser sessions are granted now: asked of the auth service by the key's id.

A session does not hold its key. With AUTH_LOOKUP_TOKEN, an instance looks up each key in use once
per client address and AUTH_CACHE_TTL, and the session has the rights of the response. Otherwise:

- Auth service unavailable, throttling, or refusing the token: the last decision counts for
  AUTH_STALE_TTL after its TTL; then 503. It is asked again every AUTH_RETRY_INTERVAL.
- Auth service without the look-up: the last decision counts until the session ends. Each worker
  asks again after AUTH_CACHE_TTL.
"""

import logging
import math
import time

from app.auth.cache import DecisionCache
from app.auth.client import AuthService, NotOffered
from app.auth.single_flight import SingleFlight
from app.request.errors import AuthServiceUnavailable, RateLimited
from app.request.principal import Decision
from config import Settings

log = logging.getLogger("hokusai.auth")

#: The minimum in seconds between two look-ups of a worker at a service without them.
SHORTEST = 1.0


class KeyLookup:
    """The looked-up decisions, in the decision cache. `settings` has the times and the issuer."""

    def __init__(
        self,
        *,
        service: AuthService,
        cache: DecisionCache,
        flights: SingleFlight,
        settings: Settings,
    ) -> None:
        self._service = service
        self._cache = cache
        self._flights = flights
        self._settings = settings
        self._missing_until = 0.0
        self._is_said = False

    def current(self, decision: Decision, client_ip: str) -> Decision:
        """The decision that counts now about the key of a session's `decision`; its principal is
        None if the key has ended. `client_ip` is the address that the key was validated for.

        Without AUTH_LOOKUP_TOKEN it is the session's own. Raises AuthServiceUnavailable if the last
        one is too old.
        """
        if not self._settings.auth_lookup_token:
            return decision
        assert decision.principal is not None
        key_id, since = decision.principal.key_id, time.time()
        # No key has this digest: its last part differs from theirs.
        digest = self._cache.digest(key_id, client_ip, f"look-up {self._settings.key_issuer}")
        if found := self._fresh(digest, decision):
            return found
        if self._is_left_alone(digest) or self._flights.is_full:
            return self._last(digest, decision)
        with self._flights.lock(digest, 2 * self._settings.auth_timeout):
            if found := self._fresh(digest, decision, since):
                return found
            found = None if self._is_left_alone(digest) else self._ask(digest, key_id, client_ip)
            return found or self._last(digest, decision)

    def _fresh(self, digest: str, decision: Decision, since: float = math.inf) -> Decision | None:
        """The cached decision. One that the key has ended says nothing about a later sign-in."""
        found = self._cache.fresh(digest, since)
        is_usable = found and (found.principal or found.asked_at > decision.asked_at)
        return found if is_usable else None

    def _is_left_alone(self, digest: str) -> bool:
        """Whether the service has just not answered about this key, or offers no look-up."""
        is_missing = time.monotonic() < self._missing_until
        return is_missing or self._cache.unanswered.get(digest) is not None

    def _ask(self, digest: str, key_id: str, client_ip: str) -> Decision | None:
        """Look the key up, and cache the decision or the failure. None for a failure."""
        settings, asked_at = self._settings, time.time()
        self._cache.unanswered.extend(digest, 2 * settings.auth_timeout)
        try:
            found = Decision(self._service.look_up(key_id, client_ip), asked_at)
        except NotOffered as status:
            self._missing_until = time.monotonic() + max(settings.auth_cache_ttl, SHORTEST)
            self._say_that_it_is_missing(str(status))
            return None
        except (AuthServiceUnavailable, RateLimited):
            self._cache.unanswered.note(digest, settings.auth_retry_interval)
            return None
        self._missing_until, self._is_said = 0.0, False
        is_kept = self._cache.put(digest, found, kept=settings.session_lifetime)
        return found if is_kept else Decision(None, asked_at)  # revoked meanwhile

    def _last(self, digest: str, decision: Decision) -> Decision:
        """The newest decision, if it may still be used."""
        looked_up = self._cache.last(digest)
        if looked_up is not None and looked_up.asked_at > decision.asked_at:
            decision = looked_up
        if self._cache.is_ended(decision):
            return Decision(None, decision.asked_at)
        is_of_any_age = decision.principal is None or time.monotonic() < self._missing_until
        if not is_of_any_age and decision.age >= self._settings.max_stored_decision_age:
            raise AuthServiceUnavailable(
                "Your session cannot be checked: the auth service is unavailable. This says "
                "nothing about your key. Try again later."
            )
        return decision

    def _say_that_it_is_missing(self, status: str) -> None:
        """Log once per worker, and again after the service had it in between."""
        if not self._is_said:
            self._is_said = True
            log.warning(
                "the auth service offers no look-up of keys (status %s): browser sessions keep "
                "the rights of their sign-in",
                status,
            )
