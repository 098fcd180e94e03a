"""What the auth service says of a valid key, field by field. Nothing odd is taken for a yes."""

import logging
from datetime import datetime
from functools import cache
from typing import Any

from app.request.principal import Principal

log = logging.getLogger("hokusai.auth")

#: Characters of an id. A longer one is not cut: a revocation names the whole.
LONGEST = 256

#: Numbers between these are seconds since the epoch, and no date, nor milliseconds.
SOME_TIME, FAR_AWAY = 10**9, 10**11


def read_principal(answer: dict[str, Any], service_id: str) -> Principal:
    """The principal in a positive answer; ValueError names the field that cannot be used."""
    user = answer.get("user")
    nested_id = user.get("id") if isinstance(user, dict) else None
    scopes = answer.get("scopes") or []
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise ValueError("scopes")
    return Principal(
        user_id=_identifier(answer.get("user_id") or nested_id, "user_id"),
        key_id=_identifier(answer.get("key_id"), "key_id"),
        service_id=_identifier(answer.get("service_id") or service_id, "service_id"),
        scopes=frozenset(scopes),
        limit_per_hour=_limit(answer.get("rate_limit_per_hour")),
        is_admin=answer.get("is_admin") is True,
        expires_at=_time(answer.get("expires_at")),
    )


def _identifier(value: object, name: str) -> str:
    """An id as text. Never empty: an empty id would share one limit, or escape it."""
    text = "" if isinstance(value, bool) or not isinstance(value, str | int) else str(value).strip()
    if not 0 < len(text) <= LONGEST:
        raise ValueError(name)
    return text


def _limit(value: object) -> int | None:
    """A number of requests an hour; null is no limit, anything odd is not."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**31:
        raise ValueError("rate_limit_per_hour")
    return int(value)


def _time(value: object) -> float | None:
    """A time in seconds since the epoch, as such or in ISO 8601 with its zone. None for anything
    else, as for a field that is not known; the log says so, for a session would outlive its key."""
    if not value:
        return None
    if isinstance(value, int | float) and SOME_TIME < value < FAR_AWAY:
        return float(value)
    try:
        said = datetime.fromisoformat(str(value))
    except ValueError:
        said = datetime.min
    if said.tzinfo:
        return said.timestamp()
    _say_that_it_is_unread()
    return None


@cache
def _say_that_it_is_unread() -> None:
    """Once a worker."""
    log.warning(
        "the auth service's expires_at is no time in ISO 8601 with its zone and is not used: "
        "browser sessions may outlive their key"
    )
