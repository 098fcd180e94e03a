"""Many keys that the proxy already knows, without asking the auth service for each of them."""

import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import redis

from app.auth.cache import VerdictCache
from app.request.principal import Principal, Verdict
from app.state.instance_store import InstanceStore
from app.state.redis_link import RedisLink
from app.state.shared_values import SharedValues
from benchmarks.fakes import LIMIT

T = TypeVar("T")

#: AUTH_CACHE_SECRET of the proxies that are to know the keys.
SECRET = "the benchmark's own secret, for no other use"

#: Seconds for which they are known; a benchmark takes less.
KEPT = 3600

#: Entries that go to Redis at once.
AT_ONCE = 1000


class _Pipelined:
    """Stands in for RedisLink: gathers what is written."""

    away = False

    def __init__(self, client: "redis.Redis") -> None:
        self.client: Any = client.pipeline(transaction=False)

    def call(self, command: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Runs a command, which the pipeline only notes."""
        return command(*arguments, **options)


def key_of(number: int) -> str:
    """As load.lua spells it."""
    return f"hk_test_bench_{number:06d}"


def remember(redis_url: str, count: int, client_ip: str = "127.0.0.1") -> VerdictCache:
    """Writes verdicts for so many keys, as a proxy would that has validated each."""
    link = _Pipelined(redis.Redis.from_url(redis_url))
    cache = VerdictCache(
        SharedValues(cast(RedisLink, link), InstanceStore.at(None)),
        secret=SECRET.encode(),
        ttl=KEPT,
        negative_ttl=10,
        stale_ttl=600,
    )
    for number in range(count):
        principal = Principal(
            user_id="bench",
            key_id=f"key_{number:06d}",
            service_id="platform",
            scopes=frozenset(("read", "write")),
            limit_per_hour=LIMIT,
            is_admin=False,
        )
        digest = cache.digest(key_of(number), client_ip, "platform")
        cache.put(digest, Verdict(principal, time.time()))
        if number % AT_ONCE == AT_ONCE - 1:
            link.client.execute()
    link.client.execute()
    return cache
