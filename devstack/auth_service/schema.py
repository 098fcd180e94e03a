"""The SQLite file: its one table, and how it comes into being."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

TABLE = """
CREATE TABLE IF NOT EXISTS keys (
    key_id              TEXT PRIMARY KEY,
    key_hash            BLOB NOT NULL UNIQUE,  -- SHA-256 of the key, 32 bytes
    user_id             TEXT NOT NULL,
    user_name           TEXT,
    email               TEXT,
    scopes              TEXT NOT NULL,         -- JSON list of strings
    rate_limit_per_hour INTEGER,               -- NULL: unlimited
    is_admin            INTEGER NOT NULL,      -- 0 or 1
    allowed_networks    TEXT NOT NULL,         -- JSON list of CIDR strings; empty: every address
    created_at          INTEGER NOT NULL,      -- this and the next three: seconds since the epoch
    expires_at          INTEGER,               -- NULL: never
    revoked_at          INTEGER,               -- NULL: not revoked
    last_used_at        INTEGER                -- NULL: not used yet; exact to a minute
)
"""


def prepare(path: Path) -> None:
    """Create the file, readable by its owner only, and the table, unless they exist.

    Raises OSError or sqlite3.Error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(path.parent):
        path.touch(mode=0o600)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")  # readers never wait for a writer
            connection.execute(TABLE)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time in.

    Needed because SQLite does not wait, whatever its time-out, when two connections change the
    journal mode of a new file at once: the second fails with "database is locked".
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # which also gives up the lock
