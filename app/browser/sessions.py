"""Browser sessions: a random name in a cookie, and behind its hash in Redis who signed in.

The key itself is not kept, so it cannot be validated again: a session ends with the announced
revocation of its key, on sign-out, after SESSION_IDLE without a request, and after
SESSION_LIFETIME. It is valid from the address that signed in only, as the key was validated for
that. While Redis is away nobody is let in by a session that stands there; who signs in then has
one in the instance's own store.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from app.errors import AuthServiceUnavailable, Unauthenticated
from app.instance_store import InstanceStore
from app.principal import Principal, Verdict, dump, parse
from app.redis_link import RedisAway, RedisLink

PREFIX = "hokusai:session:v1:"

ENDED = "Your session has ended; sign in again."


@dataclass(frozen=True, slots=True)
class Session:
    """What stands behind a name: who, since and until when (epoch seconds), from which address."""

    verdict: Verdict
    until: float
    client_ip: str


class Sessions:
    """The sessions of all instances. Times are in seconds; `is_ended` tells of a verdict whether
    its key was revoked since."""

    def __init__(
        self,
        link: RedisLink,
        store: InstanceStore,
        is_ended: Callable[[Verdict], bool],
        lifetime: float,
        idle: float,
    ) -> None:
        self._link = link
        self._store = store
        self._is_ended = is_ended
        self._lifetime = lifetime
        self._idle = min(idle, lifetime)

    def begin(self, principal: Principal, client_ip: str, since: float) -> str:
        """A new session's name, for its cookie. `since` (epoch seconds) is before the key was found
        valid: a revocation after that ends the session."""
        token = secrets.token_urlsafe(32)
        session = Session(Verdict(principal, since), since + self._lifetime, client_ip)
        name, value = _name(token), _dump(session)
        try:
            self._link.call(lambda: self._link.client.set(name, value, px=self._milliseconds))
        except RedisAway:
            self._store.set_value(name, value, self._idle)
        return token

    def principal(self, token: str, client_ip: str) -> Principal:
        """Who signed in, and the session lives on. Raises Unauthenticated for one that is over,
        AuthServiceUnavailable where Redis, which would know, is away."""
        stored = self._touch(_name(token))
        session = _parse(stored) if stored else None
        if session is None or session.verdict.principal is None:
            raise Unauthenticated(ENDED)
        if session.client_ip != client_ip:
            raise Unauthenticated(
                f"Your session began at another address than yours ({client_ip}); sign in again."
            )
        if time.time() >= session.until or self._is_ended(session.verdict):
            raise Unauthenticated(ENDED)
        return session.verdict.principal

    def end(self, token: str) -> None:
        """Ends a session everywhere. AuthServiceUnavailable where Redis cannot be told."""
        name = _name(token)
        if self._store.get_value(name):
            self._store.set_value(name, b"", 0)
            return
        try:
            self._link.call(lambda: self._link.client.delete(name))
        except RedisAway:
            if self._link.client is not None:
                raise AuthServiceUnavailable(
                    "The session could not be ended (Redis is away); repeat it in a moment.", 1
                ) from None

    @property
    def _milliseconds(self) -> int:
        return max(1, int(self._idle * 1000))

    def _touch(self, name: str) -> bytes | None:
        """What is stored, its idle time begun anew. A session of an outage stands in the instance's
        store, before and after Redis is back."""
        away = False
        try:
            value = self._link.call(lambda: self._link.client.getex(name, px=self._milliseconds))
        except RedisAway:
            value, away = None, self._link.client is not None
        if value:
            return bytes(value)
        own = self._store.get_value(name)
        if own:
            self._store.set_value(name, own, self._idle)
        elif away:
            raise AuthServiceUnavailable(
                "Sessions cannot be looked up at the moment (Redis is away). Repeat the request, "
                "or sign in again.",
                1,
            )
        return own


def _name(token: str) -> str:
    """Where a session stands. A hash: who reads Redis cannot make a cookie of it."""
    return PREFIX + hashlib.sha256(token.encode()).hexdigest()


def _dump(session: Session) -> bytes:
    said = dump(session.verdict).decode()
    return orjson.dumps({"until": session.until, "ip": session.client_ip, "said": said})


def _parse(stored: bytes) -> Session | None:
    """None for what another version, or nobody, could have written."""
    try:
        row: dict[str, Any] = orjson.loads(stored)
        verdict = parse(row["said"])
        return Session(verdict, float(row["until"]), str(row["ip"])) if verdict else None
    except (ValueError, TypeError, KeyError):
        return None
