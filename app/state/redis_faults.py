"""Classify Redis failures: one word for what redis-py raises, and Redis's own message in short.

This module contacts no server. health/faults.tsv has a row for each word. redis-py wraps the
server's errors in its own, and cuts off the error codes that it knows. So all causes of an
exception are examined, by their types and by how their texts begin.
"""

import re
import ssl
from collections.abc import Iterator

import redis
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    MovedError,
    NoPermissionError,
    RedisClusterException,
    SlotNotCoveredError,
)
from redis.sentinel import MasterNotFoundError

from app.state.redis_client import WrongKind
from app.state.redis_sentinel import NoSuchService, SentinelFailed

#: What a command raises if Redis fails. RedisCluster's own exception is not a RedisError.
FAILURES = (redis.RedisError, RedisClusterException, OSError)

#: Maximum characters shown of a message from Redis or the library.
LONGEST = 160

#: Start of a cause's text, and the word for it. redis-py cuts off the codes that it knows.
TEXTS = (
    ("NOAUTH", "no password"),
    ("NOREPLICAS", "replicas"),
    ("MISCONF", "disk"),
    ("OOM", "full"),
    ("READONLY", "read-only"),
    ("BUSY", "busy"),
    ("DENIED", "protected"),
    ("NOPROTO", "old"),
    ("unknown command 'HELLO'", "old"),
    ("unknown command `HELLO`", "old"),
    ("max number of clients", "clients"),
    ("DB index is out of range", "database"),
    ("invalid DB index", "database"),
    ("Hash slot not served", "slots"),
    ("All slots are not covered", "slots"),
    ("TTL exhausted", "slots"),  # a slot stays in migration
    ("This instance has cluster support disabled", "not cluster"),
    ("Connection closed by server", "closed"),
)

#: The same by the type of a cause; the first match counts.
TYPES: tuple[tuple[type[BaseException], str], ...] = (
    (redis.ReadOnlyError, "read-only"),
    (redis.OutOfMemoryError, "full"),
    (redis.AuthenticationError, "password"),
    (NoPermissionError, "permission"),
    (BusyLoadingError, "loading"),
    (MovedError, "is cluster"),
    (SlotNotCoveredError, "slots"),
    (NoSuchService, "no service"),
    (MasterNotFoundError, "no master"),
    (ClusterDownError, "no cluster"),
)

#: The fallback: errors that wrap others.
AROUND: tuple[tuple[type[BaseException], str], ...] = (
    (SentinelFailed, "no sentinel"),
    (redis.TimeoutError, "silent"),
    (TimeoutError, "silent"),
    (redis.ConnectionError, "unreachable"),
    (OSError, "unreachable"),
    (RedisClusterException, "no cluster"),
    (redis.ResponseError, "fails"),
)

#: OpenSSL's reasons for unusable certificates and keys.
FILE_REASONS = ("NO_CERTIFICATE_OR_CRL_FOUND", "KEY_VALUES_MISMATCH", "PEM LIB")

#: redis-py's text for a missing file; that for a Unix socket has no port.
NO_FILE = re.compile(r"ERROR (2|21) CONNECTING TO \S+:\d+\. ")

#: For Sentinels, which have their own user and password, and are asked only for the master.
OF_SENTINELS = {
    "no password": "sentinel no password",
    "password": "sentinel password",
    "permission": "sentinel permission",
    "protected": "protected",
    "old": "old",
    "closed": "closed",
    "clients": "clients",
    "no tls": "no tls",
    "certificate": "certificate",
    "client certificate": "client certificate",
    "tls files": "tls files",
}


def word(error: BaseException) -> str:
    """Return the word for the failure; "" if it is unknown."""
    chain = list(causes(error))
    found = next(filter(None, map(_of_one, chain)), "")
    if any(isinstance(cause, SentinelFailed) for cause in chain):
        unknown = any("unknown command" in str(cause) for cause in chain)
        return OF_SENTINELS.get(found) or ("not sentinel" if unknown else "no sentinel")
    if found:
        return found
    return next((name for kind, name in AROUND if any(isinstance(c, kind) for c in chain)), "")


def message_of(error: BaseException) -> str:
    """Return the innermost message of Redis or the library, short, in one line."""
    innermost = list(causes(error))[-1]
    code = getattr(innermost, "status_code", None)
    text = f"{code} {innermost}" if code and code != "ERR" else str(innermost)
    text = " ".join((text or type(innermost).__name__).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def is_refusal(error: BaseException) -> bool:
    """Whether the server responded and refused this command; it may execute others."""
    refusals = redis.ResponseError | SlotNotCoveredError | ClusterError
    return any(isinstance(cause, refusals) for cause in causes(error))


def _of_one(cause: BaseException) -> str:
    text, code = str(cause), getattr(cause, "status_code", None) or ""
    if isinstance(cause, WrongKind):
        return f"is {cause.kind}"
    if tls := _of_tls(cause, text.upper()):
        return tls
    by_text = next((name for start, name in TEXTS if start == code or text.startswith(start)), "")
    return by_text or next((name for kind, name in TYPES if isinstance(cause, kind)), "")


def _of_tls(cause: BaseException, text: str) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "certificate"
    if isinstance(cause, ssl.SSLError) and "CERTIFICATE_REQUIRED" in text:
        return "client certificate"
    is_of_files = isinstance(cause, ssl.SSLError) and any(words in text for words in FILE_REASONS)
    if is_of_files or NO_FILE.match(text):
        return "tls files"
    is_handshake = "WRONG_VERSION_NUMBER" in text or "HANDSHAKE OPERATION TIMED OUT" in text
    return "no tls" if is_handshake else ""


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception and its chain of causes (or contexts), the innermost last."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
