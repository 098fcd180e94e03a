"""What the auth service said of a key, kept under a hash of it: in this process, then in Redis.

What fails here is a miss: the cache is a convenience, and the auth service decides. While Redis is
away the workers of the instance share what they learn through its own store. A hit never
extends a life: the age counts from when the auth service was asked. A revocation ends every older
verdict at once: in this process by the announcement, elsewhere by a tombstone in Redis.
"""

import hashlib
import hmac
import math
import time
from collections import OrderedDict

from app.request.principal import Verdict, dump, parse
from app.state.instance_store import InstanceStore
from app.state.redis_link import RedisAway, RedisLink

PREFIX = "hokusai:auth:v1:"
TOMBSTONE = "hokusai:auth:revoked:"

#: Seconds for which a verdict is taken from this process without a look into Redis. Short, so that
#: what another instance learnt (a 401, say) is known here soon; revocations do not wait for it.
RECHECK = 5.0

#: Seconds for which the workers of this instance find a new verdict also beside Redis.
HANDOVER = 5.0

#: Seconds after its life for which a yes is remembered at least: whoever was let in lately is no
#: guesser. It lets nobody in; AUTH_STALE_TTL may be less.
KNOWN = 600.0

#: Verdicts kept in one process, the least recently used go first. One takes about 1 KB.
MAX_LOCAL = 20_000

#: Seconds by which the clocks of instances may differ.
CLOCK_SKEW = 1.0


class VerdictCache:
    """Verdicts by digest. Times are in seconds."""

    def __init__(
        self,
        link: RedisLink,
        store: InstanceStore,
        secret: bytes,
        ttl: float,
        negative_ttl: float,
        stale_ttl: float,
        session_lifetime: float = 0.0,
    ) -> None:
        """A revocation is remembered for as long as anything lives that it could end: a verdict, or
        a browser's session."""
        self._link = link
        self._store = store
        self._secret = secret
        self._ttl = ttl
        self._negative_ttl = negative_ttl
        self._stale_ttl = stale_ttl
        self._kept = ttl + max(stale_ttl, KNOWN)
        self._memory = max(self._kept, session_lifetime)
        self._local: OrderedDict[str, tuple[Verdict, float]] = OrderedDict()
        self._revoked: dict[str, float] = {}
        self._hearing = (math.inf, 0.0)
        self._is_blind = False  # the last look into Redis failed: it is away, or refuses it
        self._unanswered: dict[str, tuple[float, int]] = {}

    def digest(self, key: str, client_ip: str, service_id: str) -> str:
        """The name under which a key's verdict is kept: a keyed hash of all that was validated."""
        question = "\0".join((key, client_ip, service_id)).encode()
        return hmac.digest(self._secret, question, hashlib.sha256).hex()

    def fresh(self, digest: str) -> Verdict | None:
        """A verdict that may be believed without asking, or None."""
        known = self._local.get(digest)
        if known is not None and time.monotonic() < known[1] and self._is_fresh(known[0]):
            self._local.move_to_end(digest)
            return known[0]
        verdict = self._read(digest) or (known[0] if known and self._is_blind else None)
        if verdict is None or not self._is_fresh(verdict):
            return None
        self._remember(digest, verdict)
        return verdict

    def stale(self, digest: str) -> Verdict | None:
        """A positive verdict that is past its life but within AUTH_STALE_TTL, or None: for while
        the auth service gives no answer."""
        verdict = self._last_yes(digest)
        return verdict if verdict and verdict.age < self._ttl + self._stale_ttl else None

    def was_good(self, digest: str) -> bool:
        """Whether the key was valid lately, whatever AUTH_STALE_TTL says: to ask about it again is
        no guess."""
        verdict = self._last_yes(digest)
        return verdict is not None and verdict.age < self._kept

    def _last_yes(self, digest: str) -> Verdict | None:
        """The last verdict, if it was a yes and its key was not revoked since."""
        known, verdict = self._local.get(digest), self._read(digest)
        if known is not None and (verdict is None or known[0].asked_at > verdict.asked_at):
            verdict = known[0]
        if verdict is None or verdict.principal is None or self._is_over(verdict):
            return None
        return verdict

    def put(self, digest: str, verdict: Verdict) -> bool:
        """Keeps a verdict; False if its key was revoked since the auth service was asked."""
        if self._is_revoked(verdict):
            return False
        lifetime = self._kept
        if verdict.principal is None and not self.was_good(digest):
            lifetime = self._negative_ttl  # else it has to outlive the yes that others may hold
        self._remember(digest, verdict)
        if self._unanswered.pop(digest, None):
            self._forget(f"{PREFIX}{digest}:unanswered")
        if lifetime > 0:
            self._store.set_value(PREFIX + digest, dump(verdict), min(lifetime, HANDOVER))
            self._write(PREFIX + digest, dump(verdict), lifetime)
        return True

    def note_unanswered(self, digest: str, seconds: float, throttled_for: int = 0) -> None:
        """Remembers that the auth service gave no answer about this key, for all workers; with
        `throttled_for`, that it wants to be asked so many seconds later."""
        self._remember_unanswered(digest, seconds, throttled_for)
        if seconds > 0:
            self._write(f"{PREFIX}{digest}:unanswered", b"%d" % throttled_for, seconds)

    def unanswered(self, digest: str) -> int | None:
        """Where the auth service was asked about this key a moment ago, in vain: for how many
        seconds it throttles, 0 if it gave no answer at all. None where it was not."""
        until, throttled_for = self._unanswered.get(digest, (0.0, 0))
        if time.monotonic() < until:
            return throttled_for
        noted = self._get(f"{PREFIX}{digest}:unanswered")
        if noted is None:
            return None
        self._remember_unanswered(digest, 0, int(noted))
        return int(noted)

    def note_asking_again(self, digest: str, seconds: float) -> None:
        """Where the last question about this key was in vain: says so for some seconds more, so
        that nobody waits for the next one but the one who asks it."""
        if digest in self._unanswered:
            self.note_unanswered(digest, seconds, self._unanswered[digest][1])

    def revoke(self, key_id: str) -> bool:
        """Ends all verdicts about this key that are older than now, here and in Redis; False if
        Redis did not take the mark."""
        now = time.time()
        self._revoked[key_id] = now
        horizon = now - self._memory - CLOCK_SKEW
        for old in [name for name, at in self._revoked.items() if at < horizon]:
            del self._revoked[old]
        return self._write(TOMBSTONE + key_id, repr(now).encode(), now - horizon)

    def note_hearing(self, since: float, until: float) -> None:
        """This process has heard every announcement since a time (of the clock) and will, or say
        so, until another (monotonic): younger verdicts need no look for a tombstone."""
        self._hearing = (since, until)

    def _read(self, digest: str) -> Verdict | None:
        """The shared verdict, unless its key was revoked since. This instance's store has what was
        just found out: whoever waited for it need not ask again where Redis lost one command."""
        stored = self._get(PREFIX + digest) or self._store.get_value(PREFIX + digest)
        verdict = parse(stored) if stored else None
        return None if verdict is None or self.is_ended(verdict) else verdict

    def is_ended(self, verdict: Verdict) -> bool:
        """Whether the key was revoked since, as this process heard or a mark in Redis says; or
        whether it has expired."""
        if verdict.principal is None:
            return False
        since, until = self._hearing
        if verdict.asked_at <= since + CLOCK_SKEW or time.monotonic() >= until:
            self._look_for_tombstone(verdict.principal.key_id)
        return self._is_over(verdict)

    def _look_for_tombstone(self, key_id: str) -> None:
        """A revocation that this process may not have heard of."""
        if tombstone := self._get(TOMBSTONE + key_id):
            self._revoked[key_id] = max(float(tombstone), self._revoked.get(key_id, 0.0))

    def _get(self, name: str) -> bytes | None:
        """A value from Redis; while that is away, from this instance's store."""
        try:
            value: bytes | None = self._link.call(lambda: self._link.client.get(name))
        except RedisAway:
            self._is_blind = True
            return self._store.get_value(name)
        self._is_blind = False
        return value

    def _write(self, name: str, value: bytes, seconds: float) -> bool:
        """Into Redis; while that is away, into this instance's store, and returns False."""
        try:
            milliseconds = max(1, int(seconds * 1000))
            self._link.call(lambda: self._link.client.set(name, value, px=milliseconds))
        except RedisAway:
            self._store.set_value(name, value, seconds)
            return False
        return True

    def _forget(self, name: str) -> None:
        """Out of Redis; while that is away, out of this instance's store."""
        try:
            self._link.call(lambda: self._link.client.delete(name))
        except RedisAway:
            self._store.forget(name)

    def _remember(self, digest: str, verdict: Verdict) -> None:
        self._local[digest] = (verdict, time.monotonic() + RECHECK)
        self._local.move_to_end(digest)
        while len(self._local) > MAX_LOCAL:
            self._local.popitem(last=False)

    def _remember_unanswered(self, digest: str, seconds: float, throttled_for: int) -> None:
        if len(self._unanswered) >= MAX_LOCAL:
            self._unanswered.clear()  # they stand in Redis, or the store, as well
        self._unanswered[digest] = (time.monotonic() + seconds, throttled_for)

    def _is_fresh(self, verdict: Verdict) -> bool:
        lifetime = self._negative_ttl if verdict.principal is None else self._ttl
        return verdict.age < lifetime and not self._is_over(verdict)

    def _is_over(self, verdict: Verdict) -> bool:
        until = verdict.principal.expires_at if verdict.principal else None
        return (until is not None and time.time() >= until) or self._is_revoked(verdict)

    def _is_revoked(self, verdict: Verdict) -> bool:
        if verdict.principal is None:
            return False
        revoked_at = self._revoked.get(verdict.principal.key_id)
        return revoked_at is not None and verdict.asked_at <= revoked_at + CLOCK_SKEW
