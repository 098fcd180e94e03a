"""Revoked keys, on a Redis channel: hears of them and ends their verdicts, and announces them.

While it cannot listen, a verdict's lifetime is the bound; it tries again once a second.
"""

import logging
import math
import threading
import time
from typing import Any

from app.auth.revocation_marks import RevocationMarks
from app.observability.metrics import show_listener
from app.state.redis_faults import FAILURES, is_refusal, said
from app.state.redis_link import RedisLink
from app.state.redis_rights import CHANNEL

#: Seconds between two pings on a silent subscription, and of silence until another one is begun:
#: after a fail-over the old master may be frozen, and must not be listened to for long.
PING_INTERVAL, SILENCE = 1.0, 3.0

#: Seconds after which the next subscription is begun: another server may have the name by then, or
#: the cluster may have forgotten this one, which still answers.
MAX_AGE = 60.0

#: Seconds after the end of a subscription until that is logged; a refusal is at once.
SAID_AFTER = 10.0

#: Seconds for which an announcement waits for this process's own subscription.
PATIENCE = 2.0

log = logging.getLogger("hokusai.revocations")


class NotAnnounced(Exception):
    """Not every worker hears of it; the message says why, and what to do. Its cause is what Redis,
    or the client, said."""


class Revocations:
    """The listener of one worker, in a thread of its own."""

    def __init__(self, link: RedisLink, marks: RevocationMarks) -> None:
        self._link = link
        self._marks = marks
        self.listening = threading.Event()
        self._is_settled = threading.Event()  # it listens, or Redis has refused that
        self._failure: BaseException | None = None
        self._lost_at = math.inf  # when a subscription ended, if there was one
        self._is_said = False

    def start(self) -> None:
        """Listens until the process ends; nothing to do without Redis."""
        if self._link.client is None:
            show_listener("off")
            return
        show_listener("away")
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
        self._is_settled.wait(PATIENCE)
        if not self._is_settled.is_set():
            why = self._failure or TimeoutError("no answer in time")
            raise NotAnnounced(
                f"Redis cannot be reached ({said(why)}); repeat the command."
            ) from why
        return self._announce(key_id)

    def _announce(self, key_id: str) -> int:
        """Leaves the mark and publishes: each reaches workers that the other does not."""
        marked = self._marks.revoke(key_id)
        mark = "its mark stands in Redis" if marked else "no mark could be left in Redis"
        try:
            listeners = int(self._link.client.publish(CHANNEL, key_id))
        except FAILURES as why:
            raise NotAnnounced(f"Redis says: {said(why)}; {mark}.") from why
        if self._failure is not None:
            raise NotAnnounced(
                f"This user may not subscribe to {CHANNEL} (Redis says: {said(self._failure)}), so "
                f"proxies with this user hear nothing. Others that heard it: {listeners}; {mark}."
            ) from self._failure
        if not marked:
            trouble = self._link.trouble()
            raise NotAnnounced(f"Workers that heard it: {listeners - 1}; but {mark}.") from (
                trouble.error if trouble else None
            )
        return listeners - 1

    def _run(self) -> None:
        while True:
            try:
                self._listen()
                self._note_end(TimeoutError("the subscription is silent"))
            except FAILURES as why:
                self._note_end(why)
            except Exception as why:  # a defect; without this thread nothing would be heard again
                log.exception("the listener failed, and begins again")
                self._note_end(why)
            self._marks.note_subscribed(math.inf, 0.0)
            time.sleep(1.0)

    def _note_begin(self) -> None:
        """Redis has confirmed the subscription."""
        if self._is_said:
            log.warning("revocations are heard again")
        self._failure, self._link.subscription = None, True
        self._lost_at, self._is_said = math.inf, False
        self.listening.set()
        self._is_settled.set()
        show_listener("hearing")
        self._link.watch()

    def _note_end(self, why: BaseException) -> None:
        """No subscription: it has broken, none came about, or Redis refuses it."""
        refused, now = is_refusal(why), time.monotonic()
        if self.listening.is_set():
            self._lost_at = now
        self.listening.clear()
        self._failure, self._link.subscription = why, why if refused else None
        show_listener("refused" if refused else "away")
        if not self._is_said and (refused or now - self._lost_at > SAID_AFTER):
            self._is_said = True
            log.warning("revocations are not heard: %s", said(why))
        if refused:
            self._is_settled.set()
            self._link.watch()
        else:
            self._is_settled.clear()

    def _listen(self) -> None:
        """One subscription after the other, until one breaks, or nothing is heard any more. The
        next one is confirmed before one ends, so that nothing is missed between them; where none
        comes about (no connection is left, say), this one goes on."""
        channel = self._subscribe()
        try:
            self._note_begin()
            while self._listen_on(channel):
                try:
                    following = self._subscribe()
                except FAILURES as why:
                    if is_refusal(why):
                        raise
                    continue
                while self._take(channel.get_message(timeout=0)):
                    pass
                channel.close()
                channel = following
        finally:
            channel.close()

    def _subscribe(self) -> Any:
        """A subscription that Redis has confirmed."""
        channel = self._link.client.pubsub(ignore_subscribe_messages=False)
        try:
            channel.subscribe(CHANNEL)
            if channel.get_message(timeout=SILENCE) is None:
                raise TimeoutError("the subscription is not confirmed")
        except BaseException:
            channel.close()
            raise
        return channel

    def _listen_on(self, channel: Any) -> bool:
        """Until a new subscription is MAX_AGE old: then True. False where nothing is heard."""
        since, began = time.time(), time.monotonic()
        heard = began
        self._marks.note_subscribed(since, heard + SILENCE)
        while time.monotonic() - heard < SILENCE:
            message = channel.get_message(timeout=PING_INTERVAL)
            if message is None:
                channel.ping()
                continue
            heard = time.monotonic()
            self._take(message)
            self._marks.note_subscribed(since, heard + SILENCE)
            if heard - began > MAX_AGE:
                return True
        return False

    def _take(self, message: Any) -> bool:
        """What came, if anything did."""
        if message is not None and message["type"] == "message":
            self._end(message["data"])
        return message is not None

    def _end(self, data: bytes) -> None:
        key_id = data.decode("utf-8", "replace").strip()
        if key_id:
            self._marks.revoke(key_id)
            log.info("key %s is revoked", key_id)
