"""Counts of sliding windows, shared by the workers of this instance while Redis is unavailable."""

import sqlite3
import time

from limits.storage import Storage
from limits.storage.base import SlidingWindowCounterSupport

from app.state.instance_database import InstanceDatabase, execute
from app.state.windows import Windows, counted


class WindowCounts(Storage, SlidingWindowCounterSupport):
    """The counts, as a storage for the `limits` library."""

    def __init__(self, database: InstanceDatabase) -> None:
        super().__init__()
        self._database = database

    def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Count `amount` in the window of `expiry` seconds; False if that would exceed `limit`."""
        return self._database.run(_acquire, key, limit, expiry, amount)

    def get_sliding_window(self, key: str, expiry: int) -> Windows:
        """Return the counts of both windows, and when they end."""
        return self._database.run(_windows, key, expiry)

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Delete both windows."""
        self.clear(key)

    def clear(self, key: str) -> None:
        """Delete the counts of one name."""
        self._database.run(execute, "delete from counts where name = ?", key)

    def reset(self) -> int | None:
        """Delete all counts."""
        self._database.run(execute, "delete from counts")
        return None

    def check(self) -> bool:
        """Return True: the storage is always available."""
        return True

    @property
    def base_exceptions(self) -> type[Exception]:
        """The exceptions that the database raises."""
        return sqlite3.Error

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Fixed windows are not supported."""
        raise NotImplementedError

    def get(self, key: str) -> int:
        """Fixed windows are not supported."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        """Fixed windows are not supported."""
        raise NotImplementedError


def _acquire(
    connection: sqlite3.Connection, key: str, limit: int, expiry: int, amount: int
) -> bool:
    with connection:
        connection.execute("begin immediate")
        if counted(_windows(connection, key, expiry), expiry) + amount > limit:
            return False
        window = int(time.time() // expiry)
        connection.execute(
            "insert into counts values (?, ?, ?, ?)"
            " on conflict do update set count = count + excluded.count",
            (key, window, amount, (window + 2) * expiry),
        )
        return True


def _windows(connection: sqlite3.Connection, key: str, expiry: int) -> Windows:
    now = time.time()
    window = int(now // expiry)
    rest = (window + 1) * expiry - now
    query = "select window, count from counts where name = ? and window >= ?"
    counts = dict(connection.execute(query, (key, window - 1)).fetchall())
    return Windows(counts.get(window - 1, 0), rest, counts.get(window, 0), rest + expiry)
