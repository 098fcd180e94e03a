"""In-flight limits: the requests that a worker forwards at once, in total and per key."""

import threading
from collections import Counter
from collections.abc import Callable

from app.observability.metrics import FORWARDING, count_limit
from app.request.errors import Overloaded

#: Timeout in seconds of a request without a key that waits for a slot.
SLOT_TIMEOUT = 10.0

#: Seconds in Retry-After. MLflow's client tries 7 times more; others' transfers may take minutes.
RETRY_AFTER = 5


class InFlight:
    """The requests in flight of this worker, limited in total and per key, so one key's slow
    transfers cannot take every slot. Requests without a key share a quarter of the slots: one
    client can have any number of IPv6 networks.

    Requests without a key wait for a slot. A page of MLflow loads about 45 files, over HTTP/2 all
    at once, and a browser does not retry a script: without the wait, a second user at the same
    address would get half a page."""

    def __init__(
        self, *, per_key: int, in_all: int, most_waiting: int = 100, timeout: float = SLOT_TIMEOUT
    ) -> None:
        """`timeout`: seconds for which a request without a key waits. `most_waiting` bounds how
        many wait at once: each holds a connection, and health checks need some."""
        self._per_key = per_key
        self._in_all = in_all
        self._of_strangers = max(1, in_all // 4)
        self._most_waiting = most_waiting
        self._timeout = timeout
        self._guard = threading.Lock()
        self._left = threading.Condition(self._guard)  # a request without a key ended
        self._keys: Counter[str] = Counter()
        self._strangers = 0
        self._waiting = 0
        self.total = 0

    def acquire(self, key_id: str, has_key: bool = True) -> "Slot":
        """Acquire a slot; raise Overloaded if there is none. Without a key, `key_id` names what is
        counted instead."""
        with self._guard:
            if not has_key and self._waiting < self._most_waiting:
                self._wait(lambda: self._keys[key_id] < self._per_key and self._has_room())
            if self._keys[key_id] >= self._per_key:
                count_limit("in_flight_of_key", False)
                raise Overloaded(
                    f"You have {self._per_key} requests in flight on this worker, the limit for a "
                    "key, or for an address without one. Let some end, then repeat the request.",
                    RETRY_AFTER,
                )
            if self.total >= self._in_all or not (has_key or self._has_room()):
                count_limit("in_flight", False)
                raise Overloaded("The proxy is busy; repeat the request in a moment.", RETRY_AFTER)
            self._keys[key_id] += 1
            self.total += 1
            self._strangers += not has_key
        FORWARDING.inc()
        return Slot(self, key_id, has_key)

    def _has_room(self) -> bool:
        """Whether one more request without a key may be in flight."""
        return self._strangers < self._of_strangers

    def _wait(self, may_go: Callable[[], bool]) -> None:
        self._waiting += 1
        try:
            self._left.wait_for(may_go, self._timeout)
        finally:
            self._waiting -= 1

    def release(self, key_id: str, has_key: bool) -> None:
        """Free a slot; called by Slot."""
        with self._guard:
            self.total -= 1
            self._strangers -= not has_key
            self._keys[key_id] -= 1
            if not self._keys[key_id]:
                del self._keys[key_id]
            if not has_key:
                self._left.notify_all()
        FORWARDING.dec()


class Slot:
    """One request's slot; releasing it twice does nothing."""

    def __init__(self, in_flight: InFlight, key_id: str, has_key: bool) -> None:
        self._in_flight: InFlight | None = in_flight
        self._taken = (key_id, has_key)

    def release(self) -> None:
        """Release the slot once the request and its response are over."""
        if self._in_flight is not None:
            self._in_flight.release(*self._taken)
            self._in_flight = None
