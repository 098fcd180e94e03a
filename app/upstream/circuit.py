"""Circuit: stops asking a dependency that does not answer, and lets one probe at a time through.

pybreaker holds the state machine. Its call() keeps a lock for the whole call, which would make all
upstream calls queue (16 threads of 0.1 s took 1.6 s), so only the outcome is reported through it,
in microseconds, and admission is decided here: closed, everybody; open, nobody; after
the reset time-out, one probe. An outcome that says nothing about the dependency (a client that hung
up) is reported to nobody. What hears of a change cannot prevent it: pybreaker 1.4.1 keeps the old
state for ever where a listener raises.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pybreaker

log = logging.getLogger("hokusai.circuit")


class DependencyFailed(Exception):
    """Raised inside pybreaker to report a failure; never seen outside."""


class Open(Exception):
    """The circuit is open; `retry_after` (whole seconds, at least 1) is when a probe may go."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"open, a probe may go in {retry_after} s")
        self.retry_after = retry_after


class Circuit:
    """One dependency's circuit, in the memory of this worker. Safe to share among threads."""

    def __init__(
        self,
        name: str,
        fail_max: int,
        reset_timeout: float,
        on_change: Callable[[str, str], None] = lambda name, state: None,
    ) -> None:
        """Opens after `fail_max` failures in a row, for `reset_timeout` seconds. `on_change` is
        told the circuit's name and its new state: closed, open or half-open."""
        self.name = name
        self._reset_timeout = reset_timeout
        self._opened_at = 0.0
        self._times_opened = 0
        self._when_opened: Callable[[], None] = lambda: None
        self._probe = threading.Lock()
        self._reporting = threading.Lock()
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=fail_max,
            reset_timeout=0,  # admission is ours
            listeners=[_Listener(self, on_change)],
            name=name,
            throw_new_error_on_trip=False,
        )

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        return str(self._breaker.current_state)

    @property
    def is_about_to_open(self) -> bool:
        """Whether one more failure opens it, or keeps it open."""
        return self.state != "closed" or self._breaker.fail_counter + 1 >= self._breaker.fail_max

    @contextmanager
    def attempt(
        self,
        failures: tuple[type[Exception], ...],
        is_there: Callable[[], bool | None] | None = None,
    ) -> Iterator[None]:
        """Surrounds one call. An exception out of `failures` counts as one, no exception as a
        success, any other exception as nothing. Raises Open if the call must not be made.

        `is_there` probes an open circuit's dependency, so that no call has to: True closes the
        circuit, False keeps it open for the reset time-out, None lets the next call probe. Without
        it, the call is the probe.
        """
        began_after = self._times_opened
        probing = self._admit()
        if probing and is_there is not None:
            self._probe_with(is_there)
            began_after, probing = self._times_opened, False
        try:
            yield
        except failures:
            self._report(began_after, self._fail)
            raise
        else:
            if probing or self._breaker.fail_counter:
                self._report(began_after, lambda: None)
        finally:
            if probing:
                self._probe.release()

    def reset(self) -> None:
        """Closes the circuit, whatever it has seen."""
        if self.state != pybreaker.STATE_CLOSED:
            self._breaker.close()

    def trip(self) -> None:
        """Opens a closed circuit, for what was found out beside the calls."""
        with self._reporting:
            if self.state == pybreaker.STATE_CLOSED:
                self._breaker.open()

    def when_opened(self, act: Callable[[], None]) -> None:
        """From now on `act` is called each time that the circuit opens."""
        self._when_opened = act

    def opened(self) -> None:
        """Notes when the circuit opened; called by the listener."""
        self._opened_at = time.monotonic()
        self._times_opened += 1
        self._when_opened()

    def _admit(self) -> bool:
        """Whether this call is the probe; raises Open if it may not go at all."""
        if self._breaker.current_state == pybreaker.STATE_CLOSED:
            return False
        if not self._probe.acquire(blocking=False):
            raise Open(self.seconds_to_probe())
        # Looked at again: the last probe may have ended just now.
        if self._breaker.current_state == pybreaker.STATE_CLOSED:
            self._probe.release()
            return False
        if time.monotonic() < self._opened_at + self._reset_timeout:
            self._probe.release()
            raise Open(self.seconds_to_probe())
        if self._breaker.current_state == pybreaker.STATE_OPEN:
            self._breaker.half_open()
        return True

    def _probe_with(self, is_there: Callable[[], bool | None]) -> None:
        """Asks the dependency itself, and returns if it is there; raises Open if not."""
        began_after = self._times_opened
        try:
            found = is_there()
            if found is not None:
                self._report(began_after, (lambda: None) if found else self._fail)
        finally:
            self._probe.release()
        if not found:
            raise Open(self.seconds_to_probe())

    def seconds_to_probe(self) -> int:
        """Whole seconds until an open circuit's dependency may be asked, at least 1."""
        remaining = self._opened_at + self._reset_timeout - time.monotonic()
        return max(1, math.ceil(remaining))

    def _report(self, began_after: int, outcome: Callable[[], None]) -> None:
        """Tells pybreaker the outcome. A call that began before the circuit opened and ended after
        it, even long after, has nothing to say any more. One at a time: pybreaker, told of two
        failures at once, would open twice."""
        with self._reporting, suppress(DependencyFailed, pybreaker.CircuitBreakerError):
            if began_after == self._times_opened:
                self._breaker.call(outcome)

    @staticmethod
    def _fail() -> None:
        raise DependencyFailed


class _Listener(pybreaker.CircuitBreakerListener):
    """Logs each change of state once, and passes it on."""

    def __init__(self, circuit: Circuit, on_change: Callable[[str, str], None]) -> None:
        self._circuit = circuit
        self._on_change = on_change

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        if new_state.name == pybreaker.STATE_OPEN:
            self._circuit.opened()
        level = logging.INFO if new_state.name == pybreaker.STATE_HALF_OPEN else logging.WARNING
        log.log(level, "circuit to %s is now %s", self._circuit.name, new_state.name)
        try:
            self._on_change(self._circuit.name, new_state.name)
        except Exception as why:  # pybreaker would stay in its old state, and the caller see this
            log.error("a change of the circuit cannot be passed on", exc_info=why)
