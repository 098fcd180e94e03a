"""The one way to Redis: a client with short time-outs, and a guard that leaves a failed one alone.

What an outage means is decided by those who call (verdict_cache, limits), not here. The times: a
default redis-py client spends 6.8 s on a silent server; this one at most REDIS_TIMEOUT, and once:
then a thread probes every REDIS_RETRY_INTERVAL, and requests go on without Redis until it is back.
A Redis that is slower than REDIS_TIMEOUT counts as away.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from redis.exceptions import RedisClusterException
from redis.sentinel import MasterNotFoundError

from app.metrics import REDIS_AWAY, REDIS_FAILURES
from app.redis_client import connect

log = logging.getLogger("hokusai.redis")

T = TypeVar("T")

#: Written to see whether Redis takes writes.
PROBE = "hokusai:probe"

#: Seconds between two lines that say that Redis is away.
SAID_INTERVAL = 10.0

#: What a command raises where Redis fails. RedisCluster's own exception is not a RedisError.
FAILURES = (redis.RedisError, RedisClusterException, OSError)


#: What is wrong with a Redis, by what it raises, or by the first word of what it says.
TROUBLES: tuple[tuple[type[Exception], str], ...] = (
    (redis.ReadOnlyError, "read-only"),
    (redis.OutOfMemoryError, "full"),
    (redis.AuthenticationError, "password"),
    (redis.exceptions.NoPermissionError, "permission"),
    (redis.BusyLoadingError, "loading"),
    (redis.TimeoutError, "silent"),
    (MasterNotFoundError, "no master"),
    (RedisClusterException, "no cluster"),
    (redis.exceptions.ClusterDownError, "no cluster"),
    (redis.ConnectionError, "unreachable"),
)
SAID = {"NOREPLICAS": "replicas", "MISCONF": "disk", "OOM": "full", "READONLY": "read-only"}


class RedisAway(Exception):
    """Redis did not answer, or is being left alone after it did not, or there is none."""


class RedisLink:
    """Redis at `url`; `client` is None for memory://. Times are in seconds."""

    def __init__(self, url: str, timeout: float, retry_interval: float) -> None:
        self.client: Any = connect(url, timeout)
        self._retry_interval = retry_interval
        self._away = self.client is None
        self._guard = threading.Lock()
        self._answered_at = 0.0
        self._failed_at = 0.0  # first, since the last answer
        self._said_at = -SAID_INTERVAL

    def call(self, command: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Runs one command; RedisAway if it fails, and at once until a probe has succeeded."""
        if self._away:
            raise RedisAway
        began = time.monotonic()
        try:
            answer = command(*arguments, **options)
        except FAILURES as why:
            REDIS_FAILURES.inc()
            if self._is_certain(why, began):
                self._leave_alone(why)
            raise RedisAway from why
        self._answered_at = time.monotonic()
        return answer

    def trouble(self) -> tuple[str, BaseException] | None:
        """Asks Redis now for a write, past the guard: what is wrong, in one of the words of
        `TROUBLES`, and the exception; None if nothing is. Takes a few times REDIS_TIMEOUT at most.
        """
        try:
            self.client.set(PROBE, b"1", px=1000)
        except FAILURES as why:
            return _in_a_word(why), why
        return None

    @property
    def away(self) -> bool:
        """Whether commands fail now: the last one did, or they are being refused at once."""
        return self._away or self._failed_at > self._answered_at

    def _is_certain(self, why: Exception, began: float) -> bool:
        """Whether a failure means that Redis is away. One silence or broken connection does not: a
        worker that is stopped for a moment, or overloaded, sees its time-outs pass though the
        answers are there. Two do, one after the other, with no answer to anybody in between."""
        if not isinstance(why, redis.TimeoutError | redis.ConnectionError):
            return True  # it answers, and refuses: read-only, full
        if began < self._answered_at:
            return False
        if self._failed_at <= self._answered_at:
            self._failed_at = time.monotonic()
            return False
        return self._failed_at <= began

    def _leave_alone(self, why: Exception) -> None:
        """From now on a thread asks whether Redis is back, and no request waits for it."""
        with self._guard:
            if self._away:
                return
            self._away = True
        REDIS_AWAY.set(1)
        reason = type(why).__name__
        threading.Thread(
            target=self._until_back, args=(reason,), name="redis-probe", daemon=True
        ).start()

    def _until_back(self, reason: str) -> None:
        said = self._say_that_it_is_away(reason)
        time.sleep(self._retry_interval)
        while not self._takes_a_write():
            said = said or self._say_that_it_is_away(reason)
            time.sleep(self._retry_interval)
        self._answered_at = time.monotonic()
        self._away = False
        REDIS_AWAY.set(0)
        if said:
            log.warning("Redis is back")

    def _takes_a_write(self) -> bool:
        """A Redis that is read-only or full answers pings, and is of no use."""
        with contextlib.suppress(*FAILURES):
            self.client.set(PROBE, b"1", px=1000)
            return True
        return False

    def _say_that_it_is_away(self, reason: str) -> bool:
        """Whether it was said: not each time, where Redis comes and goes."""
        now = time.monotonic()
        if now - self._said_at < SAID_INTERVAL:
            return False
        self._said_at = now
        log.warning("Redis is away (%s); going on without it", reason)
        return True


def _in_a_word(why: BaseException) -> str:
    """One of the words of TROUBLES and SAID, or "" for anything else."""
    text = str(why)
    if text.startswith("Connection closed by server"):
        return "closed"
    said = SAID.get(text.partition(" ")[0])
    return said or next((word for kind, word in TROUBLES if isinstance(why, kind)), "")
