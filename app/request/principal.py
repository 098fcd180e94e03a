"""Principal: who calls. Decision: the auth service's decision about a key, and its time."""

import math
import time
from dataclasses import dataclass
from typing import Any

import orjson

#: The schema version of stored decisions. Entries of another version are misses, so two versions of
#: the proxy can share a Redis during a rollout.
STORED_VERSION = 1

#: Seconds before its end in which the owner of a key is told of it: a week.
SOON = 7 * 86400.0

#: Seconds by which a decision's time may lie in the future; it then lives that much longer.
CLOCKS_DIFFER = 10.0


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller, from the auth service's response. Ids are non-empty text. `limit_per_hour` is a
    number of requests, None for no limit. `expires_at` is when the key expires, in seconds since
    the epoch, None if unknown. `workspaces` are MLflow's, the key's own one first."""

    user_id: str
    key_id: str
    service_id: str
    scopes: frozenset[str]
    limit_per_hour: int | None
    is_admin: bool
    expires_at: float | None = None
    workspaces: tuple[str, ...] = ()

    @property
    def expires_soon(self) -> bool:
        """Whether the key expires within SOON."""
        return self.expires_at is not None and self.expires_at - time.time() < SOON


@dataclass(frozen=True, slots=True)
class Decision:
    """The auth service's decision. `principal` is None for an invalid key. `asked_at` is when the
    validation began, in seconds since the epoch: the decision's age counts from it, and a later
    revocation ends the decision."""

    principal: Principal | None
    asked_at: float

    @property
    def age(self) -> float:
        """Seconds since the validation began. A time slightly in the future counts as 0 (clock
        skew); one further ahead, after a clock was set back, makes the decision unusable."""
        age = time.time() - self.asked_at
        return max(0.0, age) if age > -CLOCKS_DIFFER else math.inf

    @property
    def is_expired(self) -> bool:
        """Whether a valid key has expired since."""
        until = self.principal.expires_at if self.principal else None
        return until is not None and time.time() >= until


def utc(moment: float) -> str:
    """A time in seconds since the epoch, as 2026-11-28T16:40:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def dump(decision: Decision) -> bytes:
    """Serialize a decision for the cache, as JSON without a key or a hash of one."""
    principal = decision.principal
    stored: dict[str, Any] = {"v": STORED_VERSION, "at": decision.asked_at}
    if principal is not None:
        stored |= {
            "user": principal.user_id,
            "key": principal.key_id,
            "service": principal.service_id,
            "scopes": sorted(principal.scopes),
            "limit": principal.limit_per_hour,
            "admin": principal.is_admin,
            "until": principal.expires_at,
            "workspaces": principal.workspaces,
        }
    return orjson.dumps(stored)


def parse(stored: bytes) -> Decision | None:
    """Parse a cached decision; None if malformed or written by another schema version."""
    try:
        row = orjson.loads(stored)
        if row["v"] != STORED_VERSION:
            return None
        if "key" not in row:
            return Decision(None, float(row["at"]))
        scopes = frozenset(row["scopes"])
        principal = Principal(
            row["user"],
            row["key"],
            row["service"],
            scopes,
            row["limit"],
            row["admin"],
            row.get("until"),  # older versions do not write it, nor the next one
            tuple(row.get("workspaces", ())),
        )
        return Decision(principal, float(row["at"]))
    except (ValueError, TypeError, KeyError):
        return None
