"""`revoke`, and who hears of it."""

import subprocess
from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from redis.client import PubSub

from devstack.auth_service.keys import Grant, KeyStore
from tests.devstack.auth_service.running import WAIT_LIMIT

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def listener(own_redis: str) -> Iterator[PubSub]:
    """Someone who listens for revocations, and is known to the server to do so."""
    with Redis.from_url(own_redis) as client, client.pubsub() as listener:
        listener.subscribe("hokusai:auth:revoked")
        assert listener.get_message(timeout=WAIT_LIMIT)["type"] == "subscribe"
        yield listener


def test_it_is_announced(run: Run, store: KeyStore, own_redis: str, listener: PubSub) -> None:
    secret, key = store.create(Grant("ann"), test=True)
    done = run("revoke", key.key_id, REDIS_URL=own_redis)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{key.key_id} of ann is revoked.",
        "Announced on hokusai:auth:revoked; listeners: 1.",
    ]
    assert listener.get_message(timeout=WAIT_LIMIT)["data"] == key.key_id.encode()
    revoked = store.find(secret)
    assert revoked is not None
    assert revoked.revoked_at is not None


def test_it_says_when_nobody_listens(run: Run, store: KeyStore, own_redis: str) -> None:
    _, key = store.create(Grant("ann"), test=True)
    done = run("revoke", key.key_id, "--redis-url", own_redis)
    assert done.returncode == 0
    assert "listeners: 0." in done.stdout


@pytest.mark.parametrize("redis_url", ["", "memory://"])
def test_it_says_when_there_is_no_redis(run: Run, store: KeyStore, redis_url: str) -> None:
    _, key = store.create(Grant("ann"), test=True)
    done = run("revoke", key.key_id, REDIS_URL=redis_url)
    assert done.returncode == 0
    assert "Not announced: REDIS_URL is not set" in done.stdout
    assert store.list()[0].revoked_at is not None


@pytest.mark.parametrize(
    ("redis_url", "complaint"),
    [
        ("redis://ann:secret@127.0.0.1:1", "Redis cannot be reached, or refuses: "),
        ("redis+sentinel://ann:secret@127.0.0.1:1/m", "Redis cannot be reached, or refuses: "),
        ("redis+sentinel://ann:secret@127.0.0.1:1", "REDIS_URL must name the service"),
        ("redis://ann:sec#ret@127.0.0.1:1", "REDIS_URL has a #; percent-encode it"),
    ],
)
def test_a_redis_that_is_away_is_an_error_but_the_key_is_revoked(
    run: Run, store: KeyStore, redis_url: str, complaint: str
) -> None:
    _, key = store.create(Grant("ann"), test=True)
    done = run("revoke", key.key_id, REDIS_URL=redis_url)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "ret@" not in done.stdout + done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert store.list()[0].revoked_at is not None


def test_an_unknown_key_id_is_an_error(run: Run) -> None:
    done = run("revoke", "key_of_nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert "There is no key key_of_nobody." in done.stderr
