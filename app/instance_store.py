"""What the workers of this instance share among themselves, without Redis.

One SQLite file in the instance's folder, which is in memory where there is such a place: values
with a lifetime (the verdict cache), and the counts of sliding windows (the limits), in the form
that the `limits` library asks of a storage. Each operation takes some 20 µs.
"""

import logging
import sqlite3
import threading
import time
from math import floor
from pathlib import Path
from typing import Any

from limits.storage import Storage
from limits.storage.base import SlidingWindowCounterSupport

log = logging.getLogger("hokusai.instance")

#: Its name in the instance's folder.
FILE = "shared.db"

#: Seconds between two removals of what has expired, and between two complaints.
SWEEP_INTERVAL = 60.0

TABLES = """
create table if not exists kept (name text primary key, value blob, until real) without rowid;
create table if not exists counts (name text, window integer, count integer, until real,
                                   primary key (name, window)) without rowid;
"""


class InstanceStore(Storage, SlidingWindowCounterSupport):
    """Values by name, and sliding windows by name. Safe for threads and for several processes."""

    def __init__(self, file: Path | None) -> None:
        """`file` is shared by the workers; None keeps everything in this process."""
        super().__init__()
        self._file = file
        self._guard = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._swept = time.time()
        self._complained = 0.0

    def __del__(self) -> None:
        """Python 3.13 warns of a connection that nobody closed."""
        if self._connection is not None:
            self._connection.close()

    def get_value(self, name: str) -> bytes | None:
        """The value, None where there is none, its life is over, or the file cannot be read."""
        query = "select value from kept where name = ? and until > ?"
        try:
            with self._guard:
                row = self._open().execute(query, (name, time.time())).fetchone()
        except sqlite3.Error as why:
            self._complain("read", why)
            return None
        return row[0] if row else None

    def set_value(self, name: str, value: bytes, seconds: float) -> bool:
        """Keeps a value for some seconds; False where the file cannot be written."""
        until = time.time() + seconds
        try:
            self._write("insert or replace into kept values (?, ?, ?)", name, value, until)
        except sqlite3.Error as why:
            self._complain("written", why)
            return False
        return True

    def claim(self, name: str, seconds: float) -> bool:
        """Takes a name for some seconds, if nobody has it: True for one caller among all workers.
        True for each of them where the file cannot be written: doing it twice beats not at all."""
        now = time.time()
        try:
            with self._guard:
                taken = self._open().execute(
                    "insert into kept values (?, x'', ?) on conflict (name)"
                    " do update set until = excluded.until where until <= ?",
                    (name, now + seconds, now),
                )
        except sqlite3.Error as why:
            self._complain("written", why)
            return True
        return taken.rowcount > 0

    def forget(self, name: str) -> None:
        """Ends a value or a claim before its time."""
        self.set_value(name, b"", -1.0)

    def values(self, prefix: str) -> dict[str, bytes]:
        """Those values whose names begin so, by the rest of their names."""
        query = "select name, value from kept where name >= ? and name < ? and until > ?"
        try:
            with self._guard:
                rows = self._open().execute(query, (prefix, prefix + "\x7f", time.time()))
                return {name[len(prefix) :]: value for name, value in rows}
        except sqlite3.Error as why:
            self._complain("read", why)
            return {}

    def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Counts `amount` in the window of `expiry` seconds; False if that were over `limit`."""
        with self._guard, self._open() as connection:
            connection.execute("begin immediate")
            previous, previous_rest, current, _ = self._windows(connection, key, expiry)
            if floor(previous * previous_rest / expiry) + current + amount > limit:
                return False
            window = int(time.time() // expiry)
            connection.execute(
                "insert into counts values (?, ?, ?, ?)"
                " on conflict do update set count = count + excluded.count",
                (key, window, amount, (window + 2) * expiry),
            )
            return True

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """(count of the previous window, seconds until it no longer counts, and the same two of the
        current one, which still counts while it is the previous one)."""
        with self._guard:
            return self._windows(self._open(), key, expiry)

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forgets both windows."""
        self._write("delete from counts where name = ?", key)

    def _windows(
        self, connection: sqlite3.Connection, key: str, expiry: int
    ) -> tuple[int, float, int, float]:
        now = time.time()
        window = int(now // expiry)
        rest = (window + 1) * expiry - now
        counts = dict(
            connection.execute(
                "select window, count from counts where name = ? and window >= ?", (key, window - 1)
            ).fetchall()
        )
        return counts.get(window - 1, 0), rest, counts.get(window, 0), rest + expiry

    def _open(self) -> sqlite3.Connection:
        """The connection, opened at first use: a command may never need it."""
        if self._connection is None:
            try:
                self._connection = _connect(str(self._file or ":memory:"))
            except sqlite3.Error as why:
                log.error("the instance's store cannot be used (%s); each worker for itself", why)
                self._connection = _connect(":memory:")
        return self._connection

    def _write(self, statement: str, *values: Any) -> None:
        with self._guard:
            self._open().execute(statement, values)
            if time.time() - self._swept > SWEEP_INTERVAL:
                self._swept = time.time()
                for table in ("kept", "counts"):
                    self._open().execute(f"delete from {table} where until < ?", (self._swept,))

    def _complain(self, done: str, why: sqlite3.Error) -> None:
        """Not each time: a full disk would fill the log as well."""
        if time.time() - self._complained > SWEEP_INTERVAL:
            self._complained = time.time()
            log.error("the instance's store cannot be %s: %s", done, why)

    # What else a Storage has to have; the sliding window asks for none of it.

    @property
    def base_exceptions(self) -> type[Exception]:
        """What goes wrong here."""
        return sqlite3.Error

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Not for fixed windows."""
        raise NotImplementedError

    def get(self, key: str) -> int:
        """Not for fixed windows."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        """Not for fixed windows."""
        raise NotImplementedError

    def check(self) -> bool:
        """Always there."""
        return True

    def reset(self) -> int | None:
        """Forgets all counts."""
        self._write("delete from counts")
        return None

    def clear(self, key: str) -> None:
        """Forgets the counts of one name."""
        self._write("delete from counts where name = ?", key)


def _connect(file: str) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=0.5, isolation_level=None, check_same_thread=False)
    _switch_to_wal(connection)
    connection.execute("pragma synchronous = off")
    connection.executescript(TABLES)
    return connection


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Readers beside a writer. Where several processes switch a new file at once, SQLite answers
    "database is locked" without waiting; 14 in 60 rounds of 8 processes."""
    deadline = time.monotonic() + 1.0
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
