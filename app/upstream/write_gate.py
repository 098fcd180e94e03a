"""A bound on concurrent writes, used only after MLflow has run out of database connections.

MLflow's pool holds 15 connections (SQLAlchemy: pool_size 5, max_overflow 10). A write can hold one
and wait for a second. With 15 such writes no request gets a connection until MLflow's own time-out
of 30 s; MLflow then answers 400 "QueuePool limit". Measured with 32 writers on SQLite, one MLflow
worker: 1 write/s without a bound, 40 writes/s with 4 to 14 at a time (`make drill ARGS=slow`).

So the first such answer sets the bound. One key gets at most half of it: its slow writes must not
hold up everybody else's. Writes over the bound wait in order of arrival. Reads never wait here. The
bound is lifted when no write has had to wait for LIFT_AFTER seconds.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.observability.metrics import WRITE_BOUND, WRITES_WAITING, count_limit
from app.request.errors import Overloaded

log = logging.getLogger("hokusai.upstream")

#: Writes of one instance that MLflow gets at once while the bound is on: 3 of its 15 connections
#: stay free for second connections and for reads.
INSTANCE_BOUND = 12

#: The bound of one worker never falls below this.
LEAST = 2

#: Seconds without a waiting write after which the bound is lifted.
LIFT_AFTER = 300.0

#: Seconds that a write waits at most; as long as MLflow's own pool lets it wait.
PATIENCE = 30.0

#: Seconds in Retry-After for a write that waited in vain.
RETRY_AFTER = 5


@dataclass(eq=False)
class _Waiting:
    """A write in the queue."""

    key_id: str
    admitted: threading.Event = field(default_factory=threading.Event)


class WriteGate:
    """The bound of one worker; shared by its threads."""

    def __init__(self, workers: int, patience: float = PATIENCE) -> None:
        """`workers` share INSTANCE_BOUND; `patience` is in seconds."""
        self._first_bound = max(LEAST, INSTANCE_BOUND // workers)
        self._patience = patience
        self._guard = threading.Lock()
        self._bound: int | None = None
        self._bound_set = 0.0
        self._last_wait = 0.0
        self._running: Counter[str] = Counter()
        self._queue: list[_Waiting] = []

    @property
    def bound(self) -> int | None:
        """Writes that go out at once; None: as many as come."""
        return self._bound

    @contextmanager
    def slot(self, key_id: str) -> Iterator[None]:
        """Surrounds one write of this key, from sending it to the head of its answer.

        Raises Overloaded if no slot becomes free in time; nothing was sent then.
        """
        self._acquire(key_id)
        try:
            yield
        finally:
            with self._guard:
                self._running[key_id] -= 1
                if not self._running[key_id]:
                    del self._running[key_id]
                self._admit()

    def tighten(self, sent: float) -> None:
        """MLflow had no database connection for a request that was sent at `sent` (monotonic
        seconds): set the bound, or halve it where the request was sent under it."""
        with self._guard:
            if self._bound is None:
                self._set_bound(self._first_bound)
            elif sent > self._bound_set:
                self._set_bound(max(LEAST, self._bound // 2))

    def _acquire(self, key_id: str) -> None:
        with self._guard:
            self._lift_if_idle()
            if self._bound is None:
                self._running[key_id] += 1
                return
            write = _Waiting(key_id)
            self._queue.append(write)
            self._admit()
            if write.admitted.is_set():
                return
            self._last_wait = time.monotonic()
        WRITES_WAITING.inc()
        try:
            write.admitted.wait(self._patience)
        finally:
            WRITES_WAITING.dec()
            self._leave_queue(write)

    def _leave_queue(self, write: _Waiting) -> None:
        with self._guard:
            if write.admitted.is_set():
                return
            self._queue.remove(write)
        count_limit("writes", False)
        raise Overloaded(
            "MLflow's database is overloaded: too many writes wait for it. Nothing was sent; "
            f"repeat the request in {RETRY_AFTER} s.",
            RETRY_AFTER,
        )

    def _admit(self) -> None:
        for write in list(self._queue):
            if self._has_room(write.key_id):
                self._queue.remove(write)
                self._running[write.key_id] += 1
                write.admitted.set()

    def _has_room(self, key_id: str) -> bool:
        if self._bound is None:
            return True
        if self._running[key_id] >= self._bound // 2:
            return False
        return self._running.total() < self._bound

    def _lift_if_idle(self) -> None:
        if self._bound is None or time.monotonic() - self._last_wait < LIFT_AFTER:
            return
        self._bound = None
        WRITE_BOUND.set(0)
        log.info("the bound on concurrent writes is lifted")
        self._admit()

    def _set_bound(self, bound: int) -> None:
        self._bound = bound
        self._bound_set = self._last_wait = time.monotonic()
        WRITE_BOUND.set(bound)
        log.warning(
            "MLflow ran out of database connections (QueuePool limit): "
            "this worker sends it at most %d writes at once",
            bound,
        )
