"""Sliding windows: count one more request, and read what is left of a limit, in one Redis query.

The `limits` library counts with one script and reads with another. Here both run as one script, so
that a response can say what is left without a second round trip.
"""

import math
from typing import Any, NamedTuple

from limits import parse
from limits.limits import RateLimitItem
from limits.storage import RedisStorage
from limits.util import get_dependency


class Windows(NamedTuple):
    """Counts of the previous and the current window, and seconds until they no longer count; the
    current one still counts while it is the previous one."""

    previous: int
    previous_rest: float
    current: int
    current_rest: float


class LinkStorage(RedisStorage):
    """Count through the link's client, be it a single Redis, a Sentinel's master or a cluster. The
    library's own storages would open their own connections, that of a cluster at once."""

    STORAGE_SCHEME = ["link"]  # noqa: RUF012 (the library declares it so)

    #: The library's two scripts in sequence; the second one takes the period only. Bytes: for a
    #: string redis-py asks the client for its encoding, which makes a cluster's client connect.
    SCRIPT_TAKE = (
        "local function acquire(ARGV)\n"
        f"{RedisStorage.SCRIPT_ACQUIRE_SLIDING_WINDOW.decode()}\nend\n"
        f"local function look(ARGV)\n{RedisStorage.SCRIPT_SLIDING_WINDOW.decode()}\nend\n"
        "local granted = acquire(ARGV) and 1 or 0\n"
        "return {granted, unpack(look({ARGV[2]}))}"
    )

    def __init__(self, uri: str, client: Any) -> None:
        super(RedisStorage, self).__init__(uri)
        self.target_server, self.dependency = "redis", get_dependency("redis")[0]
        self.key_prefix, self.storage = self.PREFIX, client
        self.initialize_storage(uri)
        self._take = client.register_script(self.SCRIPT_TAKE.encode())

    def take(self, key: str, limit: int, period: int) -> tuple[bool, Windows]:
        """Return whether one more is granted within `limit` in `period` seconds, and the windows
        afterwards."""
        keys = [
            self.prefixed_key(name)
            for name in (self._previous_window_key(key), self._current_window_key(key))
        ]
        granted, previous, previous_ms, current, current_ms = self._take(keys, [limit, period, 1])
        return bool(granted), Windows(
            int(previous or 0),
            max(0, previous_ms) / 1000,
            int(current or 0),
            max(0, current_ms) / 1000,
        )


def take(storage: Any, item: RateLimitItem, identity: tuple[str, ...]) -> tuple[bool, Windows]:
    """Count one unless that exceeds the limit; return whether it did count, and the windows
    afterwards."""
    key, period = item.key_for(*identity), item.get_expiry()
    if isinstance(storage, LinkStorage):
        return storage.take(key, item.amount, period)
    granted = storage.acquire_sliding_window_entry(key, item.amount, period)
    return granted, Windows(*storage.get_sliding_window(key, period))


def counted(windows: Windows, period: int) -> int:
    """Return the current count: the current window, and of the previous one the share that is left.
    The library's scripts in Redis count the same."""
    previous, previous_rest, current, _ = windows
    return math.floor(previous * previous_rest / period) + current


def look(storage: Any, item: RateLimitItem, identity: tuple[str, ...]) -> Windows:
    """Return the windows as they are. One query answers both "one more now?" and "when?"; the
    library's test() and get_window_stats() would be two."""
    return Windows(*storage.get_sliding_window(item.key_for(*identity), item.get_expiry()))


def stored(client: Any, key: str) -> tuple[RateLimitItem, Windows]:
    """The limit and the windows behind a key in Redis, such as "LIMITER/key/ann/1000/1/hour"."""
    amount, _, period = key.split("/")[-3:]
    item = parse(f"{amount}/{period}")
    return item, Windows(*LinkStorage("link://", client).get_sliding_window(key, item.get_expiry()))


def seconds_to_wait(item: RateLimitItem, windows: Windows) -> float:
    """Return the seconds until the sliding window grants one more; 0 if it does now. The inverse of
    `counted`."""
    period = item.get_expiry()
    previous, previous_rest, current, current_rest = windows
    if item.amount == 0:
        return float(period)
    room = item.amount - current  # the previous window's share must stay below it
    if room <= 0:
        return max(0.0, float(current_rest - period))  # it becomes the previous one then
    if previous == 0:
        return 0.0
    return max(0.0, float(previous_rest - room * period / previous))


def remaining(item: RateLimitItem, windows: Windows) -> int:
    """Return how many more the sliding window grants now."""
    return max(0, item.amount - counted(windows, item.get_expiry()))


def seconds_to_change(item: RateLimitItem, windows: Windows) -> float:
    """Return the seconds until the current window ends, after which it counts less and less; if
    nothing is left, until one more is granted."""
    if remaining(item, windows) == 0:
        return seconds_to_wait(item, windows)
    return max(0.0, float(windows.current_rest - item.get_expiry()))


def count_as_the_limiter(client: Any, name: str = "LIMITER/hokusai-probe") -> None:
    """Count twice on a probe's name, so that every branch of the limiter's scripts runs: the second
    window is longer, so the first one counts as over."""
    storage = LinkStorage("link://", client)
    for window in (1, 10):  # seconds
        storage.take(name, 2**31, window)
    storage.get_sliding_window(name, 10)
