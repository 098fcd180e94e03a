"""When a key expires, read and written."""

from datetime import UTC, datetime

import pytest
from click import BadParameter

from devstack.auth_service.__main__ import expiry
from devstack.auth_service.keys import iso

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("45s", "2026-03-01T12:00:45Z"),
        ("30m", "2026-03-01T12:30:00Z"),
        ("12h", "2026-03-02T00:00:00Z"),
        ("90d", "2026-05-30T12:00:00Z"),
        ("2026-12-31", "2026-12-31T23:59:59Z"),
        ("2026-03-01", "2026-03-01T23:59:59Z"),
        ("2026-12-31T12:00", "2026-12-31T12:00:00Z"),
        ("2026-12-31T12:00Z", "2026-12-31T12:00:00Z"),
        ("2026-12-31T12:00+02:00", "2026-12-31T10:00:00Z"),
    ],
)
def test_an_expiry_is_read(text: str, time: str) -> None:
    assert iso(expiry(text, NOW)) == time


@pytest.mark.parametrize("text", ["0d", "2026-02-28", "2026-03-01T12:00Z", "1999-01-01"])
def test_an_expiry_in_the_past_is_refused(text: str) -> None:
    with pytest.raises(BadParameter, match="lies in the past"):
        expiry(text, NOW)


@pytest.mark.parametrize("text", ["", "soon", "90", "-1d", "1w", "2026-02-30", "1234567d"])
def test_what_is_no_expiry_is_refused(text: str) -> None:
    with pytest.raises(BadParameter, match="is not like"):
        expiry(text, NOW)


def test_no_time_is_none() -> None:
    assert iso(None) is None
