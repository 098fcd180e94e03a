"""Keys as JSON and as a table, without the key itself, which nobody has."""

from collections.abc import Sequence
from typing import Any

from devstack.auth_service.keys import Key
from devstack.auth_service.times import iso

COLUMNS = ("key id", "user", "scopes", "limit", "created", "expires", "last used", "state")


def describe(key: Key, now: float) -> dict[str, Any]:
    """All that is known of `key`, ready for JSON; its state is that at `now` (epoch seconds)."""
    grant = key.grant
    return {
        "key_id": key.key_id,
        "user_id": grant.user_id,
        "name": grant.user_name,
        "email": grant.email,
        "scopes": list(grant.scopes),
        "rate_limit_per_hour": grant.rate_limit_per_hour,
        "is_admin": grant.is_admin,
        "allowed_ips": [str(network) for network in grant.allowed_networks],
        "created_at": iso(key.created_at),
        "expires_at": iso(grant.expires_at),
        "last_used_at": iso(key.last_used_at),
        "revoked_at": iso(key.revoked_at),
        "state": key.state(now),
    }


def table(keys: Sequence[Key], now: float) -> str:
    """One line per key under a heading; times in UTC, to the minute."""
    rows = [COLUMNS, *(_row(key, now) for key in keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(key: Key, now: float) -> tuple[str, ...]:
    grant = key.grant
    scopes = (*grant.scopes, "(admin)") if grant.is_admin else grant.scopes
    return (
        key.key_id,
        grant.user_id,
        ",".join(scopes) or "none",
        "none" if grant.rate_limit_per_hour is None else f"{grant.rate_limit_per_hour}/h",
        _minute(key.created_at),
        _minute(grant.expires_at),
        _minute(key.last_used_at),
        key.state(now),
    )


def _minute(seconds: int | None) -> str:
    text = iso(seconds)
    return "never" if text is None else f"{text[:16]}Z".replace("T", " ")
