"""The auth service's response: the fields about a valid key, Retry-After. A malformed field is
refused."""

import logging
import math
import re
import time
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

from app.request.errors import RateLimited
from app.request.principal import Principal

log = logging.getLogger("hokusai.auth")

#: The longest id, in characters. A longer one is refused, not cut: a revocation names all of it.
LONGEST = 256

#: A workspace's name, as MLflow takes one (mlflow/store/workspace/abstract_store.py).
WORKSPACE = re.compile(r"[a-z0-9][-a-z0-9]{0,61}[a-z0-9]")

#: Numbers between these are seconds since the epoch: not a date (20300101), not milliseconds.
SOME_TIME, FAR_AWAY = 10**9, 10**11


def read_principal(answer: dict[str, Any], service_id: str) -> Principal:
    """Build the principal from a positive response; ValueError names the unusable field."""
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
        workspaces=_workspaces(answer.get("workspaces"), scopes),
    )


def _identifier(value: object, name: str) -> str:
    """Convert an id to text. Never empty: keys with an empty id would share or escape a limit."""
    text = "" if isinstance(value, bool) or not isinstance(value, str | int) else str(value).strip()
    if not 0 < len(text) <= LONGEST:
        raise ValueError(name)
    return text


def _workspaces(value: object, scopes: list[str]) -> tuple[str, ...]:
    """The names in the answer's list, then those of scopes such as workspace:team-a, each once. A
    name that MLflow cannot have grants nothing, as an unknown scope does."""
    listed = [] if value is None else value
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise ValueError("workspaces")
    prefix = "workspace:"
    of_scopes = [scope.removeprefix(prefix) for scope in scopes if scope.startswith(prefix)]
    names = dict.fromkeys([*listed, *of_scopes])
    return tuple(name for name in names if WORKSPACE.fullmatch(name))


def _limit(value: object) -> int | None:
    """Parse requests per hour; null means no limit, a malformed value raises ValueError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**31:
        raise ValueError("rate_limit_per_hour")
    return int(value)


def _time(value: object) -> float | None:
    """Parse a time, in seconds since the epoch or in ISO 8601 with a zone. None for anything else,
    as if the field were absent; then a session may outlive its key, so it is logged."""
    if not value:
        return None
    if isinstance(value, int | float) and SOME_TIME < value < FAR_AWAY:
        return float(value)
    try:
        parsed = datetime.fromisoformat(str(value))
    except ValueError:
        parsed = datetime.min
    if parsed.tzinfo:  # Go's zero time (year 1) is none
        return parsed.timestamp() if parsed.timestamp() > SOME_TIME else None
    _say_that_it_is_unread()
    return None


@cache
def _say_that_it_is_unread() -> None:
    """Log once per worker."""
    log.warning(
        "the auth service's expires_at is not ISO 8601 with a time zone and is ignored: browser "
        "sessions may outlive their key"
    )


def throttled(seconds: int) -> RateLimited:
    """The error for callers while the auth service throttles validations."""
    return RateLimited(
        "The auth service is throttling validations; repeat the request later.", seconds
    )


def retry_after_seconds(value: str, default: int) -> int:
    """Parse a Retry-After, a number or a date, to whole seconds from 1 to 3600."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            seconds = default
    if not math.isfinite(seconds):
        seconds = default
    return int(min(max(1.0, -(-seconds // 1)), 3600.0))
