"""Announcing a revocation, so that the caches of all proxies drop the key at once."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from app.state.redis_client import connect
from app.state.redis_faults import FAILURES, said
from app.state.redis_rights import CHANNEL

TIMEOUT = 1.0  # seconds, for connecting and for an answer


class NotAnnounced(Exception):
    """Nobody was told; the message says why, without the address, which may hold a password."""


def announce(redis_url: str, key_id: str) -> int:
    """Publish `key_id`; returns how many listeners heard it. Raises NotAnnounced."""
    with _client(redis_url) as client:
        return int(client.publish(CHANNEL, key_id))


def reachable(redis_url: str) -> bool:
    """Whether an announcement would get through now: nobody takes an empty one for a key id."""
    try:
        return announce(redis_url, "") >= 0
    except NotAnnounced:
        return False


@contextmanager
def _client(redis_url: str) -> Iterator[Any]:
    """The proxy's own client, without retries: a person can repeat the command."""
    try:
        client = connect(redis_url, TIMEOUT)
    except ValueError as why:
        raise NotAnnounced(f"REDIS_URL {why}") from None
    try:
        with closing(client):
            yield client
    except FAILURES as error:
        raise NotAnnounced(f"Redis cannot be reached, or refuses: {said(error)}") from error
