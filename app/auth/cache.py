"""Cache of the auth service's decisions, by a hash of the key: in this process, then in Redis.

A failure here counts as a miss; the auth service decides. A hit never extends a TTL: a decision's
age counts from the start of the validation. A revocation ends every older decision at once: in this
process by the announcement, elsewhere by a mark in Redis.
"""

import hashlib
import hmac
import math
import time
from collections import OrderedDict

from app.auth.revocation_marks import CLOCK_SKEW, RevocationMarks
from app.auth.unanswered import Unanswered
from app.request.principal import Decision, dump, parse
from app.state.shared_values import SharedValues

PREFIX = "hokusai:auth:v1:"

#: Seconds for which a decision in this process is used without a look into Redis. Short, so that
#: another instance's newer decision (a 401, say) arrives soon; revocations do not wait for it.
RECHECK = 5.0

#: The same for a decision of the second after its key's revocation.
RECHECK_REVOKED = CLOCK_SKEW / 2

#: The minimum in seconds for which a positive decision is remembered after its TTL: a recently
#: valid key is no guess. It admits no request by itself; AUTH_STALE_TTL may be shorter.
KNOWN = 600.0

#: Decisions kept in one process; the least recently used is evicted first. Each takes about 1 KB.
MAX_LOCAL = 20_000


class DecisionCache:
    """Decisions by digest. Times are in seconds."""

    def __init__(
        self,
        values: SharedValues,
        *,
        secret: bytes,
        ttl: float,
        negative_ttl: float,
        stale_ttl: float,
        session_lifetime: float = 0.0,
    ) -> None:
        self._values = values
        self._secret = secret
        self._ttl = ttl
        self._negative_ttl = negative_ttl
        self._stale_ttl = stale_ttl
        self._kept = ttl + max(stale_ttl, KNOWN)
        self._local: OrderedDict[str, tuple[Decision, float]] = OrderedDict()
        #: Marks outlive every decision and every browser session.
        self.revocations = RevocationMarks(values, max(self._kept, session_lifetime))
        self.unanswered = Unanswered(values, PREFIX)

    def digest(self, key: str, client_ip: str, issuer: str) -> str:
        """The cache key of a decision: an HMAC of what was validated, and by whom."""
        question = "\0".join((key, client_ip, issuer)).encode()
        return hmac.digest(self._secret, question, hashlib.sha256).hex()

    def fresh(self, digest: str, since: float = math.inf) -> Decision | None:
        """A decision within its TTL, or one that was asked for after `since` (epoch): who waited
        for it may use it, however short the TTL is. None if there is none."""
        known = self._local.get(digest)
        if known is not None and time.monotonic() < known[1] and self._is_fresh(known[0], since):
            self._local.move_to_end(digest)
            return known[0]
        decision = self._read(digest)
        if decision is None or self.is_ended(decision):
            decision = known[0] if known and self._values.is_blind else None
        if decision is None or not self._is_fresh(decision, since):
            return None
        self._remember(digest, decision)
        return decision

    def stale(self, digest: str) -> Decision | None:
        """A positive decision past its TTL but within AUTH_STALE_TTL, or None. Used while the auth
        service is unavailable."""
        decision = self._last_yes(digest)
        if decision is None or decision.age >= self._ttl + self._stale_ttl:
            return None
        return None if self.is_ended(decision) else decision

    def was_good(self, digest: str) -> bool:
        """Whether the key was valid lately, regardless of AUTH_STALE_TTL or a revocation, after
        which the service is asked: then it is no guess."""
        decision = self._last_yes(digest)
        return decision is not None and decision.age < self._kept

    def last(self, digest: str) -> Decision | None:
        """The last decision, however old."""
        known, decision = self._local.get(digest), self._read(digest)
        if known is not None and (decision is None or known[0].asked_at > decision.asked_at):
            decision = known[0]
        return decision

    def put(self, digest: str, decision: Decision, kept: float = 0.0) -> bool:
        """Store a decision of this process; False if its key was revoked since the validation
        began. A revocation right before does not end it, as no clocks differ; but the service is
        asked again soon: it may have announced the revocation before its own commit. `kept`: the
        minimum for which last() finds it."""
        revoked_at = self.revocations.heard_at(decision)
        if decision.asked_at <= revoked_at:
            return False
        lifetime = max(self._kept, kept)
        if decision.principal is None and not kept and not self.was_good(digest):
            lifetime = self._negative_ttl  # else outlive a positive decision that others may hold
        beyond_skew = math.nextafter(revoked_at + CLOCK_SKEW, math.inf)
        newer = Decision(decision.principal, max(decision.asked_at, beyond_skew))
        self._remember(digest, newer, RECHECK if newer == decision else RECHECK_REVOKED)
        if lifetime > 0:
            self._values.hand_over(PREFIX + digest, dump(decision), lifetime)
        return True

    def is_ended(self, decision: Decision) -> bool:
        """Whether the key has expired, or was revoked after the decision."""
        return self.revocations.ends(decision) or decision.is_expired

    def _last_yes(self, digest: str) -> Decision | None:
        """The last decision, if it is positive."""
        decision = self.last(digest)
        return decision if decision and decision.principal else None

    def _read(self, digest: str) -> Decision | None:
        """The shared decision."""
        stored = self._values.get_handed_over(PREFIX + digest)
        return parse(stored) if stored else None

    def _remember(self, digest: str, decision: Decision, recheck: float = RECHECK) -> None:
        self._local[digest] = (decision, time.monotonic() + recheck)
        self._local.move_to_end(digest)
        self.unanswered.clear(digest)
        while len(self._local) > MAX_LOCAL:
            self._local.popitem(last=False)

    def _is_fresh(self, decision: Decision, since: float) -> bool:
        lifetime = self._negative_ttl if decision.principal is None else self._ttl
        lifetime = max(lifetime, time.time() - since)
        return decision.age < lifetime and not self._is_known_to_be_over(decision)

    def _is_known_to_be_over(self, decision: Decision) -> bool:
        return decision.is_expired or self.revocations.is_known_to_end(decision)
