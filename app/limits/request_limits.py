"""Counted limits: requests per key and hour, failed authentications per network.

The counts stand in Redis, shared by all instances, one round trip for each request; a sliding
window, so that no caller gets twice the limit around a full hour.

While Redis is away the limits stay on: each instance grants its part (the limit divided by
INSTANCES, at least 1), counted by its workers together, and goes back to the shared count by
itself. That is the one thing here that is looser in an outage: what an instance grants then is
counted from nothing, and is not added to the shared count afterwards. authentication.py says what
an outage means for who is let in.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Semaphore
from typing import Any, TypeVar
from urllib.parse import quote
from weakref import WeakValueDictionary

from flask import Flask
from flask_limiter import Limiter
from limits import RateLimitItemPerHour, RateLimitItemPerMinute
from limits.limits import RateLimitItem

from app.observability.metrics import count_fallback, count_limit
from app.request.addresses import network
from app.request.credentials import Counted
from app.request.errors import Overloaded, RateLimited
from app.request.permit import Permit
from app.request.principal import Principal
from app.state.redis_link import RedisAway, RedisLink
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

#: Of AUTH_FAILURE_LIMIT, the part that a worker asks about at once for one network; and seconds for
#: which one more waits, since it holds one of everybody's places to wait for the auth service.
GUESSES, GUESS_PATIENCE = 3, 3.0


USED_UP: dict[Counted, str] = {
    "key": "This API key may make {requests} an hour, and has used them up.",
    "session": "The browser sessions of this API key may make {requests} an hour, and have used "
    "them up. Requests with the key itself are counted separately and go on.",
}


class Limits:
    """The counted limits. `instances` (a number, 1 or more) is by how much a limit is divided
    while Redis is away; `failure_limit` is in failed authentications per minute and address, or
    /64 network of IPv6 addresses."""

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
        """Counts one request of a key, or of its browser sessions; RateLimited if it is one too
        many. What is left, as header fields of the answer; none for a key without a limit."""
        return self.count(permit.principal, counted)

    def count(self, principal: Principal, counted: Counted = "key") -> dict[str, str]:
        """The same for what needs no permit: signing in."""
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
        """What is left of a key's limit, as the same header fields, for a request that is refused
        and does not count."""
        if principal.limit_per_hour is None:
            return {}
        item = RateLimitItemPerHour(principal.limit_per_hour)
        return _state(item, *self._look(item, counted, principal.key_id))

    def check_failures(self, client_ip: str) -> None:
        """RateLimited if too many authentications failed lately from this address, or from the /64
        network of an IPv6 address: whoever has one address of it has them all."""
        counted = network(client_ip)
        if wait := seconds_to_wait(*self._look(self._failures, "address", counted)):
            count_limit("address", False)
            where = f"address ({client_ip})"
            if counted != client_ip:
                where = f"network ({counted}, in which your address {client_ip} lies)"
            raise _over(self._failures, wait, f"Too many failed authentications from your {where}.")

    @contextmanager
    def guess(self, client_ip: str) -> Iterator[None]:
        """Surrounds a question about a key that may be a guess. Others from that network wait,
        except a few: else whoever sends many guesses together would have an answer to each before
        the first one counts. RateLimited where too many failed; Overloaded where it waits too
        long, which is no fault of its own."""
        self.check_failures(client_ip)
        places = self._guesses.setdefault(network(client_ip), Semaphore(self._most_guesses))
        if not places.acquire(timeout=GUESS_PATIENCE):
            raise Overloaded(
                f"Too many new keys from your address ({client_ip}) wait for their validation. "
                "Repeat the request in 1 s.",
                1,
            )
        try:
            self.check_failures(client_ip)  # again: others failed while this one waited
            yield
        finally:
            places.release()

    def note_failure(self, client_ip: str) -> None:
        """Counts one failed authentication."""
        self._take(self._failures, "address", network(client_ip))

    def _take(self, item: RateLimitItem, *identity: str) -> tuple[bool, RateLimitItem, Windows]:
        """Counts one, in Redis or by ourselves; False if it is over the limit. Then the limit that
        was granted from, the whole or our part of it, and its windows."""
        names = _quoted(identity)
        try:
            return self._in_redis(_taken, self._shared.storage, item, names)
        except RedisAway:
            count_fallback(identity[0])
            return _taken(self._own, self._own_part(item), names)

    def _look(self, item: RateLimitItem, *identity: str) -> tuple[RateLimitItem, Windows]:
        """The limit that one more would be granted from, as in `_take`, and its windows."""
        names = _quoted(identity)
        try:
            return item, self._in_redis(look, self._shared.storage, item, names)
        except RedisAway:
            part = self._own_part(item)
            return part, look(self._own, part, names)

    def _in_redis(self, command: Callable[..., T], *arguments: Any) -> T:
        """Through the guard; with memory:// there is nothing to guard."""
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
    """What is left of a limit, and until when, as header fields."""
    return {
        "X-RateLimit-Limit": str(item.amount),
        "X-RateLimit-Remaining": str(left),
        "X-RateLimit-Reset": str(math.ceil(time.time()) + seconds),
    }


def _requests(requests: int) -> str:
    return f"{requests} request" + ("" if requests == 1 else "s")


def _quoted(identity: tuple[str, ...]) -> tuple[str, ...]:
    """Names without the characters that have a meaning in the library's keys: / { }."""
    return tuple(quote(name, safe="@:") for name in identity)


def shared_limiter(app: Flask, link: RedisLink) -> Limiter:
    """flask-limiter on the same Redis as the cache. Its own limits stay empty: it counts when the
    pipeline says so, after authentication, and never by itself before."""
    url, options = "memory://", {}
    if link.client is not None:
        url, options = "link://", {"client": link.client}
        link.exercise = count_as_the_limiter
    return Limiter(
        key_func=lambda: "", app=app, strategy=STRATEGY, storage_uri=url, storage_options=options
    )
