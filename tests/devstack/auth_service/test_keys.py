"""The store of the keys."""

import stat
import string
import threading
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from devstack.auth_service.keys import Grant, Key, KeyStore, StoreUnavailable

ANN = Grant("ann")
NOON = 1_900_000_000


class Clock:
    """A clock that only moves when it is told to."""

    now = float(NOON)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(database: Path, clock: Clock) -> KeyStore:
    return KeyStore(database, clock)


def test_a_key_is_found_with_all_that_was_granted(store: KeyStore) -> None:
    networks = (ip_network("203.0.113.0/24"), ip_network("2001:db8::/32"))
    grant = Grant("ann", "Ann Lee", "ann@example.org", ("read",), None, True, networks, NOON)
    secret, key = store.create(grant)
    assert store.find(secret) == key
    assert key.grant == grant


def test_a_wrong_key_is_not_found(store: KeyStore) -> None:
    secret, _ = store.create(ANN)
    assert store.find(secret[:-1]) is None
    assert store.find("") is None


@pytest.mark.parametrize(("test", "prefix"), [(False, "hk_live_"), (True, "hk_test_")])
def test_a_key_is_long_and_says_what_it_is_for(store: KeyStore, test: bool, prefix: str) -> None:
    secret, key = store.create(ANN, test=test)
    assert secret.startswith(prefix)
    assert len(secret) == len(prefix) + 43
    assert set(secret.removeprefix(prefix)) <= set(string.ascii_letters + string.digits)
    assert key.key_id.startswith("key_")


def test_no_file_holds_a_key_or_its_random_part(store: KeyStore, database: Path) -> None:
    secrets = [store.create(ANN, test=True)[0] for _ in range(20)]
    files = [path.read_bytes() for path in database.parent.iterdir()]
    assert any(b"ann" in content for content in files)
    for secret in secrets:
        random_part = secret.removeprefix("hk_test_").encode()
        assert not any(random_part in content for content in files)


def test_only_the_owner_can_read_the_file(store: KeyStore, database: Path) -> None:
    store.create(ANN)
    assert {stat.S_IMODE(path.stat().st_mode) for path in database.parent.iterdir()} == {0o600}


def test_keys_are_listed_in_the_order_of_their_creation(store: KeyStore) -> None:
    created = [store.create(ANN)[1] for _ in range(5)]
    assert list(store.list()) == created


def test_a_revocation_stays_and_keeps_its_first_time(timed: KeyStore, clock: Clock) -> None:
    secret, key = timed.create(ANN)
    revoked = replace(key, revoked_at=NOON)
    assert timed.revoke(key.key_id) == revoked
    clock.now += 100
    assert timed.revoke(key.key_id) == revoked
    assert timed.find(secret) == revoked


def test_an_unknown_key_cannot_be_revoked(store: KeyStore) -> None:
    assert store.revoke("key_of_nobody") is None


@pytest.mark.parametrize(
    ("expires_at", "revoked_at", "state"),
    [
        (None, None, "active"),
        (NOON + 1, None, "active"),
        (NOON, None, "expired"),
        (None, NOON - 9, "revoked"),
        (NOON - 9, NOON - 9, "revoked"),
    ],
)
def test_the_state_of_a_key(expires_at: int | None, revoked_at: int | None, state: str) -> None:
    grant = replace(ANN, expires_at=expires_at)
    assert Key("key_1", grant, created_at=0, revoked_at=revoked_at).state(NOON) == state


def test_threads_look_up_at_the_same_time(store: KeyStore) -> None:
    created = [store.create(replace(ANN, user_id=f"u{n}")) for n in range(8)]
    found: list[Key | None] = []

    def look_up() -> None:
        found.extend(store.find(secret) for secret, _ in created)

    threads = [threading.Thread(target=look_up) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 64
    assert set(found) == {key for _, key in created}


def test_a_file_that_is_no_database_is_refused(database: Path) -> None:
    database.parent.mkdir()
    database.write_text("This is a letter, not a database.\n" * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        KeyStore(database)


def test_a_folder_that_cannot_exist_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable):
        KeyStore(tmp_path / "file" / "keys.db")
