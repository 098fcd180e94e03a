"""Limits: requests per key and hour, failed authentications per network, requests in flight.

The counts stand in Redis, shared by all instances, one round trip for each request; a sliding
window, so that no caller gets twice the limit around a full hour.

While Redis is away the limits stay on: each instance grants its part (the limit divided by
INSTANCES, at least 1), counted by its workers together, and goes back to the shared count by
itself. That is the one thing here that is looser in an outage: what an instance grants then is
counted from nothing, and is not added to the shared count afterwards. Requests in flight are
counted by each worker, and need no Redis. authentication.py says what an outage means for who is
let in.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from flask import Flask
from flask_limiter import Limiter
from limits import RateLimitItemPerHour, RateLimitItemPerMinute
from limits.limits import RateLimitItem
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from app.addresses import network
from app.authorization import Permit
from app.errors import Overloaded, RateLimited
from app.instance_store import InstanceStore
from app.metrics import FORWARDING, count_fallback, count_limit
from app.principal import Principal
from app.redis_link import RedisAway, RedisLink

T = TypeVar("T")

STRATEGY = "sliding-window-counter"

#: Which of a key's two counts, each of the size of its limit: that of the requests with the key, or
#: that of all its browser sessions together. One count for each session would multiply the limit by
#: signing in.
Counted = Literal["key", "session"]

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
        shared: Limiter,
        link: RedisLink,
        store: InstanceStore,
        instances: int,
        failure_limit: int,
    ) -> None:
        self._shared = shared
        self._link = link
        self._instances = instances
        self._own = SlidingWindowCounterRateLimiter(store)
        self._failures = RateLimitItemPerMinute(failure_limit)

    def limit(self, permit: Permit, counted: Counted = "key") -> None:
        """Counts one request of a key, or of its browser sessions; RateLimited if it is one too
        many."""
        self.count(permit.principal, counted)

    def count(self, principal: Principal, counted: Counted = "key") -> None:
        """The same for what needs no permit: signing in."""
        if principal.limit_per_hour is None:
            return
        item = RateLimitItemPerHour(principal.limit_per_hour)
        granted = self._hit(item, counted, principal.key_id)
        count_limit(counted, granted)
        if not granted:
            sentence = USED_UP[counted].format(requests=_requests(item.amount))
            raise self._over(item, (counted, principal.key_id), sentence)

    def check_failures(self, client_ip: str) -> None:
        """RateLimited if too many authentications failed lately from this address, or from the /64
        network of an IPv6 address: whoever has one address of it has them all."""
        counted = network(client_ip)
        if self._wait("address", counted, self._failures):
            count_limit("address", False)
            where = f"address ({client_ip})"
            if counted != client_ip:
                where = f"network ({counted}, in which your address {client_ip} lies)"
            raise self._over(
                self._failures,
                ("address", counted),
                f"Too many failed authentications from your {where}.",
            )

    def note_failure(self, client_ip: str) -> None:
        """Counts one failed authentication."""
        self._hit(self._failures, "address", network(client_ip))

    def _hit(self, item: RateLimitItem, *identity: str) -> bool:
        """Counts one, in Redis or by ourselves; False if it is over the limit."""
        names = _quoted(identity)
        try:
            return self._in_redis(self._shared.limiter.hit, item, *names)
        except RedisAway:
            count_fallback(identity[0])
            return self._own.hit(self._own_part(item), *names)

    def _wait(self, kind: str, who: str, item: RateLimitItem) -> float:
        """Seconds until one more would be granted; 0 if it would be now."""
        names = _quoted((kind, who))
        try:
            return self._in_redis(seconds_to_wait, self._shared.storage, item, names)
        except RedisAway:
            return seconds_to_wait(self._own.storage, self._own_part(item), names)

    def _in_redis(self, command: Callable[..., T], *arguments: Any) -> T:
        """Through the guard; with memory:// there is nothing to guard."""
        if self._link.client is None:
            return command(*arguments)
        return self._link.call(command, *arguments)

    def _own_part(self, item: RateLimitItem) -> RateLimitItem:
        return type(item)(max(1, item.amount // self._instances) if item.amount else 0)

    def _over(self, item: RateLimitItem, identity: tuple[str, str], sentence: str) -> RateLimited:
        wait = math.floor(self._wait(*identity, item)) + 1
        return RateLimited(
            f"{sentence} Wait {wait} s and repeat the request.",
            wait,
            {
                "X-RateLimit-Limit": str(item.amount),
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": str(math.ceil(time.time()) + wait),
            },
        )


def seconds_to_wait(storage: Any, item: RateLimitItem, identity: tuple[str, ...]) -> float:
    """When the sliding window grants one more; 0 if it does now.

    The window counts `floor(previous × its rest / period) + current`. One question to the storage
    answers both "now?" and "when?"; the library's test() and get_window_stats() would be two.
    """
    period = item.get_expiry()
    key = item.key_for(*identity)
    previous, previous_rest, current, current_rest = storage.get_sliding_window(key, period)
    if item.amount == 0:
        return float(period)
    room = item.amount - current  # what the previous window's part must stay below
    if room <= 0:
        return max(0.0, float(current_rest - period))  # then it becomes the previous one
    if previous == 0:
        return 0.0
    return max(0.0, float(previous_rest - room * period / previous))


def _requests(requests: int) -> str:
    return f"{requests} request" + ("" if requests == 1 else "s")


def _quoted(identity: tuple[str, ...]) -> tuple[str, ...]:
    """Names without the characters that have a meaning in the library's keys: / { }."""
    return tuple(quote(name, safe="@:") for name in identity)


class LinkStorage(RedisStorage):
    """Counts through the link's client, be it a Redis, a sentinel's master or a cluster. The
    library's own storages would open connections of their own, that of a cluster at once."""

    STORAGE_SCHEME = ["link"]  # noqa: RUF012 (the library declares it so)

    def __init__(self, uri: str, client: Any) -> None:
        super(RedisStorage, self).__init__(uri)
        self.target_server, self.dependency = "redis", self.dependencies["redis"].module
        self.key_prefix, self.storage = self.PREFIX, client
        self.initialize_storage(uri)


def count_as_the_limiter(client: Any) -> None:
    """Counts twice on a name of its own, in a way that takes every branch of the limiter's scripts:
    the second time has a longer window, so that the first one counts as over."""
    storage = LinkStorage("link://", client)
    for window in (1, 10):  # seconds
        storage.acquire_sliding_window_entry("LIMITER/hokusai-probe", 2**31, window)
    storage.get_sliding_window("LIMITER/hokusai-probe", 10)


def shared_limiter(app: Flask, link: RedisLink) -> Limiter:
    """flask-limiter on the same Redis as the cache. Its own limits stay empty: it counts when the
    walk says so, after authentication, and never by itself before."""
    url, options = "memory://", {}
    if link.client is not None:
        url, options = "link://", {"client": link.client}
        link.exercise = count_as_the_limiter
    return Limiter(
        key_func=lambda: "", app=app, strategy=STRATEGY, storage_uri=url, storage_options=options
    )


class InFlight:
    """How many requests this worker is forwarding, in all and for each key: so that one key's slow
    transfers cannot take everybody's place."""

    def __init__(self, per_key: int, in_all: int) -> None:
        self._per_key = per_key
        self._in_all = in_all
        self._guard = threading.Lock()
        self._keys: Counter[str] = Counter()
        self.total = 0

    def take(self, key_id: str) -> "Place":
        """A place among the requests in flight; Overloaded if there is none."""
        with self._guard:
            if self._keys[key_id] >= self._per_key:
                count_limit("in_flight_of_key", False)
                raise Overloaded(
                    f"This API key has {self._per_key} requests under way on this worker, the most "
                    "that one key may have. Let some end, then repeat this one.",
                    1,
                )
            if self.total >= self._in_all:
                count_limit("in_flight", False)
                raise Overloaded("The proxy is busy; repeat the request in a moment.", 1)
            self._keys[key_id] += 1
            self.total += 1
        FORWARDING.inc()
        return Place(self, key_id)

    def give_back(self, key_id: str) -> None:
        """One place less; called by the Place."""
        with self._guard:
            self.total -= 1
            self._keys[key_id] -= 1
            if not self._keys[key_id]:
                del self._keys[key_id]
        FORWARDING.dec()


class Place:
    """One request's place in flight; leaving it twice does nothing."""

    def __init__(self, in_flight: InFlight, key_id: str) -> None:
        self._in_flight: InFlight | None = in_flight
        self._key_id = key_id

    def leave(self) -> None:
        """The request and its response are over."""
        if self._in_flight is not None:
            self._in_flight.give_back(self._key_id)
            self._in_flight = None
