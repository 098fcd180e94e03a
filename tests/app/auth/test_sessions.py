"""What stands behind a session's name, and what is believed of it."""

import time
from pathlib import Path
from typing import Any

import pytest
import redis

from app.auth.sessions import PREFIX, Sessions, _name
from app.request.errors import AuthServiceUnavailable, Unauthenticated
from app.request.principal import Decision
from app.state.instance_store import InstanceStore
from app.state.redis_link import RedisLink
from tests.app.samples import principal
from tests.fault_proxy import FaultProxy
from tests.room import no_room
from tests.upstreams import eventually

IP = "198.51.100.7"


@pytest.fixture
def store() -> InstanceStore:
    return InstanceStore.at(None)


def sessions(
    store: InstanceStore, lifetime: float = 60, ended: bool = False, issuer: str = "one"
) -> Sessions:
    """Without Redis; `ended`: every key was revoked; `issuer`: whose keys count."""
    link = RedisLink("memory://", 0.1, 1.0)

    def is_ended(decision: Decision) -> bool:
        return ended

    return Sessions(link, store, issuer=issuer, is_ended=is_ended, lifetime=lifetime, idle=60)


def test_a_session_is_who_began_it(store: InstanceStore) -> None:
    token = sessions(store).begin(principal(), IP, time.time())
    assert sessions(store).principal([token], IP) == principal()


def test_two_sessions_have_two_names_and_end_by_themselves(store: InstanceStore) -> None:
    own = sessions(store)
    first, second = (own.begin(principal(), IP, time.time()) for _ in range(2))
    own.end([first])
    with pytest.raises(Unauthenticated):
        own.principal([first], IP)
    assert own.principal([second], IP) == principal()


@pytest.mark.parametrize(
    ("ended", "began", "ip"),
    [(True, 0, IP), (False, 61, IP), (False, 0, "198.51.100.8"), (False, 0, "")],
    ids=["revoked", "too old", "another address", "no address"],
)
def test_it_is_nobodys_when(store: InstanceStore, ended: bool, began: float, ip: str) -> None:
    token = sessions(store).begin(principal(), IP, time.time() - began)
    with pytest.raises(Unauthenticated):
        sessions(store, ended=ended).principal([token], ip)


def test_it_counts_only_where_the_same_auth_service_decides(store: InstanceStore) -> None:
    """Two deployments may share a Redis."""
    token = sessions(store).begin(principal(), IP, time.time())
    with pytest.raises(Unauthenticated):
        sessions(store, issuer="another").principal([token], IP)


@pytest.mark.parametrize(
    ("began", "now", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_it_is_valid_in_the_network_that_it_began_in(
    store: InstanceStore, began: str, now: str, same: bool
) -> None:
    """A machine changes the second half of its IPv6 address by itself."""
    own = sessions(store)
    token = own.begin(principal(), began, time.time())
    if same:
        assert own.principal([token], now) == principal()
    else:
        with pytest.raises(Unauthenticated):
            own.principal([token], now)


@pytest.mark.parametrize(
    "stored", [b"", b"{}", b"null", b"[1]", b"\xff", b'{"until":1e12,"ip":"x","said":"{}"}']
)
def test_what_nobody_could_have_stored_is_no_session(store: InstanceStore, stored: bytes) -> None:
    store.set_value(_name("token"), stored, 60)
    with pytest.raises(Unauthenticated):
        sessions(store).principal(["token"], IP)


def test_the_name_in_the_store_is_not_the_cookie() -> None:
    assert "secret" not in _name("secret")
    assert _name("secret").startswith(PREFIX)


def test_of_several_the_first_valid_one_counts_and_all_are_ended(store: InstanceStore) -> None:
    own = sessions(store)
    ann = own.begin(principal(user_id="ann"), IP, time.time())
    bob = own.begin(principal(user_id="bob"), IP, time.time())
    assert own.principal(["junk", ann, bob], IP).user_id == "ann"
    assert own.principal([bob, "junk", ann], IP).user_id == "bob"
    own.end(["junk", ann, bob])
    for token in (ann, bob):
        with pytest.raises(Unauthenticated):
            own.principal([token], IP)


# --- neither Redis nor the instance's folder -----------------------------------------------------


@pytest.mark.parametrize("at", ["its own instance", "another one"])
def test_one_that_redis_stored_too_slowly_ends_everywhere(
    store: InstanceStore, redis_server: Any, at: str
) -> None:
    with FaultProxy(redis_server.port) as way:
        link = RedisLink(f"redis://{way.address}/0", 0.3, 60)
        options: Any = {"is_ended": lambda decision: False, "lifetime": 60, "idle": 60}
        own = Sessions(link, store, issuer="one", **options)
        other = Sessions(link, InstanceStore.at(None), issuer="one", **options)
        own.begin(principal(), IP, time.time())  # it connects
        way.delay(0.4)
        token = own.begin(principal(), IP, time.time())
        way.heal()
        with redis.Redis(port=redis_server.port) as client:
            eventually(lambda: client.exists(_name(token)), "its way to Redis")
            (own if at == "its own instance" else other).end([token])
        for each in (own, other):
            with pytest.raises(Unauthenticated):
                each.find([token], IP)
        link.client.close()


@pytest.fixture
def file_store(tmp_path: Path) -> InstanceStore:
    return InstanceStore.at(tmp_path / "shared.db")


def test_no_session_begins_that_other_workers_would_not_know(file_store: InstanceStore) -> None:
    own = sessions(file_store)
    with no_room(), pytest.raises(AuthServiceUnavailable, match="cannot be kept"):
        own.begin(principal(), IP, time.time())


def test_a_session_whose_end_others_would_not_know_is_said_not_to_be_ended(
    file_store: InstanceStore,
) -> None:
    own = sessions(file_store)
    token = own.begin(principal(), IP, time.time())
    with no_room():
        with pytest.raises(AuthServiceUnavailable, match="could not be ended"):
            own.end([token])
        with pytest.raises(Unauthenticated):
            own.principal([token], IP)
