"""What the workers of this instance share among themselves, without Redis.

One SQLite file in the instance's folder, which is in memory where there is such a place: values
with a lifetime (the verdict cache), and the counts of sliding windows (the limits), in the form
that the `limits` library asks of a storage. Each operation takes some 20 µs.

While the file cannot be used (a full file system, a folder that has vanished, a damaged file), each
worker keeps values and counts in its own memory, and puts them into the file when that can be used
again. No operation raises.
"""

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from math import floor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from limits.storage import Storage
from limits.storage.base import SlidingWindowCounterSupport

from app.state.instance_file import InstanceFile, connect

#: Its name in the instance's folder.
FILE = "shared.db"

#: Seconds between two removals of what has expired.
SWEEP_INTERVAL = 60.0

#: A value that is here and was forgotten: what the file has under its name no longer counts.
FORGOTTEN = None

P = ParamSpec("P")
T = TypeVar("T")

#: By name: value, and until when (epoch seconds).
Rows = dict[str, tuple[bytes | None, float]]


class InstanceStore(Storage, SlidingWindowCounterSupport):
    """Values by name, and sliding windows by name. Safe for threads and for several processes."""

    def __init__(self, file: Path | None, is_ours: bool = True) -> None:
        """`file` is shared by the workers; None keeps everything in this process. Not `is_ours`: it
        is another instance's, to look at."""
        super().__init__()
        self._guard = threading.Lock()
        self._file = InstanceFile(file, is_ours, self._take_over) if file else None
        self._memory: sqlite3.Connection | None = None
        self._swept = time.time()

    def __del__(self) -> None:
        """Python 3.13 warns of a connection that nobody closed."""
        if self._memory is not None:
            self._memory.close()
        if self._file is not None:
            self._file.close()

    @property
    def trouble(self) -> str:
        """Why the file cannot be used; "" where it can, or there is none."""
        return self._file.trouble if self._file else ""

    def look(self) -> str:
        """The trouble, after a try to use the file where it is time for one."""
        self.get_value("")
        return self.trouble

    def get_value(self, name: str) -> bytes | None:
        """The value, None where there is none or its life is over."""
        value, until = self._rows(name, name + "\0").get(name, (None, 0.0))
        return value if until > time.time() else None

    def set_value(self, name: str, value: bytes, seconds: float) -> bool:
        """Keeps a value for some seconds; False where only this worker has it."""
        self._do(_keep, name, value, time.time() + seconds)
        return not self.trouble

    def claim(self, name: str, seconds: float) -> bool:
        """Takes a name for some seconds, if nobody has it: True for one caller among all workers;
        where the file cannot be used, among those of this worker."""
        return self._do(_claim, name, seconds)

    def forget(self, name: str) -> bool:
        """Ends a value or a claim before its time; False where only this worker knows."""
        self._do(self._forget, name)
        return not self.trouble

    def values(self, prefix: str) -> dict[str, bytes]:
        """Those values whose names begin so, by the rest of their names."""
        rows, now = self._rows(prefix, prefix + "\x7f"), time.time()
        return {
            name[len(prefix) :]: value
            for name, (value, until) in rows.items()
            if value is not FORGOTTEN and until > now
        }

    def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Counts `amount` in the window of `expiry` seconds; False if that were over `limit`."""
        return self._do(_acquire, key, limit, expiry, amount)

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """(count of the previous window, seconds until it no longer counts, and the same two of the
        current one, which still counts while it is the previous one)."""
        return self._do(_windows, key, expiry)

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forgets both windows."""
        self._do(_execute, "delete from counts where name = ?", key)

    def _do(
        self,
        operation: Callable[Concatenate[sqlite3.Connection, P], T],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """Runs an operation on the file; on this worker's memory while that cannot be used."""
        with self._guard:
            if self._file and (connection := self._file.use()):
                try:
                    self._sweep(connection)
                    return operation(connection, *arguments, **named)
                except sqlite3.Error as why:
                    self._file.fail(why)
            self._sweep(self._own())
            return operation(self._own(), *arguments, **named)

    def _rows(self, first: str, end: str) -> Rows:
        """The rows from one name up to another. What this worker has in its memory is newer than
        what the file still shows."""
        rows = self._do(_between, first, end)
        if self._file and self.trouble and self._file.last:
            with self._guard, suppress(sqlite3.Error):
                rows = _between(self._file.last, first, end) | rows
        return rows

    def _forget(self, connection: sqlite3.Connection, name: str) -> None:
        if self.trouble:
            _execute(connection, "insert or replace into kept values (?, null, 0)", name)
        else:
            _execute(connection, "delete from kept where name = ?", name)

    def _sweep(self, connection: sqlite3.Connection) -> None:
        """Removes what has expired."""
        if time.time() - self._swept > SWEEP_INTERVAL:
            self._swept = time.time()
            of_kept = "delete from kept where until < ? and value is not null"
            for statement in (of_kept, "delete from counts where until < ?"):
                connection.execute(statement, (self._swept,))

    def _own(self) -> sqlite3.Connection:
        """This worker's memory: a command may never need it."""
        if self._memory is None:
            self._memory = connect(":memory:")
        return self._memory

    def _take_over(self, file: sqlite3.Connection, before: sqlite3.Connection | None) -> None:
        """A file that was just opened, or can be written again, gets what the one `before` had, and
        what this worker has kept meanwhile."""
        if before is not None:
            with suppress(sqlite3.Error):  # damaged
                _copy(before, file, "max(count, excluded.count)")  # each worker brings the same
        own = self._own()
        _copy(own, file, "count + excluded.count")
        own.execute("delete from kept")
        own.execute("delete from counts")

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
        self._do(_execute, "delete from counts")
        return None

    def clear(self, key: str) -> None:
        """Forgets the counts of one name."""
        self._do(_execute, "delete from counts where name = ?", key)


def _execute(connection: sqlite3.Connection, statement: str, *values: Any) -> int:
    """How many rows it changed."""
    return connection.execute(statement, values).rowcount


def _between(connection: sqlite3.Connection, first: str, end: str) -> Rows:
    query = "select name, value, until from kept where name >= ? and name < ?"
    return {name: (value, until) for name, value, until in connection.execute(query, (first, end))}


def _keep(connection: sqlite3.Connection, name: str, value: bytes, until: float) -> None:
    _execute(connection, "insert or replace into kept values (?, ?, ?)", name, value, until)


def _claim(connection: sqlite3.Connection, name: str, seconds: float) -> bool:
    now = time.time()
    statement = (
        "insert into kept values (?, x'', ?) on conflict (name)"
        " do update set value = x'', until = excluded.until where until <= ?"
    )
    return _execute(connection, statement, name, now + seconds, now) > 0


def _acquire(
    connection: sqlite3.Connection, key: str, limit: int, expiry: int, amount: int
) -> bool:
    with connection:
        connection.execute("begin immediate")
        previous, previous_rest, current, _ = _windows(connection, key, expiry)
        if floor(previous * previous_rest / expiry) + current + amount > limit:
            return False
        window = int(time.time() // expiry)
        connection.execute(
            "insert into counts values (?, ?, ?, ?)"
            " on conflict do update set count = count + excluded.count",
            (key, window, amount, (window + 2) * expiry),
        )
        return True


def _windows(
    connection: sqlite3.Connection, key: str, expiry: int
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


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, count: str) -> None:
    """Puts all rows of one into the other, which is written in any case. A newer value stays, and
    one that was forgotten goes; `count` says what becomes of a count that both have."""
    rows = source.execute("select * from kept").fetchall()
    forgotten = [(name,) for name, value, _ in rows if value is FORGOTTEN]
    kept = [row for row in rows if row[1] is not FORGOTTEN]
    counts = source.execute("select * from counts").fetchall()
    with target:
        target.execute("begin immediate")
        target.execute("insert or replace into kept values ('', x'', 0)")
        target.executemany("delete from kept where name = ?", forgotten)
        target.executemany(
            "insert into kept values (?, ?, ?) on conflict (name) do update"
            " set value = excluded.value, until = excluded.until"
            " where excluded.until > kept.until",
            kept,
        )
        target.executemany(
            f"insert into counts values (?, ?, ?, ?) on conflict do update set count = {count}",
            counts,
        )
