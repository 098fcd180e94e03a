"""The SQLite file of an instance: opened at first use, reopened after it was removed or failed.

SQLite keeps using a file that has been removed, and no other worker sees what is written there. So
a worker checks once in LOOK_INTERVAL whether its files are still in place.
"""

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from app.observability import folders

log = logging.getLogger("hokusai.instance")

#: Seconds between two checks of the files, between two tries after a failure, and between two log
#: lines about failures.
LOOK_INTERVAL, RETRY_INTERVAL, LOG_INTERVAL = 1.0, 5.0, 60.0

TABLES = """
create table if not exists kept (name text primary key, value blob, until real) without rowid;
create table if not exists counts (name text, window integer, count integer, until real,
                                   primary key (name, window)) without rowid;
"""

#: Suffixes of SQLite's files in this mode.
SUFFIXES = ("", "-wal", "-shm")

#: Pages of 4 KiB that SQLite's write-ahead log may hold; by default 1000, 4 MB of a small /dev/shm.
MOST_PAGES = 100

#: The file is damaged, or one of the files was truncated: only a new one helps.
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_SHORT_READ)

#: Mask for the kind in an error code.
PRIMARY = 0xFF

#: Another connection briefly holds the lock.
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

Identity = tuple[tuple[int, int], ...]


class InstanceFile:
    """The file's current connection. Not thread-safe. `on_open` gets each new connection and the
    one before it, or None; it must write, and may raise sqlite3.Error."""

    def __init__(
        self,
        file: Path,
        is_ours: bool,
        on_open: Callable[[sqlite3.Connection, sqlite3.Connection | None], None],
    ) -> None:
        """With `is_ours` the folder may be made and the file replaced, and another user's file is
        not trusted. False for a command, which may be run by root."""
        self._file = file
        self._is_ours = is_ours
        self._on_open = on_open
        #: The last connection; it may still read when it cannot write.
        self.last: sqlite3.Connection | None = None
        self._identity: Identity | None = None
        self._next_look = 0.0
        self._logged, self._is_logged = -LOG_INTERVAL, False
        #: Why the file is unusable; "" if it works.
        self.trouble = ""

    def use(self) -> sqlite3.Connection | None:
        """Return the connection; None while the file is unusable."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_INTERVAL
            if self.trouble or self.last is None or self._identity != self._found():
                self._open()
        return None if self.trouble else self.last

    def fail(self, why: Exception) -> None:
        """Record that the connection failed; it is retried after RETRY_INTERVAL."""
        self._next_look = time.monotonic() + RETRY_INTERVAL
        code = getattr(why, "sqlite_errorcode", 0)
        if (code in DAMAGED or code & PRIMARY in DAMAGED) and self._is_ours:
            if self._identity in (None, self._found()):  # else another worker has replaced it
                self._remove()
            self._next_look = 0.0
        self.trouble = str(why)
        if time.monotonic() > self._logged + LOG_INTERVAL:
            self._logged, self._is_logged = time.monotonic(), True
            log.error("cannot use the instance's store; this worker uses its memory: %s", why)

    def close(self) -> None:
        """Close the connection: Python 3.13 warns of an open one."""
        if self.last is not None:
            self.last.close()
            self.last = None

    def _open(self) -> None:
        """Open the file in place, and test whether it can be written."""
        before = self.last
        try:
            if before is not None and self._identity == self._found():
                self._on_open(before, None)
            else:
                self._connect(before)
        except (sqlite3.Error, OSError) as why:
            self.fail(why)
            return
        self.trouble = ""
        if self._is_logged:
            self._is_logged = False
            log.info("this worker uses the instance's store again")

    def _connect(self, before: sqlite3.Connection | None) -> None:
        if self._is_ours:
            folders.make(self._file.parent)
            self._check_owner()
            if before is not None and self._is_spoilt():
                self._remove()
        connection = connect(str(self._file))
        try:
            if self._is_ours:
                self._on_open(connection, before)
        except sqlite3.Error:
            connection.close()
            raise
        self.last, self._identity = connection, self._found()
        if before is not None:
            if not self.trouble:
                log.warning("the instance's store was removed; this worker has opened a new one")
            before.close()  # deletes no file: SQLite sees that others are in place

    def _is_spoilt(self) -> bool:
        """Whether the file in place is the one that was open, but lost a file beside it, or was
        emptied. Cleaners remove single files. Without its log SQLite fails forever, and without the
        index two processes would each have their own."""
        try:
            place = self._file.stat()
        except OSError:
            return False
        is_the_same = self._identity and (place.st_dev, place.st_ino) == self._identity[0]
        return bool(is_the_same) or not place.st_size

    def _check_owner(self) -> None:
        """Raise PermissionError if another user owns a file: its decisions about keys would be
        untrusted."""
        for suffix in SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                owner = os.lstat(f"{self._file}{suffix}").st_uid
                if owner not in (os.geteuid(), 0):
                    raise PermissionError(f"{self._file.name} belongs to another user")

    def _found(self) -> Identity | None:
        """Return which files are in place; None if one is missing, or the first one empty."""
        try:
            found = [os.stat(f"{self._file}{suffix}") for suffix in SUFFIXES]
        except OSError:
            return None
        return tuple((file.st_dev, file.st_ino) for file in found) if found[0].st_size else None

    def _remove(self) -> None:
        """Remove the damaged files."""
        for suffix in SUFFIXES:
            with contextlib.suppress(OSError):
                os.unlink(f"{self._file}{suffix}")


def connect(file: str) -> sqlite3.Connection:
    """Open a connection to this file, with its tables. Raises sqlite3.Error."""
    connection = sqlite3.connect(file, timeout=0.5, isolation_level=None, check_same_thread=False)
    try:
        _switch_to_wal(connection)
        connection.execute("pragma synchronous = off")
        connection.execute(f"pragma wal_autocheckpoint = {MOST_PAGES}")
        connection.executescript(TABLES)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Let readers run beside a writer. If several processes switch a new file at once, SQLite fails
    with "database is locked" without waiting: 14 times in 60 rounds of 8 processes."""
    deadline = time.monotonic() + 1.0
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError as why:
            if time.monotonic() > deadline or why.sqlite_errorcode & PRIMARY not in LOCKED:
                raise
            time.sleep(0.01)
