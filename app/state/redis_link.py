"""The one way to Redis: a client with short timeouts, behind a circuit breaker.

The callers (cache, limits) decide what an outage means. A default redis-py client spends
6.8 s on a silent server; this one at most REDIS_TIMEOUT. After two such failures in a row a thread
probes every REDIS_RETRY_INTERVAL, and requests proceed without Redis until it is back. A Redis that
is slower than REDIS_TIMEOUT counts as unavailable.

A Redis that responds and refuses one command stays available for the others. The thread then finds
out what is refused (redis_rights.py), logs it once, and checks again until nothing is.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import redis

from app.observability.metrics import REDIS_FAILURES, REDIS_UNAVAILABLE, show_redis_refusals
from app.state.redis_client import OneServer, SomeNodesFail, connect
from app.state.redis_faults import FAILURES, causes, is_refusal, message_of, word
from app.state.redis_rights import Lack, explain, missing, missing_to_connect, missing_to_hear
from app.state.redis_sentinel import MasterAlone

log = logging.getLogger("hokusai.redis")

T = TypeVar("T")

#: Minimum seconds between two log lines that Redis is unavailable.
SAID_INTERVAL = 10.0

#: Seconds between two checks of a Redis that refuses something.
REFUSAL_INTERVAL = 5.0

#: Words of redis_faults.py for a Redis that executes some commands.
PARTIAL = frozenset(("permission", "slots", "is cluster"))

#: Concurrent commands of a worker, each on its own connection; the others wait. Hundreds of
#: requests may begin together, and as many new connections would take longer than REDIS_TIMEOUT.
AT_ONCE = 64

#: Without these commands no connection is usable.
CONNECTING = frozenset(("select", "command", "cluster", "cluster|slots"))


class Trouble(NamedTuple):
    """What is wrong with Redis: a word of redis_faults.py, the exception, and what the user lacks
    permission for."""

    word: str
    error: BaseException
    lacks: tuple[Lack, ...] = ()

    @property
    def is_partial(self) -> bool:
        """Whether Redis executes other commands."""
        is_some = any(isinstance(c, SomeNodesFail | MasterAlone) for c in causes(self.error))
        is_partial = is_some or self.word in PARTIAL
        return is_partial and not any(lack.right in CONNECTING for lack in self.lacks)


class RedisUnavailable(Exception):
    """Redis did not execute a command, its breaker is open, or it is not configured."""


class RedisLink:
    """Redis at `url`; `client` is None for memory://. Times are in seconds."""

    def __init__(self, url: str, timeout: float, retry_interval: float) -> None:
        self.client: Any = connect(url, timeout)
        #: Counts once as the limiter does, when Redis is examined; set by request_limits.py.
        self.exercise: Callable[[Any, str], None] | None = None
        #: Whether this process is subscribed to revocations: True, the error, or None if unknown.
        self.subscription: bool | BaseException | None = None
        self._timeout = timeout
        self._retry_interval = retry_interval
        self._unavailable = self.client is None
        self._guard = threading.Lock()
        # Not a semaphore: under gevent, threading's lets all other greenlets run at each release.
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(AT_ONCE):
            self._places.put(None)
        self._is_watched = False
        self._is_partial = False  # the last check found that some of it works
        self._answered_at = 0.0
        self._failed_at = 0.0  # the first failure since the last success
        self._said_at = -SAID_INTERVAL
        self._defects: set[type[Exception]] = set()
        self._refusal: Exception | None = None  # the last one, until Redis was examined

    def call(self, command: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Run one command. Raises RedisUnavailable if it fails, then at once until a probe
        succeeds."""
        if self._unavailable:
            raise RedisUnavailable
        place = self._places.get()
        try:
            return self._call(command, *arguments, **options)
        finally:
            self._places.put(place)

    def _call(self, command: Callable[..., T], *arguments: Any, **options: Any) -> T:
        if self._unavailable:  # it failed during the wait
            raise RedisUnavailable
        began = time.monotonic()
        try:
            result = command(*arguments, **options)
        except FAILURES as why:
            REDIS_FAILURES.inc()
            if is_refusal(why):
                self._refusal = why
                self.watch()
            elif not self._is_partial and self._is_certain(began):
                self._leave_alone(why)
            raise RedisUnavailable from why
        except Exception as why:  # a defect, here or in the library: it must not reach the caller
            self._note_defect(why)
            self.watch()
            raise RedisUnavailable from why
        self._answered_at = time.monotonic()
        return result

    def trouble(self) -> Trouble | None:
        """Try everything that the proxy does with Redis, past the breaker; return None if all of it
        works. Takes a few times REDIS_TIMEOUT at most, if Redis does not respond."""
        return self._examine()

    def watch(self) -> None:
        """Start a thread that finds out what Redis refuses, and whether it refuses everything."""
        self._begin_to_watch(None)

    @property
    def unavailable(self) -> bool:
        """Whether commands currently fail: the last one did, or they fail fast."""
        return self._unavailable or self._failed_at > self._answered_at

    def _is_certain(self, began: float) -> bool:
        """Whether a failure shows that Redis is unavailable. One timeout or broken connection does
        not: in a worker that is paused or overloaded, timeouts pass although the responses have
        arrived. Two consecutive ones do, with no response to any command in between."""
        if began < self._answered_at:
            return False
        if self._failed_at <= self._answered_at:
            self._failed_at = time.monotonic()
            return False
        return self._failed_at <= began

    def _leave_alone(self, why: Exception) -> None:
        """Open the breaker: a background thread probes Redis; requests fail fast meanwhile."""
        self._set_unavailable(True)
        self._begin_to_watch(type(why).__name__)

    def _begin_to_watch(self, reason: str | None) -> None:
        with self._guard:
            if self._is_watched:
                return
            self._is_watched = True
        threading.Thread(
            target=self._watch, args=(reason,), name="redis-probe", daemon=True
        ).start()

    def _watch(self, reason: str | None) -> None:
        """Probe until Redis does all that it should. `reason` is why it is unavailable; None if it
        is not."""
        was_logged = False
        known: tuple[Lack, ...] | None = None
        if reason is not None:
            was_logged = self._log_unavailable(reason)
            time.sleep(self._retry_interval)
        while (found := self._examine_with_care()) is not None:
            is_unavailable = not found.is_partial
            self._is_partial = found.is_partial
            if is_unavailable:
                self._set_unavailable(True)
                was_logged = was_logged or self._log_unavailable(type(found.error).__name__)
            else:
                was_logged = self._be_back(was_logged)
            if found.word in PARTIAL or found.is_partial:
                known = self._note_refusals(found, known)
            time.sleep(self._retry_interval if is_unavailable else REFUSAL_INTERVAL)
            self._refusal = None  # this was it
        with self._guard:
            self._is_watched = self._is_partial = False
        self._be_back(was_logged)
        if known is not None:
            show_redis_refusals(())
            log.warning("Redis no longer refuses anything")
        elif self._refusal is not None and type(self._refusal) not in self._defects:
            self._defects.add(type(self._refusal))
            log.warning("Redis refused one command: %s", message_of(self._refusal))
        self._refusal = None

    def _set_unavailable(self, is_unavailable: bool) -> None:
        self._unavailable = is_unavailable
        REDIS_UNAVAILABLE.set(int(is_unavailable))
        if is_unavailable and isinstance(self.client, OneServer):
            self.client.close_idle()  # the host may be gone, and each would cost a timeout

    def _be_back(self, was_logged: bool) -> bool:
        """Close the breaker. Log it if the outage was logged. Return the new `was_logged`."""
        self._answered_at = time.monotonic()
        if self._unavailable:
            self._set_unavailable(False)
            if was_logged:
                log.warning("Redis is back")
        return False

    def _note_refusals(self, found: Trouble, known: tuple[Lack, ...] | None) -> tuple[Lack, ...]:
        """Log what is refused, unless it is `known`, and show it in the metric."""
        if found.lacks != known:
            show_redis_refusals([lack.label for lack in found.lacks] or [found.word])
            if found.lacks:
                log.warning(explain(found.lacks))
            else:
                log.warning("Redis refuses some commands: %s", message_of(found.error))
        return found.lacks

    def _examine_with_care(self) -> Trouble | None:
        """Return what is wrong now. One timeout does not show that Redis is unavailable."""
        found = self._examine()
        if found is None or self._unavailable or is_refusal(found.error):
            return found
        return self._examine()

    def _examine(self) -> Trouble | None:
        """Return what is wrong now; None if nothing is."""
        try:
            if hasattr(self.client, "check"):
                self.client.check()
            found = self._missing()
            if not found and hasattr(self.client, "check_sentinels"):
                self.client.check_sentinels()
        except FAILURES as why:
            return Trouble(word(why), why, tuple(missing_to_connect(why)))
        except Exception as why:  # a defect must not end the probing thread
            self._note_defect(why)
            return Trouble("", why)
        if not found:
            return None
        words = found[0].words or f"no {found[0].kind}{found[0].right}"
        return Trouble("permission", redis.RedisError(words), found)

    def _note_defect(self, why: Exception) -> None:
        """Log a defect, once for each type."""
        if type(why) not in self._defects:
            self._defects.add(type(why))
            log.error("the use of Redis failed", exc_info=why)

    def _missing(self) -> tuple[Lack, ...]:
        found = missing(self.client, self.exercise)
        found += missing_to_hear(self.client, self.subscription, self._timeout)
        return tuple(found)

    def _log_unavailable(self, reason: str) -> bool:
        """Log the outage, unless one was logged recently; return whether it was logged."""
        now = time.monotonic()
        if now - self._said_at < SAID_INTERVAL:
            return False
        self._said_at = now
        log.warning("Redis is unavailable (%s); continuing without it", reason)
        return True
