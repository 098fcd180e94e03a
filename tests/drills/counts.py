"""How a key's requests are counted: what Redis knows of them, and how many are granted."""

from collections import Counter
from collections.abc import Iterable, Sequence

import redis

from devstack.proxy import Proxy
from tests.drills.load import Client, all_at_once
from tests.wire import bearer, request

#: A small read.
TARGET = "/api/mlflow/api/2.0/mlflow/runs/get?run_id=1"


def ask(proxy: Proxy, secret: str, target: str = TARGET) -> int:
    """The status of one request on a connection of its own, so that any worker may get it."""
    client = Client(proxy.url)
    try:
        return client.ask(request("GET", target, bearer(secret), "Connection: close")).status
    finally:
        client.close()


def counted_in(servers: Iterable["redis.Redis"], key_id: str) -> int:
    """How many requests of a key are counted on these servers."""
    return sum(
        int(server.get(name) or 0)
        for server in servers
        for name in server.scan_iter(f"LIMITS:*/{key_id}/*")
    )


def count_together(
    proxies: Sequence[Proxy], servers: Sequence["redis.Redis"], key: tuple[str, str]
) -> bool:
    """Whether each of some requests is counted on the servers, whichever worker gets it."""
    secret, key_id = key
    before = counted_in(servers, key_id)
    statuses = {ask(proxy, secret) for proxy in proxies for _ in range(12)}
    return statuses == {200} and counted_in(servers, key_id) == before + 12 * len(proxies)


def granted(proxies: Sequence[Proxy], secret: str, each: int) -> "Counter[int]":
    """What so many requests to each of the proxies, all at the same moment, are answered."""
    statuses = all_at_once(
        lambda number: ask(proxies[number % len(proxies)], secret), each * len(proxies)
    )
    return Counter(statuses)
