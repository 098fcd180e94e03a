"""Counted limits: requests per key and hour, failed authentications per network.

The counts are in Redis, shared by all instances, at one round trip per request. The window slides,
so no caller gets twice the limit around a full hour.

While Redis is unavailable the limits stay on: each instance grants its part (the limit divided by
INSTANCES, at least 1), counted by its workers together, and returns to the shared count by itself.
Limits are looser in an outage in one point: an instance then counts from zero, and does not add its
count to the shared one afterwards. authentication.py covers authentication in an outage.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Semaphore
from typing import Any, TypeVar
from urllib.parse import quote
from weakref import WeakValueDictionary

from flask import Flask
from flask_limiter import Limiter
from limits import RateLimitItemPerHour, RateLimitItemPerMinute
from limits.limits import RateLimitItem

from app.limits.in_flight import RETRY_AFTER
from app.observability.metrics import count_fallback, count_limit
from app.request.addresses import network
from app.request.credentials import Counted
from app.request.errors import Overloaded, RateLimited
from app.request.permit import Permit
from app.request.principal import Principal
from app.state.redis_link import RedisLink, RedisUnavailable
from app.state.window_counts import WindowCounts
from app.state.windows import (
    Windows,
    count_as_the_limiter,
    look,
    remaining,
    seconds_to_change,
    seconds_to_wait,
    take,
)

T = TypeVar("T")

STRATEGY = "sliding-window-counter"

#: A worker validates AUTH_FAILURE_LIMIT / GUESSES possible guesses of one network at once. Another
#: waits GUESS_PATIENCE seconds, because it holds one of the shared slots for the auth service.
GUESSES, GUESS_PATIENCE = 3, 3.0


USED_UP: dict[Counted, str] = {
    "key": "This API key may make {requests} an hour, and has used them up.",
    "session": "The browser sessions of this API key may make {requests} an hour, and have used "
    "them up. Requests with the key itself are counted separately and still work.",
}


class Limits:
    """The counted limits. `instances` (1 or more) divides a limit while Redis is unavailable.
    `failure_limit` is in failed authentications per minute and IPv4 address or IPv6 /64 network."""

    def __init__(
        self,
        *,
        shared: Limiter,
        link: RedisLink,
        own: WindowCounts,
        instances: int,
        failure_limit: int,
    ) -> None:
        self._shared = shared
        self._link = link
        self._instances = instances
        self._own = own
        self._failures = RateLimitItemPerMinute(failure_limit)
        self._most_guesses = max(1, failure_limit // GUESSES)
        self._guesses: WeakValueDictionary[str, Semaphore] = WeakValueDictionary()  # by network

    def limit(self, permit: Permit, counted: Counted = "key") -> dict[str, str]:
        """Count one request of a key, or of its browser sessions; raise RateLimited if it exceeds
        the limit. Returns the rest as response header fields; none for a key without a limit."""
        return self.count(permit.principal, counted)

    def count(self, principal: Principal, counted: Counted = "key") -> dict[str, str]:
        """Count a request that needs no permit, such as sign-in; otherwise like limit()."""
        if principal.limit_per_hour is None:
            return {}
        item = RateLimitItemPerHour(principal.limit_per_hour)
        granted, granting, windows = self._take(item, counted, principal.key_id)
        count_limit(counted, granted)
        if not granted:
            sentence = USED_UP[counted].format(requests=_requests(item.amount))
            raise _over(item, seconds_to_wait(granting, windows), sentence)
        return _state(item, granting, windows)

    def left(self, principal: Principal, counted: Counted = "key") -> dict[str, str]:
        """The rest of a key's limit, as the same header fields, for a refused request, which does
        not count."""
        if principal.limit_per_hour is None:
            return {}
        item = RateLimitItemPerHour(principal.limit_per_hour)
        return _state(item, *self._look(item, counted, principal.key_id))

    def check_failures(self, client_ip: str) -> None:
        """Raise RateLimited if too many recent authentications failed from this IPv4 address, or
        from the /64 network of an IPv6 address: a client with one of its addresses has them all."""
        counted = network(client_ip)
        if wait := seconds_to_wait(*self._look(self._failures, "address", counted)):
            count_limit("address", False)
            where = f"address ({client_ip})"
            if counted != client_ip:
                where = f"network ({counted}, which includes your address {client_ip})"
            raise _over(self._failures, wait, f"Too many failed authentications from your {where}.")

    @contextmanager
    def guess(self, client_ip: str) -> Iterator[None]:
        """Wrap the validation of a key that may be a guess. Only a few from one network run at
        once; the others wait. Without this, many parallel guesses would all be validated before the
        first failure counts. Raises RateLimited if too many failed, Overloaded if it waits too
        long, which is not the caller's fault."""
        self.check_failures(client_ip)
        places = self._guesses.setdefault(network(client_ip), Semaphore(self._most_guesses))
        if not places.acquire(timeout=GUESS_PATIENCE):
            raise Overloaded(
                f"Too many new keys from your address ({client_ip}) are waiting for validation. "
                f"Repeat the request in {RETRY_AFTER} s.",
                RETRY_AFTER,
            )
        try:
            self.check_failures(client_ip)  # again: others may have failed during the wait
            yield
        finally:
            places.release()

    def note_failure(self, client_ip: str) -> None:
        """Count one failed authentication."""
        self._take(self._failures, "address", network(client_ip))

    def _take(self, item: RateLimitItem, *identity: str) -> tuple[bool, RateLimitItem, Windows]:
        """Count one, in Redis or else in this instance. Returns whether it is within the limit, the
        limit that applied (the whole or this instance's part), and its windows."""
        names = _quoted(identity)
        try:
            return self._in_redis(_taken, self._shared.storage, item, names)
        except RedisUnavailable:
            count_fallback(identity[0])
            return _taken(self._own, self._own_part(item), names)

    def _look(self, item: RateLimitItem, *identity: str) -> tuple[RateLimitItem, Windows]:
        """Return the limit that would apply, as in `_take`, and its windows; count nothing."""
        names = _quoted(identity)
        try:
            return item, self._in_redis(look, self._shared.storage, item, names)
        except RedisUnavailable:
            part = self._own_part(item)
            return part, look(self._own, part, names)

    def _in_redis(self, command: Callable[..., T], *arguments: Any) -> T:
        """Run a command through RedisLink; directly with memory://."""
        if self._link.client is None:
            return command(*arguments)
        return self._link.call(command, *arguments)

    def _own_part(self, item: RateLimitItem) -> RateLimitItem:
        return type(item)(max(1, item.amount // self._instances) if item.amount else 0)


def _taken(
    storage: Any, item: RateLimitItem, names: tuple[str, ...]
) -> tuple[bool, RateLimitItem, Windows]:
    granted, windows = take(storage, item, names)
    return granted, item, windows


def _state(item: RateLimitItem, granting: RateLimitItem, windows: Windows) -> dict[str, str]:
    left, reset = remaining(granting, windows), seconds_to_change(granting, windows)
    return _fields(item, left, math.floor(reset) + 1)


def _over(item: RateLimitItem, seconds: float, sentence: str) -> RateLimited:
    wait = math.floor(seconds) + 1
    return RateLimited(
        f"{sentence} Wait {wait} s and repeat the request.", wait, _fields(item, 0, wait)
    )


def _fields(item: RateLimitItem, left: int, seconds: int) -> dict[str, str]:
    """The header fields: limit, rest, and the time of the reset in epoch seconds."""
    return {
        "X-RateLimit-Limit": str(item.amount),
        "X-RateLimit-Remaining": str(left),
        "X-RateLimit-Reset": str(math.ceil(time.time()) + seconds),
    }


def _requests(requests: int) -> str:
    return f"{requests} request" + ("" if requests == 1 else "s")


@lru_cache(maxsize=1024)
def _quoted(identity: tuple[str, ...]) -> tuple[str, ...]:
    """Escape the characters that have a meaning in the library's keys: / { }."""
    return tuple(quote(name, safe="@:") for name in identity)


def shared_limiter(app: Flask, link: RedisLink) -> Limiter:
    """Build a flask-limiter on the cache's Redis. It has no limits of its own: it counts only when
    the pipeline calls it, after authentication."""
    url, options = "memory://", {}
    if link.client is not None:
        url, options = "link://", {"client": link.client}
        link.exercise = count_as_the_limiter
    return Limiter(
        key_func=lambda: "", app=app, strategy=STRATEGY, storage_uri=url, storage_options=options
    )
