"""A bound on concurrent writes, used only after MLflow has run out of database connections.

MLflow's pool holds 15 connections (SQLAlchemy: pool_size 5, max_overflow 10). A write can hold one
and wait for a second. With 15 such writes no request gets a connection until MLflow's own timeout
of 30 s; MLflow then answers 400 "QueuePool limit". Measured with 32 writers on SQLite, one MLflow
worker: 1 write/s without a bound, 40 writes/s with 4 to 14 at a time (`make drill ARGS=slow`).

So the first such response sets the bound, and each further one to a write halves it. One key gets
at most half of it, so that its slow writes do not block other keys. Writes over the bound queue in
order of arrival. Reads never wait here. The bound rises by one for each LIFT_AFTER seconds without
such a response, and is lifted when no write has had to wait for as long.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from app.observability.metrics import WRITE_BOUND, WRITES_WAITING, count_limit
from app.request.errors import ClientGone, Overloaded

log = logging.getLogger("hokusai.upstream")

#: Concurrent writes of one instance while the bound is on: 3 of MLflow's 15 connections stay free
#: for second connections and for reads.
INSTANCE_BOUND = 12

#: Minimum bound of one worker.
LEAST = 2

#: Seconds without a waiting write after which the bound is lifted, and without a full pool after
#: which it rises. A rise too far costs every request the 30 s of a full pool, so it is slow.
LIFT_AFTER = 300.0

#: Maximum seconds that a write waits; as long as MLflow's own pool lets it wait.
WRITE_TIMEOUT = 30.0

#: The same for a trace exporter, which times out after 10 s in total.
EXPORT_TIMEOUT = 2.0

#: Seconds between two checks whether the client of a waiting write is still connected. A client
#: that left holds neither a write slot nor an in-flight slot.
LOOK = 1.0

#: Seconds in Retry-After for a write that waited too long.
RETRY_AFTER = 5


class NotAdmitted(Exception):
    """The circuit opened while a write waited for its slot. Nothing was sent."""


@dataclass(eq=False)
class _Waiting:
    """A write in the queue; woken with a slot, or without one if the circuit opened."""

    key_id: str
    woken: threading.Event = field(default_factory=threading.Event)
    counted_in: Counter[str] | None = None


class WriteGate:
    """The write bound of one worker; shared by its threads."""

    def __init__(self, workers: int) -> None:
        """`workers` share INSTANCE_BOUND."""
        self._first_bound = max(LEAST, INSTANCE_BOUND // workers)
        self._guard = threading.Lock()
        self._bound: int | None = None
        self._bound_set = 0.0
        self._last_wait = 0.0
        self._last_change = 0.0  # of the bound, or the last time that the pool was full
        self._running: Counter[str] = Counter()
        self._queue: list[_Waiting] = []

    @property
    def bound(self) -> int | None:
        """Maximum concurrent writes; None for no bound."""
        return self._bound

    def slot(self, key_id: str, timeout: float = WRITE_TIMEOUT) -> "WriteSlot":
        """Surround one write of this key, which waits at most `timeout` seconds for its slot."""
        return WriteSlot(self, key_id, timeout)

    def acquire(self, key_id: str, timeout: float, has_left: Callable[[], bool]) -> Counter[str]:
        """Wait for a slot; return the counter that holds it, for `release`.

        Raises Overloaded if no slot becomes free in time, NotAdmitted if the circuit opens
        meanwhile, ClientGone if the client `has_left`.
        """
        with self._guard:
            self._relax()
            if self._bound is None:
                self._running[key_id] += 1
                return self._running
            write = _Waiting(key_id)
            self._queue.append(write)
            self._admit()
            if write.counted_in is not None:
                return write.counted_in
            self._last_wait = time.monotonic()
        WRITES_WAITING.inc()
        try:
            _wait(write, timeout, has_left)
        finally:
            WRITES_WAITING.dec()
            self._leave_queue(write)
        if has_left():
            if write.counted_in is not None:
                self.release(key_id, write.counted_in)
            raise ClientGone("the client left while its write waited for its slot")
        return self._woken(write)

    def release(self, key_id: str, counted_in: Counter[str]) -> None:
        """Release a slot."""
        with self._guard:
            counted_in[key_id] -= 1
            if not counted_in[key_id]:
                del counted_in[key_id]
            self._admit()

    def empty(self) -> None:
        """Empty the gate, because the circuit opened: no write waits for a silent MLflow, and
        writes that hang there hold no slots once it is back."""
        with self._guard:
            self._running = Counter()
            waiting, self._queue = self._queue, []
        for write in waiting:
            write.woken.set()

    def tighten(self, sent: float, had_slot: bool) -> None:
        """Set the bound after MLflow had no database connection for a request sent at `sent`
        (monotonic seconds), or halve it if the request was sent under it. One without a slot, a
        read, does not halve it: large searches fill the pool without any write."""
        with self._guard:
            self._last_change = time.monotonic()
            if self._bound is None:
                self._set_bound(self._first_bound)
            elif had_slot and sent > self._bound_set:
                self._set_bound(max(LEAST, self._bound // 2))

    def _leave_queue(self, write: _Waiting) -> None:
        with self._guard:
            if write in self._queue:
                self._queue.remove(write)

    def _woken(self, write: _Waiting) -> Counter[str]:
        if write.counted_in is not None:
            return write.counted_in
        if write.woken.is_set():
            raise NotAdmitted
        count_limit("writes", False)
        raise Overloaded(
            "MLflow's database is overloaded: too many writes wait for it. Nothing was done; "
            f"repeat the request in {RETRY_AFTER} s.",
            RETRY_AFTER,
        )

    def _admit(self) -> None:
        for write in list(self._queue):
            if self._has_room(write.key_id):
                self._queue.remove(write)
                self._running[write.key_id] += 1
                write.counted_in = self._running
                write.woken.set()

    def _has_room(self, key_id: str) -> bool:
        if self._bound is None:
            return True
        if self._running[key_id] >= self._bound // 2:
            return False
        return self._running.total() < self._bound

    def _relax(self) -> None:
        """Lift the bound, or raise it by one, if that is due."""
        now = time.monotonic()
        if self._bound is None:
            return
        if now - self._last_wait >= LIFT_AFTER:
            self._bound = None
            WRITE_BOUND.set(0)
            log.info("the bound on concurrent writes is lifted")
            self._admit()
        elif self._bound < self._first_bound and now - self._last_change >= LIFT_AFTER:
            self._bound += 1
            self._bound_set = self._last_change = now
            WRITE_BOUND.set(self._bound)

    def _set_bound(self, bound: int) -> None:
        self._bound = bound
        self._bound_set = self._last_wait = time.monotonic()
        WRITE_BOUND.set(bound)
        log.warning(
            "MLflow ran out of database connections (QueuePool limit): "
            "this worker sends it at most %d writes at once",
            bound,
        )


def _wait(write: _Waiting, timeout: float, has_left: Callable[[], bool]) -> None:
    deadline = time.monotonic() + timeout
    while not write.woken.wait(min(LOOK, max(0.0, deadline - time.monotonic()))):
        if time.monotonic() >= deadline or has_left():
            return


class WriteSlot:
    """One write's slot, from `acquire` to the head of the response."""

    def __init__(self, gate: WriteGate, key_id: str, timeout: float) -> None:
        self._gate = gate
        self._key_id = key_id
        self._timeout = timeout
        self._counted_in: Counter[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *why: object) -> None:
        if self._counted_in is not None:
            self._gate.release(self._key_id, self._counted_in)

    def acquire(self, has_left: Callable[[], bool] = lambda: False) -> None:
        """Wait for the slot, unless the client `has_left` meanwhile. Idempotent."""
        if self._counted_in is None:
            self._counted_in = self._gate.acquire(self._key_id, self._timeout, has_left)
