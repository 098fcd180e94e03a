"""Values with a lifetime, shared by the workers of this instance without Redis."""

import sqlite3
import time
from pathlib import Path

from app.state.instance_database import InstanceDatabase, execute

#: By name: value, and expiry (epoch seconds). None marks a value that this worker deleted while the
#: file could not be written: it overrides the value in the file.
Rows = dict[str, tuple[bytes | None, float]]


class InstanceStore:
    """Values by name. No operation raises: see instance_database.py."""

    def __init__(self, database: InstanceDatabase) -> None:
        self._database = database

    @classmethod
    def at(cls, file: Path | None, is_ours: bool = True) -> "InstanceStore":
        """Make a store with its own database."""
        return cls(InstanceDatabase(file, is_ours))

    @property
    def trouble(self) -> str:
        """Why the shared file is unusable; "" if it works, or there is none."""
        return self._database.trouble

    def check(self) -> str:
        """Return the trouble, after a retry of the file if one is due."""
        self.get_value("")
        return self.trouble

    def get_value(self, name: str) -> bytes | None:
        """Return the value; None if there is none or it has expired."""
        value, until = self._rows(name, name + "\0").get(name, (None, 0.0))
        return value if until > time.time() else None

    def set_value(self, name: str, value: bytes, seconds: float) -> bool:
        """Keep a value for some seconds; return False if only this worker has it."""
        self._database.run(_keep, name, value, time.time() + seconds)
        return not self.trouble

    def claim(self, name: str, seconds: float) -> bool:
        """Claim a free name for some seconds. Return True for one caller among all workers, or
        among those of this worker while the file is unusable."""
        return self._database.run(_claim, name, seconds)

    def forget(self, name: str) -> bool:
        """Delete a value or a claim; return False if only this worker knows."""
        self._database.run(self._forget, name)
        return not self.trouble

    def values(self, prefix: str) -> dict[str, bytes]:
        """Return the values whose names begin with `prefix`, by the rest of their names."""
        rows, now = self._rows(prefix, prefix + "\x7f"), time.time()
        return {
            name[len(prefix) :]: value
            for name, (value, until) in rows.items()
            if value is not None and until > now
        }

    def _rows(self, first: str, end: str) -> Rows:
        """Return the rows from one name up to another. This worker's memory is newer than a file
        that can only be read."""
        rows = self._database.run(_between, first, end)
        return self._database.read_stranded(lambda file: _between(file, first, end)) | rows

    def _forget(self, connection: sqlite3.Connection, name: str) -> None:
        if self.trouble:
            execute(connection, "insert or replace into kept values (?, null, 0)", name)
        else:
            execute(connection, "delete from kept where name = ?", name)


def _between(connection: sqlite3.Connection, first: str, end: str) -> Rows:
    query = "select name, value, until from kept where name >= ? and name < ?"
    return {name: (value, until) for name, value, until in connection.execute(query, (first, end))}


def _keep(connection: sqlite3.Connection, name: str, value: bytes, until: float) -> None:
    execute(connection, "insert or replace into kept values (?, ?, ?)", name, value, until)


def _claim(connection: sqlite3.Connection, name: str, seconds: float) -> bool:
    now = time.time()
    statement = (
        "insert into kept values (?, x'', ?) on conflict (name)"
        " do update set value = x'', until = excluded.until where until <= ?"
    )
    return execute(connection, statement, name, now + seconds, now) > 0
