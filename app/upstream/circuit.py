"""Circuit breaker: stop calling a dependency that fails, and let one probe at a time through.

pybreaker holds the state machine. Its call() keeps a lock for the whole call, which would serialize
all upstream calls (16 threads of 0.1 s took 1.6 s). So only the outcome is reported through it,
in microseconds, and admission is decided here: closed, every call; open, none; after the reset
timeout, one probe. An outcome that says nothing about the dependency (a client that hung up) is not
reported. A listener's error cannot prevent a state change: pybreaker 1.4.1 keeps the old state
forever if a listener raises.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pybreaker

log = logging.getLogger("hokusai.circuit")

#: Seconds in Retry-After during a probe: it may take 2 s, and MLflow's client has seven retries.
DURING_PROBE = 5

#: The same after a probe whose connection broke: something in front of MLflow may accept for it
#: while it starts.
UNCLEAR = 10


class DependencyFailed(Exception):
    """Raised inside pybreaker to report a failure; never seen outside."""


class Open(Exception):
    """The circuit is open; `retry_after` is in whole seconds, at least 1."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"open; try again in {retry_after} s")
        self.retry_after = retry_after


class Circuit:
    """The circuit of one dependency, in this worker's memory. Thread-safe."""

    def __init__(
        self,
        name: str,
        fail_max: int,
        reset_timeout: float,
        on_change: Callable[[str, str], None] = lambda name, state: None,
    ) -> None:
        """Open after `fail_max` consecutive failures, for `reset_timeout` seconds. `on_change`
        receives the circuit's name and its new state: closed, open or half-open."""
        self.name = name
        self._reset_timeout = reset_timeout
        self._opened_at = 0.0
        self._times_opened = 0
        self._when_opened: Callable[[], None] = lambda: None
        self._probe = threading.Lock()
        self._reporting = threading.Lock()
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=fail_max,
            reset_timeout=0,  # _admit decides on admission
            listeners=[_Listener(self, on_change)],
            name=name,
            throw_new_error_on_trip=False,
        )

    @property
    def state(self) -> str:
        """The state: closed, open or half-open."""
        return str(self._breaker.current_state)

    @property
    def is_about_to_open(self) -> bool:
        """Whether one more failure opens the circuit, or keeps it open."""
        return self.state != "closed" or self._breaker.fail_counter + 1 >= self._breaker.fail_max

    @contextmanager
    def attempt(
        self,
        failures: tuple[type[Exception], ...],
        is_there: Callable[[], bool | None] | None = None,
    ) -> Iterator[None]:
        """Surround one call. An exception in `failures` counts as a failure, no exception as a
        success, any other exception as neither. Raises Open if the call must not be made.

        `is_there` probes the dependency of an open circuit instead of a call: True closes the
        circuit, False keeps it open for the reset timeout, None leaves the probe to the next call.
        Without it, the call is the probe.
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
        """Close the circuit, whatever its state."""
        if self.state != pybreaker.STATE_CLOSED:
            self._breaker.close()

    def trip(self) -> None:
        """Open a closed circuit, on evidence from outside the calls."""
        with self._reporting:
            if self.state == pybreaker.STATE_CLOSED:
                self._breaker.open()

    def when_opened(self, act: Callable[[], None]) -> None:
        """Set the callback that runs each time the circuit opens."""
        self._when_opened = act

    def opened(self) -> None:
        """Record when the circuit opened; called by the listener."""
        self._opened_at = time.monotonic()
        self._times_opened += 1
        self._when_opened()

    def _admit(self) -> bool:
        """Return whether this call is the probe. Raises Open if it must not be made."""
        if self._breaker.current_state == pybreaker.STATE_CLOSED:
            return False
        if not self._probe.acquire(blocking=False):
            raise Open(DURING_PROBE)
        # Re-check under the lock: the last probe may have just ended.
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
        """Probe the dependency. Raises Open unless it is up."""
        began_after = self._times_opened
        try:
            result = is_there()
            if result is not None:
                self._report(began_after, (lambda: None) if result else self._fail)
        finally:
            self._probe.release()
        if not result:
            raise Open(UNCLEAR if result is None else self.seconds_to_probe())

    def seconds_to_probe(self) -> int:
        """Whole seconds until an open circuit may be probed, at least 1."""
        remaining = self._opened_at + self._reset_timeout - time.monotonic()
        return max(1, math.ceil(remaining))

    def _report(self, began_after: int, outcome: Callable[[], None]) -> None:
        """Report the outcome to pybreaker, but not of a call that began before the circuit last
        opened, however late it ends. One at a time: two concurrent failures would open it twice."""
        with self._reporting, suppress(DependencyFailed, pybreaker.CircuitBreakerError):
            if began_after == self._times_opened:
                self._breaker.call(outcome)

    @staticmethod
    def _fail() -> None:
        raise DependencyFailed


class _Listener(pybreaker.CircuitBreakerListener):
    """Log each state change once, and pass it on."""

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
        except Exception as why:  # else pybreaker keeps its old state, and the caller sees this
            log.error("the callback for a circuit's state change failed", exc_info=why)
