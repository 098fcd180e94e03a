"""The keys, in SQLite. A key itself is never stored, only its hash."""

import hashlib
import json
import secrets
import sqlite3
import string
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Literal

from devstack.auth_service import schema
from devstack.auth_service.errors import StoreUnavailable
from devstack.auth_service.grant import Grant

LIVE_PREFIX = "hk_live_"
TEST_PREFIX = "hk_test_"
SECRET_LENGTH = 43  # letters and digits: 43 · log2(62) = 256 bits
LAST_USED_INTERVAL = 60  # seconds between two writes of `last_used_at` for one key
WRITE_WAIT = 5.0  # seconds that a command waits for another writer

State = Literal["active", "expired", "revoked"]


@dataclass(frozen=True)
class Key:
    """A stored key: what was granted, and its life. Times are seconds since the epoch."""

    key_id: str
    grant: Grant
    created_at: int
    revoked_at: int | None = None
    last_used_at: int | None = None

    def state(self, now: float) -> State:
        """What the key is worth at `now`, in seconds since the epoch."""
        if self.revoked_at is not None:
            return "revoked"
        if self.grant.expires_at is not None and now >= self.grant.expires_at:
            return "expired"
        return "active"


class KeyStore:
    """Creates, finds, lists and revokes keys; safe under several threads and processes.

    Each thread looks up over a read-only connection of its own; each write opens and closes its
    own. So nothing is shared, and nothing crosses a fork unless a lookup came before it.
    Every method raises StoreUnavailable when SQLite fails.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open the store in the file `path`, created if absent. `clock` gives epoch seconds."""
        self._path = path
        self._clock = clock
        self._thread = threading.local()
        with _translated():
            schema.prepare(path)

    def create(self, grant: Grant, test: bool = False) -> tuple[str, Key]:
        """Make a key and store its hash; returns the key, which exists nowhere else, and its row.

        `test` gives it the prefix that says it is for tests.
        """
        secret = _random_key(TEST_PREFIX if test else LIVE_PREFIX)
        key = Key(f"key_{secrets.token_hex(8)}", grant, created_at=int(self._clock()))
        with self._writer() as connection:
            connection.execute(_INSERT, _to_row(key, secret))
        return secret, key

    def find(self, secret: str) -> Key | None:
        """The key with this secret, in whatever state it is; None if there is none."""
        with _translated():
            query = "SELECT * FROM keys WHERE key_hash = ?"
            row = self._reader().execute(query, (_hash(secret),)).fetchone()
        return _from_row(row) if row else None

    def revoke(self, key_id: str) -> Key | None:
        """Revoke for good; a second time changes nothing. None if there is no such key."""
        with self._writer() as connection:
            mark = "UPDATE keys SET revoked_at = ? WHERE key_id = ? AND revoked_at IS NULL"
            connection.execute(mark, (int(self._clock()), key_id))
            row = connection.execute("SELECT * FROM keys WHERE key_id = ?", (key_id,)).fetchone()
        return _from_row(row) if row else None

    def list(self) -> tuple[Key, ...]:
        """All keys, the oldest first."""
        with _translated():
            query = "SELECT * FROM keys ORDER BY created_at, rowid"
            return tuple(_from_row(row) for row in self._reader().execute(query))

    def touch(self, key: Key) -> None:
        """Note that `key` was used: at most once a minute, and never waiting for another writer.

        A write that would have to wait is left out; the next use tries again.
        """
        now = int(self._clock())
        if key.last_used_at is not None and now - key.last_used_at < LAST_USED_INTERVAL:
            return
        try:
            with self._writer(wait=0.0) as connection:
                connection.execute("PRAGMA synchronous = NORMAL")  # not worth an fsync
                # The condition again, for the uses that read the old row at the same moment.
                mark = "UPDATE keys SET last_used_at = ? WHERE key_id = ?"
                since = "AND coalesce(last_used_at, 0) <= ?"
                before = now - LAST_USED_INTERVAL
                connection.execute(f"{mark} {since}", (now, key.key_id, before))
        except StoreUnavailable:
            return

    def check(self) -> None:
        """Raise StoreUnavailable unless the table can be read."""
        with _translated():
            self._reader().execute("SELECT 1 FROM keys LIMIT 1").fetchone()

    def close(self) -> None:
        """Close this thread's connection, if it has one; the next lookup opens another."""
        connection = self._thread.__dict__.pop("reader", None)
        if connection is not None:
            connection.close()

    def _reader(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._thread, "reader", None)
        if connection is None:
            connection = _connect(self._path, WRITE_WAIT)
            connection.execute("PRAGMA query_only = ON")
            self._thread.reader = connection
        return connection

    @contextmanager
    def _writer(self, wait: float = WRITE_WAIT) -> Iterator[sqlite3.Connection]:
        with _translated(), closing(_connect(self._path, wait)) as connection:
            yield connection


_INSERT = (
    "INSERT INTO keys VALUES (:key_id, :key_hash, :user_id, :user_name, :email, :scopes,"
    " :rate_limit_per_hour, :is_admin, :allowed_networks, :created_at, :expires_at,"
    " :revoked_at, :last_used_at)"
)


def _connect(path: Path, wait: float) -> sqlite3.Connection:
    """A connection in autocommit mode that waits up to `wait` seconds for another's lock."""
    connection = sqlite3.connect(path, timeout=wait, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"The key database cannot be used: {error}") from error


def _random_key(prefix: str) -> str:
    alphabet = string.ascii_letters + string.digits
    return prefix + "".join(secrets.choice(alphabet) for _ in range(SECRET_LENGTH))


def _hash(secret: str) -> bytes:
    """SHA-256, 32 bytes.

    No salt and no slow hash: those protect passwords that can be guessed. A key of 256 random
    bits cannot be, and each validation has to be quick.
    """
    return hashlib.sha256(secret.encode()).digest()


def _to_row(key: Key, secret: str) -> dict[str, object]:
    grant = key.grant
    return {
        "key_id": key.key_id,
        "key_hash": _hash(secret),
        "user_id": grant.user_id,
        "user_name": grant.user_name,
        "email": grant.email,
        "scopes": json.dumps(grant.scopes),
        "rate_limit_per_hour": grant.rate_limit_per_hour,
        "is_admin": int(grant.is_admin),
        "allowed_networks": json.dumps([str(network) for network in grant.allowed_networks]),
        "created_at": key.created_at,
        "expires_at": grant.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
    }


def _from_row(row: sqlite3.Row) -> Key:
    grant = Grant(
        user_id=row["user_id"],
        user_name=row["user_name"],
        email=row["email"],
        scopes=tuple(json.loads(row["scopes"])),
        rate_limit_per_hour=row["rate_limit_per_hour"],
        is_admin=bool(row["is_admin"]),
        allowed_networks=tuple(map(ip_network, json.loads(row["allowed_networks"]))),
        expires_at=row["expires_at"],
    )
    return Key(row["key_id"], grant, row["created_at"], row["revoked_at"], row["last_used_at"])
