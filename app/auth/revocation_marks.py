"""Revoked keys and their times: in this process's memory, and as marks in Redis for the others."""

import math
import time
from collections import OrderedDict

from app.request.principal import Decision
from app.state.shared_values import SharedValues

TOMBSTONE = "hokusai:auth:revoked:"

#: The tolerated clock difference between instances, in seconds.
CLOCK_SKEW = 1.0


class RevocationMarks:
    """The marks. `memory` (seconds) exceeds the lifetime of anything that a revocation can end."""

    def __init__(self, values: SharedValues, memory: float) -> None:
        self._values = values
        self._horizon = memory + CLOCK_SKEW
        self._revoked: OrderedDict[str, float] = OrderedDict()  # by key id, in epoch seconds
        self._subscribed = (math.inf, 0.0)

    def revoke(self, key_id: str) -> bool:
        """End every older decision and session of this key; False if Redis took no mark."""
        return self.set_mark(key_id, self.note(key_id))

    def note(self, key_id: str) -> float:
        """Remember a revocation in this process. Return its time."""
        now = time.time()
        self._revoked[key_id] = now
        self._revoked.move_to_end(key_id)
        while self._revoked[oldest := next(iter(self._revoked))] < now - self._horizon:
            del self._revoked[oldest]
        return now

    def set_mark(self, key_id: str, at: float) -> bool:
        """Set the mark for the others; False if Redis did not take it."""
        return self._values.set(TOMBSTONE + key_id, repr(at).encode(), self._horizon)

    def note_subscribed(self, since: float, until: float) -> None:
        """Record that this process receives every announcement from `since` (epoch) to `until`
        (monotonic): newer decisions need no look for a mark."""
        self._subscribed = (since, until)

    def ends(self, decision: Decision) -> bool:
        """Whether the key was revoked after the decision. Reads the mark in Redis if this process
        may have missed the announcement."""
        if decision.principal is None:
            return False
        since, until = self._subscribed
        if decision.asked_at <= since + CLOCK_SKEW or time.monotonic() >= until:
            self._look_for_mark(decision.principal.key_id)
        return self.is_known_to_end(decision)

    def is_known_to_end(self, decision: Decision) -> bool:
        """Whether this process's memory holds a revocation after the decision, which may be another
        instance's."""
        return decision.asked_at <= self.heard_at(decision) + CLOCK_SKEW

    def heard_at(self, decision: Decision) -> float:
        """When the key was last revoked, as far as this process knows (epoch); else long ago."""
        key_id = decision.principal.key_id if decision.principal else ""
        return self._revoked.get(key_id, -math.inf)

    def _look_for_mark(self, key_id: str) -> None:
        if mark := self._values.get(TOMBSTONE + key_id):
            self._revoked[key_id] = max(float(mark), self._revoked.get(key_id, 0.0))
