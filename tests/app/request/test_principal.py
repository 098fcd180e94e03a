"""Who calls, and how a decision is stored: without the key, and for this version only."""

import time

import orjson
import pytest

from app.request.principal import Decision, Principal, dump, parse
from tests.app.samples import principal


@pytest.mark.parametrize(
    "decision",
    [
        Decision(principal(), 1_700_000_000.25),
        Decision(principal(limit_per_hour=0), 1.0),
        Decision(principal(limit_per_hour=1000, is_admin=True), 1.0),
        Decision(principal(scopes=frozenset()), 1.0),
        Decision(principal(user_id="Zoë / 北", key_id="k\u00e9y"), 1.0),
        Decision(None, 1_700_000_000.25),
    ],
)
def test_a_decision_is_the_same_after_it_was_stored(decision: Decision) -> None:
    assert parse(dump(decision)) == decision


def stored(**changes: object) -> bytes:
    row = orjson.loads(dump(Decision(principal(), 1.0))) | changes
    return orjson.dumps({name: value for name, value in row.items() if value is not ...})


@pytest.mark.parametrize(
    "entry",
    [
        orjson.dumps({"v": 0, "at": 1.0}),
        orjson.dumps({"v": 2, "at": 1.0}),
        orjson.dumps({"v": "1", "at": 1.0}),
        orjson.dumps({"at": 1.0}),
        orjson.dumps({"v": 1}),
        orjson.dumps({"v": 1, "at": "yesterday"}),
        orjson.dumps({"v": 1, "at": None}),
        orjson.dumps([1]),
        b"1",
        b"null",
        b"",
        b"\x80\x04garbage",
        b'{"v": 1, "at":',
        orjson.dumps({"v": 1, "at": 1.0, "key": "key-1"}),
        orjson.dumps({"v": 1, "at": 1.0, "key": "key-1", "scopes": None}),
    ],
)
def test_what_another_version_or_nobody_wrote_is_no_decision(entry: bytes) -> None:
    assert parse(entry) is None


def test_the_age_counts_from_the_question() -> None:
    assert Decision(None, time.time() - 5).age == pytest.approx(5, abs=0.5)


def test_the_age_is_never_negative_where_clocks_differ() -> None:
    assert Decision(None, time.time() + 5).age == 0.0


def test_a_principal_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        principal().is_admin = True  # type: ignore[misc]


def test_a_principal_has_no_field_for_the_key_itself() -> None:
    fields = {
        "user_id",
        "key_id",
        "service_id",
        "scopes",
        "limit_per_hour",
        "is_admin",
        "expires_at",
        "workspaces",
    }
    assert set(Principal.__slots__) == fields
