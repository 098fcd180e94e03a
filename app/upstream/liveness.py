"""Detect whether MLflow is alive while requests wait. A slow MLflow is not a dead one.

A request that waits, or times out, proves little: a search may take half a minute, a copy to the
object store longer, and MLflow's own pool of database connections times out after 30 s. MLflow
serves /health from its event loop, without a thread and without its database. So while requests
wait without a response, a thread of this worker probes /health, and only silence there opens the
circuit. No caller's request decides it.
"""

import threading
import time
from collections.abc import Callable
from types import TracebackType

from app.observability.periodic import Periodic
from app.request.errors import UpstreamTimeout
from app.upstream.circuit import Circuit

#: Seconds during which a request waits and no request gets a response, before /health is probed.
QUIET = 3.0

#: Timeouts of the consecutive probes that must fail before the circuit opens, in HEALTH_TIMEOUTs.
#: 40 large searches at once keep an MLflow of one worker from /health for 2.6 s of its processor
#: (Python's threads take turns); on half a processor that is twice as long.
PROBES = (1.0, 4.0)

#: Seconds between two checks.
INTERVAL = 0.5


class Liveness:
    """This worker's view of whether MLflow is alive; shared by its threads."""

    def __init__(self, circuit: Circuit, is_there: Callable[[float], bool | None]) -> None:
        """`is_there` probes MLflow, with a timeout in HEALTH_TIMEOUTs: True for a response, False
        for none, None if unclear. `circuit` is opened if MLflow is silent."""
        self._circuit = circuit
        self._is_there = is_there
        self._answered = 0.0
        self._timed_out = 0.0
        self._waits: set[_Wait] = set()
        self._starting = threading.Lock()
        self._watch: Periodic | None = None

    def waiting(self) -> "_Wait":
        """Surround the wait for MLflow's response to one request."""
        if self._watch is None:
            self._start()
        return _Wait(self)

    def begin(self, wait: "_Wait") -> None:
        """Register a request that waits."""
        self._waits.add(wait)

    def end(self, wait: "_Wait", error: type[BaseException] | None) -> None:
        """Unregister a request; without `error` it got a response."""
        self._waits.discard(wait)
        if error is None:
            self._answered = time.monotonic()
        elif issubclass(error, UpstreamTimeout):
            self._timed_out = max(self._timed_out, wait.began)
            if self._watch is not None:
                self._watch.wake()

    def look(self) -> None:
        """Probe MLflow if that is due, and open the circuit if it is silent."""
        if self._circuit.state != "closed" or not self._is_suspicious():
            return
        began = time.monotonic()
        for factor in PROBES:
            if self._is_there(factor) is not False:
                self._answered = time.monotonic()
            if self._answered > began:
                return
        self._circuit.trip()

    def _is_suspicious(self) -> bool:
        """Whether a request timed out, or waits too long, with no response to any request since."""
        if self._timed_out > self._answered:
            return True
        oldest = min((wait.began for wait in list(self._waits)), default=float("inf"))
        return time.monotonic() - max(oldest, self._answered) > QUIET

    def _start(self) -> None:
        with self._starting:
            if self._watch is None:
                self._watch = Periodic(
                    name="liveness", interval=INTERVAL, action=self.look, at_once=False
                )
                self._watch.start()


class _Wait:
    """One request that waits, and since when, in monotonic seconds."""

    __slots__ = ("_liveness", "began")

    def __init__(self, liveness: Liveness) -> None:
        self._liveness = liveness
        self.began = 0.0

    def __enter__(self) -> None:
        self.began = time.monotonic()
        self._liveness.begin(self)

    def __exit__(
        self,
        error: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._liveness.end(self, error)
