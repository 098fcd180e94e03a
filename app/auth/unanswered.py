"""Negative cache of the auth service's failures: keys whose validation just got no response.

One request probes; the others do not wait for it.
"""

import math
import time

from app.state.shared_values import SharedValues

#: Entries kept in one process.
MAX_LOCAL = 20_000


class Unanswered:
    """The negative cache, by the digest of the key's decision. Times are in seconds."""

    def __init__(self, values: SharedValues, prefix: str) -> None:
        self._values = values
        self._prefix = prefix
        self._local: dict[str, tuple[float, int]] = {}  # until (monotonic), throttled for

    def note(self, digest: str, seconds: float, throttled_for: int = 0) -> None:
        """Record for all workers that the auth service did not respond, or with `throttled_for`
        that it throttles for so many seconds."""
        self._remember(digest, seconds, throttled_for)
        if seconds > 0:
            self._values.set(self._name(digest), b"%d" % throttled_for, seconds)

    def get(self, digest: str) -> int | None:
        """Seconds for which the auth service throttles, 0 if it did not respond; None if it may be
        called about this key."""
        until, throttled_for = self._local.get(digest, (0.0, 0))
        if time.monotonic() < until:
            return throttled_for
        noted = self._values.get(self._name(digest))
        if noted is None:
            return None
        if not noted.startswith(b"+"):
            self._remember(digest, 0, int(noted))
        return int(noted)

    def extend(self, digest: str, seconds: float) -> None:
        """Extend an entry known to this process, so only the probing request waits. Not one that
        ended `seconds` ago or earlier: another process may have got a response since. With a "+",
        as nobody extends what was only extended: that would go on for ever."""
        until, throttled_for = self._local.get(digest, (-math.inf, 0))
        if time.monotonic() < until + seconds:
            self._remember(digest, seconds, throttled_for)
            self._values.set(self._name(digest), b"+%d" % throttled_for, seconds)

    def clear(self, digest: str) -> None:
        """Remove an entry after a response to this process or another."""
        if self._local.pop(digest, None):
            self._values.forget(self._name(digest))

    def _name(self, digest: str) -> str:
        return f"{self._prefix}{digest}:unanswered"

    def _remember(self, digest: str, seconds: float, throttled_for: int) -> None:
        if len(self._local) >= MAX_LOCAL:
            self._local.clear()  # Redis or the instance's store has them too
        self._local[digest] = (time.monotonic() + seconds, throttled_for)
