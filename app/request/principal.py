"""Principal: who calls, and Verdict: what the auth service said of a key, and when."""

import math
import time
from dataclasses import dataclass
from typing import Any

import orjson

#: Of the stored form. A new version reads another's entries as misses, so that two versions of the
#: proxy can share a Redis during a rollout.
STORED_VERSION = 1

#: Seconds by which a verdict may come from the future, and be believed for longer.
CLOCKS_DIFFER = 10.0


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, as the auth service told. Ids are text, never empty; `limit_per_hour` is a number
    of requests, None for no limit; `expires_at`, in seconds since the epoch, is when the key ends
    by itself, None where that was not told."""

    user_id: str
    key_id: str
    service_id: str
    scopes: frozenset[str]
    limit_per_hour: int | None
    is_admin: bool
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer of the auth service. `principal` is None for an invalid key; `asked_at` is when the
    question was put, in seconds since the epoch: the age of a verdict counts from there, and a
    revocation after it ends it."""

    principal: Principal | None
    asked_at: float

    @property
    def age(self) -> float:
        """Seconds since the auth service was asked. Instances' clocks may differ a little; what
        comes from further ahead, a clock that was set back since, is of no use any more."""
        age = time.time() - self.asked_at
        return max(0.0, age) if age > -CLOCKS_DIFFER else math.inf

    @property
    def is_expired(self) -> bool:
        """Whether a valid key has reached its own end meanwhile."""
        until = self.principal.expires_at if self.principal else None
        return until is not None and time.time() >= until


def dump(verdict: Verdict) -> bytes:
    """The verdict as JSON, for the cache. It holds no key and no hash of one."""
    principal = verdict.principal
    stored: dict[str, Any] = {"v": STORED_VERSION, "at": verdict.asked_at}
    if principal is not None:
        stored |= {
            "user": principal.user_id,
            "key": principal.key_id,
            "service": principal.service_id,
            "scopes": sorted(principal.scopes),
            "limit": principal.limit_per_hour,
            "admin": principal.is_admin,
            "until": principal.expires_at,
        }
    return orjson.dumps(stored)


def parse(stored: bytes) -> Verdict | None:
    """The verdict from the cache; None for what another version, or nobody, could have written."""
    try:
        row = orjson.loads(stored)
        if row["v"] != STORED_VERSION:
            return None
        if "key" not in row:
            return Verdict(None, float(row["at"]))
        scopes = frozenset(row["scopes"])
        principal = Principal(
            row["user"],
            row["key"],
            row["service"],
            scopes,
            row["limit"],
            row["admin"],
            row.get("until"),  # older versions do not write it
        )
        return Verdict(principal, float(row["at"]))
    except (ValueError, TypeError, KeyError):
        return None
