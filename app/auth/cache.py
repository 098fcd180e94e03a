"""Cache of the auth service's verdicts, by a hash of the key: in this process, then in Redis.

A failure here counts as a miss; the auth service decides. A hit never extends a TTL: a verdict's
age counts from the start of the validation. A revocation ends every older verdict at once: in this
process by the announcement, elsewhere by a mark in Redis.
"""

import hashlib
import hmac
import time
from collections import OrderedDict

from app.auth.revocation_marks import RevocationMarks
from app.auth.unanswered import Unanswered
from app.request.principal import Verdict, dump, parse
from app.state.shared_values import SharedValues

PREFIX = "hokusai:auth:v1:"

#: Seconds for which a verdict in this process is used without a look into Redis. Short, so that
#: another instance's newer verdict (a 401, say) arrives soon; revocations do not wait for it.
RECHECK = 5.0

#: The minimum in seconds for which a positive verdict is remembered after its TTL: a recently valid
#: key is no guess. It admits no request by itself; AUTH_STALE_TTL may be shorter.
KNOWN = 600.0

#: Verdicts kept in one process; the least recently used is evicted first. Each takes about 1 KB.
MAX_LOCAL = 20_000


class VerdictCache:
    """Verdicts by digest. Times are in seconds."""

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
        self._local: OrderedDict[str, tuple[Verdict, float]] = OrderedDict()
        #: Marks outlive every verdict and every browser session.
        self.revocations = RevocationMarks(values, max(self._kept, session_lifetime))
        self.unanswered = Unanswered(values, PREFIX)

    def digest(self, key: str, client_ip: str, service_id: str) -> str:
        """The cache key of a verdict: an HMAC of everything that was validated."""
        question = "\0".join((key, client_ip, service_id)).encode()
        return hmac.digest(self._secret, question, hashlib.sha256).hex()

    def fresh(self, digest: str) -> Verdict | None:
        """A verdict within its TTL, or None."""
        known = self._local.get(digest)
        if known is not None and time.monotonic() < known[1] and self._is_fresh(known[0]):
            self._local.move_to_end(digest)
            return known[0]
        verdict = self._read(digest) or (known[0] if known and self._values.is_blind else None)
        if verdict is None or not self._is_fresh(verdict):
            return None
        self._remember(digest, verdict)
        return verdict

    def stale(self, digest: str) -> Verdict | None:
        """A positive verdict past its TTL but within AUTH_STALE_TTL, or None. Used while the auth
        service is unavailable."""
        verdict = self._last_yes(digest)
        return verdict if verdict and verdict.age < self._ttl + self._stale_ttl else None

    def was_good(self, digest: str) -> bool:
        """Whether the key was valid lately, regardless of AUTH_STALE_TTL: then it is no guess."""
        verdict = self._last_yes(digest)
        return verdict is not None and verdict.age < self._kept

    def put(self, digest: str, verdict: Verdict) -> bool:
        """Store a verdict; False if its key was revoked since the validation began."""
        if self.revocations.is_known_to_end(verdict):
            return False
        lifetime = self._kept
        if verdict.principal is None and not self.was_good(digest):
            lifetime = self._negative_ttl  # else outlive a positive verdict that others may hold
        self._remember(digest, verdict)
        self.unanswered.clear(digest)
        if lifetime > 0:
            self._values.hand_over(PREFIX + digest, dump(verdict), lifetime)
        return True

    def is_ended(self, verdict: Verdict) -> bool:
        """Whether the key has expired, or was revoked after the verdict."""
        return self.revocations.ends(verdict) or verdict.is_expired

    def _last_yes(self, digest: str) -> Verdict | None:
        """The last verdict, if it is positive and its key was not revoked since."""
        known, verdict = self._local.get(digest), self._read(digest)
        if known is not None and (verdict is None or known[0].asked_at > verdict.asked_at):
            verdict = known[0]
        if verdict is None or verdict.principal is None or self._is_known_to_be_over(verdict):
            return None
        return verdict

    def _read(self, digest: str) -> Verdict | None:
        """The shared verdict, or None if its key has expired or was revoked."""
        stored = self._values.get_handed_over(PREFIX + digest)
        verdict = parse(stored) if stored else None
        return None if verdict is None or self.is_ended(verdict) else verdict

    def _remember(self, digest: str, verdict: Verdict) -> None:
        self._local[digest] = (verdict, time.monotonic() + RECHECK)
        self._local.move_to_end(digest)
        while len(self._local) > MAX_LOCAL:
            self._local.popitem(last=False)

    def _is_fresh(self, verdict: Verdict) -> bool:
        lifetime = self._negative_ttl if verdict.principal is None else self._ttl
        return verdict.age < lifetime and not self._is_known_to_be_over(verdict)

    def _is_known_to_be_over(self, verdict: Verdict) -> bool:
        return verdict.is_expired or self.revocations.is_known_to_end(verdict)
