"""Announce a revocation in Redis, so that the caches of all proxies drop the key at once."""

from contextlib import closing

from app.state.redis_client import CHANNEL, connect
from app.state.redis_faults import FAILURES, message_of

TIMEOUT = 1.0  # seconds, to connect and for a response


class NotAnnounced(Exception):
    """No proxy was reached. The message omits the address, which may hold a password."""


def announce(redis_url: str, key_id: str) -> int:
    """Publish `key_id` and return the number of listeners. Raises NotAnnounced.

    It does not retry: a person can repeat the command.
    """
    try:
        client = connect(redis_url, TIMEOUT)
    except ValueError as why:
        raise NotAnnounced(f"REDIS_URL {why}") from None
    try:
        with closing(client):
            return int(client.publish(CHANNEL, key_id))
    except FAILURES as error:
        raise NotAnnounced(f"Redis cannot be reached, or refuses: {message_of(error)}") from error
