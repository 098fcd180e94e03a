"""Browser sessions: a random token in a cookie; Redis maps its hash to who signed in.

The key itself is not stored, so it cannot be validated again; key_lookup.py asks by its id, where
that is set up. A session ends when its key is announced as revoked or the look-up says so, when the
key expires, on sign-out, after SESSION_IDLE without a request, and after SESSION_LIFETIME. It is
valid only from the network of the sign-in, as the key was validated for an address, and only where
the same auth service decides: deployments may share a Redis. While Redis is unavailable, sessions
in Redis are refused; a new sign-in stores its session in the instance's own store.
"""

import hashlib
import math
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import orjson

from app.request.addresses import network
from app.request.errors import AuthServiceUnavailable, SessionEnded, Unauthenticated
from app.request.principal import Decision, Principal, dump, parse
from app.state.instance_store import InstanceStore
from app.state.redis_link import RedisLink, RedisUnavailable

PREFIX = "hokusai:session:v1:"

#: Neither Redis nor the instance's folder is writable, so other workers would not see the change.
NOT_KEPT = "Sessions cannot be kept: storage is unavailable. Try again later; API keys still work."
NOT_ENDED = "The session could not be ended: storage is unavailable. Try again later."

ENDED = "Your session has ended; sign in again."


@dataclass(frozen=True, slots=True)
class Session:
    """A stored session: who signed in and when, its end (epoch seconds), the client's address, and
    whose key it was."""

    decision: Decision
    until: float
    client_ip: str
    issuer: str

    @property
    def principal(self) -> Principal:
        """Who signed in."""
        assert self.decision.principal is not None  # begin() takes no other
        return self.decision.principal


class Sessions:
    """The sessions of all instances. Times are in seconds; `issuer` names whose keys count here;
    `is_ended` returns whether a decision's key has expired or was revoked; `current` returns the
    decision that counts now about a session's key at its address."""

    def __init__(
        self,
        link: RedisLink,
        store: InstanceStore,
        *,
        issuer: str,
        is_ended: Callable[[Decision], bool],
        lifetime: float,
        idle: float,
        current: Callable[[Decision, str], Decision] = lambda decision, client_ip: decision,
    ) -> None:
        self._link = link
        self._store = store
        self._issuer = issuer
        self._is_ended = is_ended
        self._current = current
        self._lifetime = lifetime
        self._idle = min(idle, lifetime)

    def begin(self, principal: Principal, client_ip: str, since: float) -> str:
        """Create a session; return the token for its cookie. `since` (epoch seconds) is a time
        before the key's validation: a later revocation ends the session.

        Raises AuthServiceUnavailable if it cannot be stored.
        """
        token = secrets.token_urlsafe(32)
        until = min(since + self._lifetime, principal.expires_at or math.inf)
        session = Session(Decision(principal, since), until, client_ip, self._issuer)
        name, value = _name(token), _dump(session)
        try:
            self._link.call(lambda: self._link.client.set(name, value, px=int(self._idle * 1000)))
        except RedisUnavailable:
            if not self._store.set_value(name, value, self._idle):
                raise AuthServiceUnavailable(NOT_KEPT) from None
        return token

    def principal(self, tokens: Sequence[str], client_ip: str) -> Principal:
        """Return who signed in, and restart the idle time. Raises as find()."""
        return self.find(tokens, client_ip, self._idle).principal

    def find(
        self, tokens: Sequence[str], client_ip: str, idle: float = 0.0, as_stored: bool = False
    ) -> Session:
        """Find the first valid session. Its idle time restarts if `idle` is given. `as_stored`:
        with the rights of its sign-in, which needs no auth service.

        If none is valid, raises AuthServiceUnavailable if one could not be looked up (Redis or the
        auth service is unavailable), else Unauthenticated.
        """
        refused: list[Unauthenticated | AuthServiceUnavailable] = []
        for token in tokens:
            try:
                session = self._find_one(token, client_ip, idle)
                return session if as_stored else self._up_to_date(session, token)
            except (Unauthenticated, AuthServiceUnavailable) as why:
                refused.append(why)
        refused.sort(key=lambda why: isinstance(why, Unauthenticated))
        raise refused[0]

    def _find_one(self, token: str, client_ip: str, idle: float) -> Session:
        stored = self._read(_name(token), idle)
        session = _parse(stored) if stored else None
        if session is None or session.decision.principal is None or session.issuer != self._issuer:
            raise SessionEnded(ENDED)
        if network(session.client_ip) != network(client_ip):
            raise SessionEnded(
                f"Your session is from another address than yours ({client_ip}); sign in again."
            )
        if time.time() >= session.until or self._is_ended(session.decision):
            raise SessionEnded(ENDED)
        return session

    def _up_to_date(self, session: Session, token: str) -> Session:
        """The session with the rights that its key has now. It ends for good if the key has."""
        decision = self._current(session.decision, session.client_ip)
        if decision.principal is None:
            with suppress(AuthServiceUnavailable):
                self._end_one(_name(token))
            raise SessionEnded(ENDED)
        return replace(session, decision=decision)

    def end(self, tokens: Sequence[str]) -> None:
        """End sessions on all instances. Raises AuthServiceUnavailable if the store fails."""
        left = [token for token in tokens if not self._end_one(_name(token))]
        if left and self._link.client is not None:
            raise AuthServiceUnavailable(
                "The session could not be ended: Redis is unavailable. Repeat it in a moment.", 1
            )

    def _end_one(self, name: str) -> bool:
        """End one session; False if Redis is unavailable or not configured. If Redis was slow at
        the sign-in, it is in Redis and in one instance's store, maybe not this one's: so in Redis
        it is not deleted, but replaced by what is no session."""
        is_own = self._store.get_value(name) is not None
        if is_own and not self._store.forget(name):
            raise AuthServiceUnavailable(NOT_ENDED)
        try:
            px = int(self._idle * 1000)
            self._link.call(lambda: self._link.client.set(name, b"ended", px=px, xx=True))
        except RedisUnavailable:
            return is_own
        return True

    def _read(self, name: str, idle: float) -> bytes | None:
        """Read a stored session. One from a Redis outage is in the instance's store, and stays
        there when Redis is back."""
        away, px = False, int(idle * 1000) or None
        try:
            value = self._link.call(lambda: self._link.client.getex(name, px=px))
        except RedisUnavailable:
            value, away = None, self._link.client is not None
        if value:
            return bytes(value)
        own = self._store.get_value(name)
        if own and idle:
            self._store.set_value(name, own, idle)
        elif away and not own:
            raise AuthServiceUnavailable(
                "Sessions cannot be looked up: Redis is unavailable. Try again in a moment, or "
                "sign in again.",
                1,
            )
        return own


def _name(token: str) -> str:
    """The Redis key of a session. Hashed, so read access to Redis yields no valid cookies."""
    return PREFIX + hashlib.sha256(token.encode()).hexdigest()


def _dump(session: Session) -> bytes:
    decision = dump(session.decision).decode()
    row = {"until": session.until, "ip": session.client_ip, "said": decision}
    return orjson.dumps(row | {"issuer": session.issuer})


def _parse(stored: bytes) -> Session | None:
    """Parse a stored session; None if malformed or written by another schema version."""
    try:
        row: dict[str, Any] = orjson.loads(stored)
        decision, ip, issuer = parse(row["said"]), str(row["ip"]), str(row["issuer"])
        return Session(decision, float(row["until"]), ip, issuer) if decision else None
    except (ValueError, TypeError, KeyError):
        return None
