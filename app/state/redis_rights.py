"""What the proxy must be allowed to do in Redis, and what of it a user may not do.

Every command that the proxy sends is tried, on names of the kinds that it uses, which live for a
second. docs/deployment.md has the ACL that grants exactly this.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from threading import Thread
from typing import Any, TypeVar

from redis.exceptions import NoScriptError

from app.state.redis_client import CHANNEL, SomeNodesFail
from app.state.redis_faults import FAILURES, causes, word
from app.state.redis_sentinel import SentinelFailed

T = TypeVar("T")

#: Every trial uses names with this tag in braces: they share a node of a cluster.
TAG = "LIMITER/hokusai-probe"

DECISION, TOMBSTONE = f"hokusai:auth:v1:{{{TAG}}}", f"hokusai:auth:revoked:{{{TAG}}}"
SESSION = f"hokusai:session:v1:{{{TAG}}}"
#: Named as the limits library names a window and the one before.
COUNT, COUNT_BEFORE = f"LIMITS:{{{TAG}}}", f"LIMITS:{{{TAG}}}/-1"

#: ACL patterns by the prefix of a name.
PATTERNS = {
    "hokusai:auth:v1:": "hokusai:auth:v1:*",
    "hokusai:auth:revoked:": "hokusai:auth:revoked:*",
    "hokusai:session:": "hokusai:session:*",
    "LIMITS:": "LIMITS*",
}

#: Nodes of a cluster that are examined concurrently.
AT_ONCE = 16

SHARING = "instances do not share cached keys"
MARKS = "a missed revocation is not caught up later"
SESSIONS = "browser sessions get 503"
LIMITS = "each instance counts limits for itself"
SUBSCRIBED = "revocations are not received"
ANNOUNCING = "flask revoke cannot announce"
EVERYTHING = "; ".join((SHARING, MARKS, SESSIONS, LIMITS, SUBSCRIBED, ANNOUNCING))

#: (what fails without it, the command).
COMMANDS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    (SHARING, ("SET", DECISION, b"1", "PX", 1000)),
    (SHARING, ("GET", DECISION)),
    (SHARING, ("DEL", DECISION)),
    (MARKS, ("SET", TOMBSTONE, b"0", "PX", 1000)),
    (MARKS, ("GET", TOMBSTONE)),
    (SESSIONS, ("SET", SESSION, b"1", "PX", 1000)),
    (SESSIONS, ("GETEX", SESSION, "PX", 1000)),
    (LIMITS, ("SET", COUNT, 0, "PX", 1000)),
    (LIMITS, ("GET", COUNT)),
    (LIMITS, ("PTTL", COUNT)),
    (LIMITS, ("EXISTS", COUNT)),
    (LIMITS, ("INCRBY", COUNT, 1)),
    (LIMITS, ("RENAME", COUNT, COUNT_BEFORE)),
)

#: RENAME's error if another worker was faster with the same name; the user may then run it.
NO_SUCH_KEY = "no such key"

#: The message in health and log.
EXPLAINED = (
    "Redis does not let this user do what the proxy needs: it {lacks}. Add to its ACL, on each "
    "node: {rule}. Until then {hurts}."
)

#: The metric's labels for the commands of this table, of the scripts and of the channel.
NAMES = frozenset(
    "set get getex del pttl exists incrby rename evalsha script|load publish subscribe ping select "
    "command cluster|slots cluster".split()
) | {*PATTERNS.values(), CHANNEL}


@dataclass(frozen=True)
class Lack:
    """Something that a user may not do. `right` is in ACL notation: a command in small letters, a
    pattern of keys, or a channel; `kind` is +, ~ or &, or "" for a command that gets an error
    although no permission is missing; `words` are Redis's; `hurts` is what fails without it."""

    kind: str
    right: str
    hurts: str
    words: str = field(default="", compare=False)

    @property
    def wording(self) -> str:
        """The permission, worded for a sentence."""
        if self.kind == "&":
            verb = "subscribe to" if self.hurts == SUBSCRIBED else "publish to"
            return f"{verb} {self.right}"
        return self.right if self.kind == "~" else self.right.upper().replace("|", " ")

    @property
    def label(self) -> str:
        """The metric's label, one of a few."""
        return self.right if self.right in NAMES else "other"


#: The phrase for each kind of lack.
PHRASES = {
    "+": "may not run {}",
    "~": "may not use the keys {}",
    "&": "may not {}",
    "": "gets an error for {} (Redis 6.2 and newer have it, unless it is renamed, or disabled by a "
    "proxy in front)",
}


def explain(found: Sequence[Lack]) -> str:
    """Explain what is lacking, how to grant it, and what fails meanwhile: one sentence each."""
    phrases = [
        phrase.format(", ".join(dict.fromkeys(lack.wording for lack in found if lack.kind == kind)))
        for kind, phrase in PHRASES.items()
        if any(lack.kind == kind for lack in found)
    ]
    rule = " ".join(dict.fromkeys(lack.kind + lack.right for lack in found if lack.kind))
    template = EXPLAINED if rule else re.sub(r" Add to its ACL.+\{rule\}\.", "", EXPLAINED)
    return template.format(
        lacks=", ".join(phrases),
        rule=rule,
        hurts="; ".join(dict.fromkeys(lack.hurts for lack in found)),
    )


def missing(client: Any, exercise: Callable[[Any, str], None] | None) -> list[Lack]:
    """Return what the client's user lacks. `exercise` counts as the limiter does, on a name; it is
    skipped if one of its commands is refused, since Redis does not name a command that is refused
    in a script. Each node of a cluster has its own users and its own memory, so each is tried.
    Raises one of FAILURES if Redis fails otherwise; SomeNodesFail if some nodes of a cluster do."""
    tags = client.spread(TAG) if hasattr(client, "spread") else [TAG]

    def look(tag: str) -> list[Lack] | Exception:
        try:
            return _missing_at(client, tag, exercise)
        except Exception as why:
            return why

    seen = _at_each(tags, look)
    failures = [why for why in seen if isinstance(why, Exception)]
    if failures and len(failures) < len(seen):
        raise SomeNodesFail("some nodes of the cluster fail") from failures[0]
    if failures:
        raise failures[0]
    lists = (lacks for lacks in seen if isinstance(lacks, list))
    found = list(dict.fromkeys(chain.from_iterable(lists)))
    _try(found, ANNOUNCING, ("PUBLISH", CHANNEL), lambda: client.publish(CHANNEL, ""))
    return found


def _at_each(tags: Sequence[str], look: Callable[[str], T]) -> list[T]:
    """Return what `look` returns for each, AT_ONCE at a time. Not in a pool: this may run while a
    command's process ends, when a pool takes no more work, and Python 3.12 starts no thread."""
    remaining, seen = iter(tags), list[T]()

    def work() -> None:
        for tag in remaining:  # shared by the threads
            seen.append(look(tag))

    threads = [Thread(target=work, daemon=True) for _ in range(min(len(tags), AT_ONCE) - 1)]
    with suppress(RuntimeError):
        for thread in threads:
            thread.start()
    work()  # here too
    for thread in threads:
        if thread.ident is not None:
            thread.join()
    return seen


def _missing_at(client: Any, tag: str, exercise: Callable[[Any, str], None] | None) -> list[Lack]:
    """The same for the names with this tag."""
    found: list[Lack] = []
    for hurts, words in COMMANDS:
        own = [word.replace(TAG, tag) if isinstance(word, str) else word for word in words]
        _try(found, hurts, own[:2], partial(client.execute_command, *own))
    count = COUNT.replace(TAG, tag)
    _try(found, LIMITS, ("SCRIPT|LOAD", count), lambda: client.script_load("return 1"))
    _try(found, LIMITS, ("EVALSHA", count), lambda: client.evalsha("0" * 40, 1, count))
    if exercise is not None and not any(lack.hurts == LIMITS for lack in found):
        _try(found, LIMITS, ("EVALSHA", count), lambda: exercise(client, tag))
    return found


def missing_to_hear(
    client: Any, subscription: bool | BaseException | None, timeout: float
) -> list[Lack]:
    """The same for the subscription. `subscription` is True if this process has one, the error if
    Redis refused it, and None if one has to be tried; that takes `timeout` seconds at most."""
    found: list[Lack] = []

    def attempt() -> None:
        if isinstance(subscription, BaseException):
            raise subscription
        _subscribe(client, timeout)

    if subscription is not True:
        _try(found, SUBSCRIBED, ("SUBSCRIBE", CHANNEL), attempt)
    return found


def missing_to_connect(why: BaseException) -> list[Lack]:
    """Return what is lacking if Redis refuses what the client itself sends on connecting; else [].
    Sentinels have their own users, and their own message."""
    found = [_lack(cause, EVERYTHING, ("", "")) for cause in causes(why)]
    if any(isinstance(cause, SentinelFailed) for cause in causes(why)):
        return []
    return [lack for lack in found if lack is not None and lack.kind == "+"][:1]


def _try(
    found: list[Lack], hurts: str, tried: Sequence[str], attempt: Callable[[], object]
) -> None:
    """Add what the attempt shows to be lacking; `tried` are the command, and its key or channel."""
    try:
        attempt()
    except NoScriptError:
        pass  # the user may run scripts
    except FAILURES as why:
        lack = _lack(why, hurts, tried)
        if lack is None and str(why) != NO_SUCH_KEY:
            raise
        if lack is not None and lack not in found:
            found.append(lack)


def _subscribe(client: Any, timeout: float) -> None:
    """Subscribe and ping, as the listener does."""
    with client.pubsub() as channel:
        channel.subscribe(CHANNEL)
        channel.get_message(timeout=timeout)
        channel.ping()
        channel.get_message(timeout=timeout)


def _lack(why: BaseException, hurts: str, tried: Sequence[str]) -> Lack | None:
    """Return what a refusal says is lacking; None if it says something else."""
    text, kind, (command, name) = str(why), word(why), tried
    if kind not in ("fails", "permission"):
        return None
    if match := re.match(r"unknown command ['`]([\w|]+)", text, re.IGNORECASE):
        return Lack("", match[1].lower(), hurts)
    if kind == "fails" and "executing the script" not in text:
        # A proxy in front has its own words for this. If SET fails, everything does.
        is_one = command not in ("", "SET") and text != NO_SUCH_KEY
        return Lack("", command.lower(), hurts, text) if is_one else None
    if match := re.search(r"run the '([\w|-]+)' command", text):
        return Lack("+", match[1].lower(), hurts)
    if "channel" in text:
        return Lack("&", CHANNEL, hurts)
    pattern = next((p for start, p in PATTERNS.items() if name.startswith(start)), name)
    return Lack("~", pattern, hurts)
