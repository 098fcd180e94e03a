"""Times, as people and JSON write them. Inside they are whole seconds since the epoch, in UTC."""

import re
from datetime import UTC, datetime, timedelta

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def iso(seconds: int | None) -> str | None:
    """For example 2026-12-31T23:59:59Z; None stays None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_expiry(text: str, now: datetime) -> int:
    """Read 90d, 12h, 30m or 45s from `now` on, a date (to its end, in UTC), or an ISO time.

    A time without a zone is taken for UTC. Raises ValueError for anything else, and for what is
    not after `now`.
    """
    moment = _after(text, now) or _at(text)
    if moment <= now:
        raise ValueError("lies in the past")
    return int(moment.timestamp())


def _after(text: str, now: datetime) -> datetime | None:
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    return now + timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None


def _at(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("is not like 2026-12-31, 2026-12-31T12:00Z, 90d or 12h") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        moment += timedelta(days=1, seconds=-1)
    return moment
