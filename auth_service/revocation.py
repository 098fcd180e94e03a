"""Announcing a revocation, so that the caches of all proxies drop the key at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

CHANNEL = "hokusai:auth:revoked"
TIMEOUT = 1.0  # seconds, for connecting and for an answer


class NotAnnounced(Exception):
    """Nobody was told; the message says why, without the address, which may hold a password."""


def announce(redis_url: str, key_id: str) -> int:
    """Publish `key_id`; returns how many listeners heard it. Raises NotAnnounced."""
    with _client(redis_url) as client:
        return int(client.publish(CHANNEL, key_id))


def reachable(redis_url: str) -> bool:
    """Whether an announcement would get through now."""
    try:
        with _client(redis_url) as client:
            return bool(client.ping())
    except NotAnnounced:
        return False


@contextmanager
def _client(redis_url: str) -> Iterator[Redis]:
    """A client without retries: a person waits for this command, and can repeat it."""
    try:
        client = Redis.from_url(
            redis_url,
            socket_connect_timeout=TIMEOUT,
            socket_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        raise NotAnnounced("REDIS_URL is not a redis://, rediss:// or unix:// address") from None
    try:
        with client:
            yield client
    except RedisError as error:
        raise NotAnnounced(f"Redis cannot be reached ({type(error).__name__})") from error
