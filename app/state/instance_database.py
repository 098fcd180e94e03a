"""The database that the workers of this instance share, without Redis: values and counts.

One SQLite file in the instance's folder, in memory if possible. Each operation takes about 20 µs.
While the file is unusable (a full file system, a removed folder, a damaged file), each worker falls
back to a database in its own memory, and merges it into the file once that is usable again. No
operation raises.
"""

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from app.state.instance_file import InstanceFile, connect

#: File name in the instance's folder.
FILE = "shared.db"

#: Seconds between two removals of expired rows.
SWEEP_INTERVAL = 60.0

P = ParamSpec("P")
T = TypeVar("T")


class InstanceDatabase:
    """The file, or this worker's memory. Safe for threads and for several processes."""

    def __init__(self, file: Path | None, is_ours: bool = True) -> None:
        """`file` is shared by the workers; None keeps everything in this process. If `is_ours` is
        false, it belongs to another instance and is only read."""
        self._guard = threading.Lock()
        self._file = InstanceFile(file, is_ours, self._merge_into) if file else None
        self._memory: sqlite3.Connection | None = None
        self._swept = time.time()

    def __del__(self) -> None:
        """Close the connections: Python 3.13 warns of open ones."""
        if self._memory is not None:
            self._memory.close()
        if self._file is not None:
            self._file.close()

    @property
    def trouble(self) -> str:
        """Why the file is unusable; "" if it works, or there is none."""
        return self._file.trouble if self._file else ""

    def run(
        self,
        operation: Callable[Concatenate[sqlite3.Connection, P], T],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """Run an operation on the file, or on this worker's memory while the file fails."""
        with self._guard:
            if self._file and (connection := self._file.use()):
                try:
                    self._sweep(connection)
                    return operation(connection, *arguments, **named)
                except sqlite3.Error as why:
                    self._file.fail(why)
            self._sweep(self._own())
            return operation(self._own(), *arguments, **named)

    def read_stranded(self, query: Callable[[sqlite3.Connection], dict[str, T]]) -> dict[str, T]:
        """Run the query on a file that can be read but not written; return {} otherwise."""
        if self._file and self.trouble and self._file.last:
            with self._guard, suppress(sqlite3.Error):
                return query(self._file.last)
        return {}

    def _sweep(self, connection: sqlite3.Connection) -> None:
        """Remove expired rows."""
        if time.time() - self._swept > SWEEP_INTERVAL:
            self._swept = time.time()
            of_kept = "delete from kept where until < ? and value is not null"
            for statement in (of_kept, "delete from counts where until < ?"):
                connection.execute(statement, (self._swept,))

    def _own(self) -> sqlite3.Connection:
        """Return this worker's memory, made at first use: a command may never need it."""
        if self._memory is None:
            self._memory = connect(":memory:")
        return self._memory

    def _merge_into(self, file: sqlite3.Connection, before: sqlite3.Connection | None) -> None:
        """Merge the file that was open `before`, and this worker's memory, into a file that was
        just opened, or can be written again."""
        if before is not None:
            with suppress(sqlite3.Error):  # damaged
                _copy(before, file, "max(count, excluded.count)")  # every worker merges the same
        own = self._own()
        _copy(own, file, "count + excluded.count")
        own.execute("delete from kept")
        own.execute("delete from counts")


def execute(connection: sqlite3.Connection, statement: str, *values: Any) -> int:
    """Run one statement; return the number of rows that it changed."""
    return connection.execute(statement, values).rowcount


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, count: str) -> None:
    """Copy all rows; always write. The value with the longer lifetime wins, a deleted one (null) is
    removed, and the SQL expression `count` merges a count that both have."""
    rows = source.execute("select * from kept").fetchall()
    forgotten = [(name,) for name, value, _ in rows if value is None]
    kept = [row for row in rows if row[1] is not None]
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
