"""Browser sessions: a random name in a cookie, and behind its hash in Redis who signed in.

The key itself is not kept, so it cannot be validated again: a session ends with the announced
revocation of its key, when the auth service said that it expires, on sign-out, after SESSION_IDLE
without a request, and after SESSION_LIFETIME. It is valid from the network that signed in only, as
the key was validated for an address. While Redis is away nobody is let in by a session that stands
there; who signs in then has one in the instance's own store.
"""

import hashlib
import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.request.addresses import network
from app.request.errors import AuthServiceUnavailable, SessionEnded, Unauthenticated
from app.request.principal import Principal, Verdict, dump, parse
from app.state.instance_store import InstanceStore
from app.state.redis_link import RedisAway, RedisLink

PREFIX = "hokusai:session:v1:"

#: Neither Redis nor the instance's folder can be written: other workers would not know.
NOT_KEPT = "Sessions cannot be kept at the moment. Try again later; programs go on with the key."
NOT_ENDED = "The session could not be ended at the moment. Try again later."

#: Seconds.
RETRY_AFTER = 10

ENDED = "Your session has ended; sign in again."


@dataclass(frozen=True, slots=True)
class Session:
    """What stands behind a name: who, since and until when (epoch seconds), from which address."""

    verdict: Verdict
    until: float
    client_ip: str

    @property
    def principal(self) -> Principal:
        """Who signed in."""
        assert self.verdict.principal is not None  # begin() takes no other
        return self.verdict.principal


class Sessions:
    """The sessions of all instances. Times are in seconds; `is_ended` tells of a verdict whether
    its key was revoked since."""

    def __init__(
        self,
        link: RedisLink,
        store: InstanceStore,
        *,
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
        until = min(since + self._lifetime, principal.expires_at or math.inf)
        session = Session(Verdict(principal, since), until, client_ip)
        name, value = _name(token), _dump(session)
        try:
            self._link.call(lambda: self._link.client.set(name, value, px=int(self._idle * 1000)))
        except RedisAway:
            if not self._store.set_value(name, value, self._idle):
                raise AuthServiceUnavailable(NOT_KEPT, RETRY_AFTER) from None
        return token

    def principal(self, tokens: Sequence[str], client_ip: str) -> Principal:
        """Who signed in; the idle time begins anew with each request. Raises as find()."""
        return self.find(tokens, client_ip, self._idle).principal

    def find(self, tokens: Sequence[str], client_ip: str, idle: float = 0.0) -> Session:
        """The first valid session of one or more; its idle time begins anew with `idle`, and runs
        on without. Where none is valid, raises AuthServiceUnavailable if one of them could not be
        looked up (Redis is away), else Unauthenticated."""
        refused: list[Unauthenticated | AuthServiceUnavailable] = []
        for token in tokens:
            try:
                return self._find_one(token, client_ip, idle)
            except (Unauthenticated, AuthServiceUnavailable) as why:
                refused.append(why)
        refused.sort(key=lambda why: isinstance(why, Unauthenticated))
        raise refused[0]

    def _find_one(self, token: str, client_ip: str, idle: float) -> Session:
        stored = self._read(_name(token), idle)
        session = _parse(stored) if stored else None
        if session is None or session.verdict.principal is None:
            raise SessionEnded(ENDED)
        if network(session.client_ip) != network(client_ip):
            raise SessionEnded(
                f"Your session began at another address than yours ({client_ip}); sign in again."
            )
        if time.time() >= session.until or self._is_ended(session.verdict):
            raise SessionEnded(ENDED)
        return session

    def end(self, tokens: Sequence[str]) -> None:
        """Ends sessions everywhere. AuthServiceUnavailable where Redis cannot be told."""
        left = [token for token in tokens if not self._end_one(_name(token))]
        if left and self._link.client is not None:
            raise AuthServiceUnavailable(
                "The session could not be ended (Redis is away); repeat it in a moment.", 1
            )

    def _end_one(self, name: str) -> bool:
        """False where Redis is away, or there is none."""
        if self._store.get_value(name):
            if not self._store.forget(name):
                raise AuthServiceUnavailable(NOT_ENDED, RETRY_AFTER)
            return True
        try:
            self._link.call(lambda: self._link.client.delete(name))
        except RedisAway:
            return False
        return True

    def _read(self, name: str, idle: float) -> bytes | None:
        """What is stored. A session of an outage stands in the instance's store, before and after
        Redis is back."""
        away, px = False, int(idle * 1000) or None
        try:
            value = self._link.call(lambda: self._link.client.getex(name, px=px))
        except RedisAway:
            value, away = None, self._link.client is not None
        if value:
            return bytes(value)
        own = self._store.get_value(name)
        if own and idle:
            self._store.set_value(name, own, idle)
        elif away and not own:
            raise AuthServiceUnavailable(
                "Sessions cannot be looked up at the moment (Redis is away). Try again "
                "in a moment, or sign in anew.",
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
