"""Revoked keys, on a Redis channel: hears of them and ends their verdicts, and announces them.

While it cannot listen, a verdict's lifetime is the bound; it tries again once a second.
"""

import logging
import math
import threading
import time

from app.redis_link import FAILURES, RedisLink
from app.verdict_cache import VerdictCache

CHANNEL = "hokusai:auth:revoked"

#: Seconds between two pings on a silent subscription, and of silence until another one is begun:
#: after a fail-over the old master may be frozen, and must not be listened to for long.
PING_INTERVAL, SILENCE = 1.0, 3.0

#: Seconds for which an announcement waits for this process's own subscription.
PATIENCE = 2.0

log = logging.getLogger("hokusai.revocations")


class NotAnnounced(Exception):
    """Nobody was told; the message says why, and what to do."""


class Revocations:
    """The listener of one worker, in a thread of its own."""

    def __init__(self, link: RedisLink, cache: VerdictCache) -> None:
        self._link = link
        self._cache = cache
        self.listening = threading.Event()

    def start(self) -> None:
        """Listens until the process ends; nothing to do without Redis."""
        if self._link.client is not None:
            threading.Thread(target=self._run, name="revocations", daemon=True).start()

    def announce(self, key_id: str) -> int:
        """Ends all verdicts about this key; returns how many workers hear it, without this process.

        Whoever does not hear it finds the mark that is left in Redis before. Raises NotAnnounced.
        """
        if self._link.client is None:
            raise NotAnnounced(
                "REDIS_URL is memory://, and no other process can reach the proxy's memory; "
                "restart the proxy instead."
            )
        if not self.listening.wait(PATIENCE):
            raise NotAnnounced("Redis cannot be reached; repeat the command.")
        self._cache.revoke(key_id)
        try:
            listeners = self._link.client.publish(CHANNEL, key_id)
        except FAILURES as why:
            reason = type(why).__name__
            raise NotAnnounced(f"Redis fails ({reason}); repeat the command.") from why
        return int(listeners) - 1

    def _run(self) -> None:
        while True:
            try:
                self._listen()
            except FAILURES as why:
                log.debug("not listening: %s", type(why).__name__)
            except Exception:  # a defect; without this thread no revocation would be heard again
                log.exception("the listener failed, and begins again")
            self.listening.clear()
            self._cache.note_hearing(math.inf, 0.0)
            time.sleep(1.0)

    def _listen(self) -> None:
        """One subscription, until it breaks, or nothing is heard any more."""
        with self._link.client.pubsub(ignore_subscribe_messages=False) as channel:
            channel.subscribe(CHANNEL)
            since, heard = math.inf, time.monotonic()
            while time.monotonic() - heard < SILENCE:
                message = channel.get_message(timeout=PING_INTERVAL)
                if message is None:
                    channel.ping()
                    continue
                heard = time.monotonic()
                if message["type"] == "subscribe":
                    since = time.time()
                    self.listening.set()
                elif message["type"] == "message":
                    self._end(message["data"])
                self._cache.note_hearing(since, heard + SILENCE)

    def _end(self, data: bytes) -> None:
        key_id = data.decode("utf-8", "replace").strip()
        if key_id:
            self._cache.revoke(key_id)
            log.info("key %s is revoked", key_id)
