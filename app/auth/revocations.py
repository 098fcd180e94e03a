"""Revocations on a Redis channel: announce revoked keys; end the decisions of announced ones.

While the listener is down, a revoked key works until its decision's TTL.
"""

import logging
import math
import queue
import threading
import time
from typing import Any

from app.auth.revocation_marks import RevocationMarks
from app.observability.metrics import show_listener
from app.state.redis_client import CHANNEL
from app.state.redis_faults import FAILURES, is_refusal, message_of
from app.state.redis_link import RedisLink
from app.state.redis_sentinel import Master

#: Seconds between pings on a silent subscription, and of silence before it is replaced: after a
#: failover the old master may be frozen.
PING_INTERVAL, SILENCE = 1.0, 3.0

#: Seconds after which a subscription is renewed: the name may have moved to another server, or the
#: cluster may have dropped this node, which still responds.
MAX_AGE = 60.0

#: The minimum in seconds between two tries to subscribe. A broken subscription that was older is
#: renewed at once: what is announced meanwhile is lost.
RETRY_INTERVAL = 1.0

#: Seconds from the end of a subscription to its log line; a refusal is logged at once.
SAID_AFTER = 10.0

#: Timeout in seconds of an announcement's wait for this process's own subscription.
SUBSCRIBE_TIMEOUT = 2.0

log = logging.getLogger("hokusai.revocations")


class NotAnnounced(Exception):
    """Some worker may miss the revocation. The message says why and what to do; the cause is the
    error of Redis or its client, if there is one."""


class Revocations:
    """The listener of one worker, in its own thread."""

    def __init__(self, link: RedisLink, marks: RevocationMarks) -> None:
        self._link = link
        self._marks = marks
        self.listening = threading.Event()
        self._is_settled = threading.Event()  # subscribed, or refused by Redis
        self._failure: BaseException | None = None
        self._lost_at = math.inf  # when a subscription ended, if there was one
        self._is_said = False
        self._silent: Any = None  # the subscription before this one, until this one is replaced
        self._unmarked: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()

    def start(self) -> None:
        """Listen until the process ends; do nothing without Redis."""
        if self._link.client is None:
            show_listener("off")
            return
        show_listener("unavailable")
        threading.Thread(target=self._run, name="revocations", daemon=True).start()
        threading.Thread(target=self._set_marks, name="revocation-marks", daemon=True).start()

    def announce(self, key_id: str) -> int:
        """End all decisions about this key; return how many other processes received the message.

        A worker that misses it finds the mark that is first left in Redis. Raises NotAnnounced.
        """
        if self._link.client is None:
            raise NotAnnounced(
                "REDIS_URL is memory://, so a command cannot reach the proxy's memory; restart the "
                "proxy instead."
            )
        self._is_settled.wait(SUBSCRIBE_TIMEOUT)
        if not self._is_settled.is_set():
            why = self._failure or TimeoutError("no response in time")
            raise NotAnnounced(
                f"Redis cannot be reached ({message_of(why)}); repeat the command."
            ) from why
        return self._announce(key_id)

    def _announce(self, key_id: str) -> int:
        """Set the mark and publish: each reaches workers that the other does not."""
        marked = self._marks.revoke(key_id)
        mark = "its mark is in Redis" if marked else "its mark could not be set in Redis"
        try:
            listeners = int(self._link.client.publish(CHANNEL, key_id))
        except FAILURES as why:
            failure = f"Publishing failed (Redis error: {message_of(why)})"
            raise NotAnnounced(f"{failure}; {mark}.") from why
        if self._failure is not None:
            raise NotAnnounced(
                f"This user may not subscribe to {CHANNEL} (Redis error: "
                f"{message_of(self._failure)}), so proxies with this user receive nothing. "
                f"Others that received it: {listeners}; {mark}."
            ) from self._failure
        others = max(0, listeners - 1)  # Redis may not count this one, in a failover
        if not marked:
            trouble = self._link.trouble()
            raise NotAnnounced(f"Workers that received it: {others}; but {mark}.") from (
                trouble.error if trouble else None
            )
        return others

    def _run(self) -> None:
        while True:
            next_try = time.monotonic() + RETRY_INTERVAL
            try:
                self._listen()
                self._note_end(TimeoutError("the subscription is silent"))
            except FAILURES as why:
                self._note_end(why)
            except Exception as why:  # a defect; without this thread no revocation would arrive
                log.exception("the revocation listener failed; restarting it")
                self._note_end(why)
            self._marks.note_subscribed(math.inf, 0.0)
            time.sleep(max(0.0, next_try - time.monotonic()))

    def _note_begin(self) -> None:
        """Record that Redis confirmed the subscription."""
        if self._is_said:
            log.warning("revocations are received again")
        self._failure, self._link.subscription = None, True
        self._lost_at, self._is_said = math.inf, False
        self.listening.set()
        self._is_settled.set()
        show_listener("subscribed")
        self._link.watch()

    def _note_end(self, why: BaseException) -> None:
        """Record the loss of the subscription: it broke, failed to start, or Redis refuses it."""
        refused, now = is_refusal(why), time.monotonic()
        if self.listening.is_set():
            self._lost_at = now
        self.listening.clear()
        self._failure, self._link.subscription = why, why if refused else None
        show_listener("refused" if refused else "unavailable")
        if not self._is_said and (refused or now - self._lost_at > SAID_AFTER):
            self._is_said = True
            log.warning("revocations are not received: %s", message_of(why))
        if refused:
            self._is_settled.set()
        else:
            self._is_settled.clear()
        if refused or hasattr(self._link.client, "spread"):  # a cluster may have failed over
            self._link.watch()

    def _listen(self) -> None:
        """Hold one subscription after the other, until one breaks or falls silent. Each new one is
        confirmed before the old one closes, so no message is lost in between. If the new one fails
        (no connection left, say), the old one stays."""
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
                self._keep(channel)
                self._keep(None)
                channel = following
        except BaseException:
            channel.close()
            raise
        self._keep(channel)
        if isinstance(self._link.client, Master):  # its idle connections lead to the same server
            self._link.client.connection_pool.disconnect(inuse_connections=False)

    def _keep(self, silent: Any) -> None:
        """Keep a silent subscription, and close the one that was kept."""
        self._take_late()
        if self._silent is not None:
            self._silent.close()
        self._silent = silent

    def _take_late(self) -> None:
        """Take what the kept subscription delivers after all: Redis stood still, or the network
        dropped packets. TCP sends them again after up to the length of the outage. Of a message in
        two packets the second one is waited for."""
        try:
            while self._silent and self._silent.connection.can_read(timeout=0):
                self._take(self._silent.get_message(timeout=PING_INTERVAL))
        except FAILURES:
            self._silent.close()
            self._silent = None

    def _subscribe(self) -> Any:
        """Subscribe, and wait for Redis to confirm. Raises TimeoutError after SILENCE."""
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
        """Listen until the subscription is MAX_AGE old: True. False if it falls silent."""
        since, began = time.time(), time.monotonic()
        heard = began
        self._marks.note_subscribed(since, heard + SILENCE)
        while True:
            self._take_late()
            message = channel.get_message(timeout=PING_INTERVAL)
            is_silent = message is None and time.monotonic() - heard >= SILENCE
            if is_silent:  # or this process was paused: messages may wait in the socket
                message = channel.get_message(timeout=0)
            if message is None and is_silent:
                return False
            if message is None:
                channel.ping()
                continue
            heard = time.monotonic()
            self._take(message)
            self._marks.note_subscribed(since, heard + SILENCE)
            if heard - began > MAX_AGE:
                return True

    def _take(self, message: Any) -> None:
        """Handle a message, if it is one and no pong."""
        if message is not None and message["type"] == "message":
            self._end(message["data"])

    def _end(self, data: bytes) -> None:
        key_id = data.decode("utf-8", "replace").strip()
        if key_id:
            self._unmarked.put((key_id, self._marks.note(key_id)))
            log.info("key %s is revoked", key_id)
            time.sleep(0)  # between many, requests go on

    def _set_marks(self) -> None:
        """Set the marks of what was heard. Apart: of many announcements none waits for Redis."""
        while True:
            self._marks.set_mark(*self._unmarked.get())
