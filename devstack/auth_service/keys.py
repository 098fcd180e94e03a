"""The keys, in SQLite. A key itself is never stored, only its hash.

Times are whole seconds since the epoch.
"""

import hashlib
import json
import secrets
import sqlite3
import string
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Literal

PREFIXES = LIVE, TEST = "hk_live_", "hk_test_"
SECRET_LENGTH = 43  # letters and digits: 43 · log2(62) = 256 bits
TIMEOUT = 5.0  # seconds that a call waits while another one writes

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
    created_at          INTEGER NOT NULL,      -- this and the next two: seconds since the epoch
    expires_at          INTEGER,               -- NULL: never
    revoked_at          INTEGER                -- NULL: not revoked
)
"""

State = Literal["active", "expired", "revoked"]
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class StoreUnavailable(Exception):
    """SQLite failed. This says nothing about a key, so never respond with 401."""


@dataclass(frozen=True)
class Grant:
    """Who gets a key, and what it may do.

    `rate_limit_per_hour` counts requests, None means unlimited. `expires_at` None means never. An
    empty `allowed_networks` means every address.
    """

    user_id: str
    user_name: str | None = None
    email: str | None = None
    scopes: tuple[str, ...] = ("read", "write")
    rate_limit_per_hour: int | None = 1000
    is_admin: bool = False
    allowed_networks: tuple[Network, ...] = ()
    expires_at: int | None = None

    @property
    def workspaces(self) -> tuple[str, ...]:
        """The names in scopes such as workspace:team-a, the key's own one first."""
        marked = [scope for scope in self.scopes if scope.startswith("workspace:")]
        return tuple(scope.partition(":")[2] for scope in marked)

    def admits(self, address: Address | None) -> bool:
        """Whether `address` may use the key; an unknown one (None) may only if all may."""
        if not self.allowed_networks:
            return True
        # A dual-stack socket reports an IPv4 client as ::ffff:203.0.113.7 (RFC 4291, 2.5.5.2).
        plain = getattr(address, "ipv4_mapped", None) or address
        return plain is not None and any(plain in network for network in self.allowed_networks)


@dataclass(frozen=True)
class Key:
    """A stored key: what was granted, and its life."""

    key_id: str
    grant: Grant
    created_at: int
    revoked_at: int | None = None

    def state(self, now: float) -> State:
        """The state of the key at `now`."""
        if self.revoked_at is not None:
            return "revoked"
        if self.grant.expires_at is not None and now >= self.grant.expires_at:
            return "expired"
        return "active"


class KeyStore:
    """Creates, finds, lists, changes and revokes keys; safe under several threads and processes.

    Each call opens and closes its own connection. Every method raises StoreUnavailable when SQLite
    fails.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open the store in the file `path`, created if absent."""
        self._path = path
        self._clock = clock
        with _translated():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # readable by its owner only
        with self._connection() as connection:
            connection.execute(TABLE)

    def create(self, grant: Grant, test: bool = False) -> tuple[str, Key]:
        """Make a key and store its hash; return the key, which exists nowhere else, and its row.

        `test` begins the key with hk_test_ instead of hk_live_.
        """
        alphabet = string.ascii_letters + string.digits
        random_part = "".join(secrets.choice(alphabet) for _ in range(SECRET_LENGTH))
        secret = (TEST if test else LIVE) + random_part
        key = Key(f"key_{secrets.token_hex(8)}", grant, created_at=int(self._clock()))
        row = _to_row(key, secret)
        marks = ", ".join(f":{column}" for column in row)
        with self._connection() as connection:
            connection.execute(f"INSERT INTO keys ({', '.join(row)}) VALUES ({marks})", row)
        return secret, key

    def find(self, secret: str) -> Key | None:
        """Return the key with this secret, in any state; None if there is none."""
        with self._connection() as connection:
            query = "SELECT * FROM keys WHERE key_hash = ?"
            row = connection.execute(query, (_hash(secret),)).fetchone()
        return _from_row(row) if row else None

    def find_by_id(self, key_id: str) -> Key | None:
        """Return the key with this id, in any state; None if there is none."""
        with self._connection() as connection:
            query = "SELECT * FROM keys WHERE key_id = ?"
            row = connection.execute(query, (key_id,)).fetchone()
        return _from_row(row) if row else None

    def change(self, key_id: str, grant: Grant) -> Key | None:
        """Replace what is granted to a key. None if there is no such key."""
        columns = _columns(grant)
        new = ", ".join(f"{column} = :{column}" for column in columns)
        with self._connection() as connection:
            values = columns | {"key_id": key_id}
            connection.execute(f"UPDATE keys SET {new} WHERE key_id = :key_id", values)
        return self.find_by_id(key_id)

    def revoke(self, key_id: str) -> Key | None:
        """Revoke for good; a second time changes nothing. None if there is no such key."""
        with self._connection() as connection:
            mark = "UPDATE keys SET revoked_at = ? WHERE key_id = ? AND revoked_at IS NULL"
            connection.execute(mark, (int(self._clock()), key_id))
        return self.find_by_id(key_id)

    def list(self) -> tuple[Key, ...]:
        """Return all keys, the oldest first."""
        with self._connection() as connection:
            query = "SELECT * FROM keys ORDER BY created_at, rowid"
            return tuple(_from_row(row) for row in connection.execute(query))

    def check(self) -> None:
        """Raise StoreUnavailable unless the table can be read."""
        with self._connection() as connection:
            connection.execute("SELECT 1 FROM keys LIMIT 1").fetchone()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection in autocommit mode."""
        with _translated():
            connection = sqlite3.connect(self._path, timeout=TIMEOUT, isolation_level=None)
            with closing(connection):
                connection.row_factory = sqlite3.Row
                yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"The key database cannot be used: {error}") from error


def _hash(secret: str) -> bytes:
    """SHA-256, 32 bytes.

    No salt and no slow hash: those protect passwords that can be guessed. A key of 256 random
    bits cannot be, and each validation has to be quick.
    """
    return hashlib.sha256(secret.encode()).digest()


def _to_row(key: Key, secret: str) -> dict[str, object]:
    """Return the row of a new key. Missing columns are NULL."""
    own = {"key_id": key.key_id, "key_hash": _hash(secret), "created_at": key.created_at}
    return _columns(key.grant) | own


def _columns(grant: Grant) -> dict[str, object]:
    """Return the columns that hold a grant."""
    return asdict(grant) | {
        "scopes": json.dumps(grant.scopes),
        "allowed_networks": json.dumps([str(network) for network in grant.allowed_networks]),
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
    return Key(row["key_id"], grant, row["created_at"], row["revoked_at"])


def iso(seconds: int | None) -> str | None:
    """Seconds since the epoch as 2026-12-31T23:59:59Z; None stays None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
