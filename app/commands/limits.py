"""`flask limits show` and `flask limits clear`: what is counted in Redis for a key or an address.

It reads the counts under the names that the `limits` library gives them and computes from them as
limits/request_limits.py does. The counts alone tell which limit a key has; no secret is needed.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import click

from app.observability.record import without_keys
from app.request.addresses import network
from app.state.redis_faults import FAILURES, said
from app.state.redis_link import RedisLink

T = TypeVar("T")

PERIODS = {"hour": 3600, "minute": 60}
WHAT = {
    "key": "requests",
    "session": "browser requests",
    "address": "failed authentications",
}
ORDER = ("key", "session", "address")

_NAME = re.compile(r"LIMITS:\{LIMITER/(key|session|address)/([^/{}]+)/(\d+)/1/(hour|minute)\}")


@dataclass(frozen=True)
class Count:
    """What stands in Redis for one limit: `used` of `limit` in a sliding `period`; one more is
    granted after `wait` seconds, and `forgotten` seconds from now nothing is remembered."""

    kind: str
    who: str
    limit: int
    period: str
    used: int
    left: int
    wait: int
    forgotten: int

    def line(self) -> str:
        """For human eyes."""
        what = f"{self.used} of {self.limit} {WHAT[self.kind]} in the last {self.period}"
        when = f"next one in {self.wait} s" if self.wait else f"{self.left} left"
        return f"{self.kind} {self.who}: {what}; {when}; all forgotten in {self.forgotten} s"


def limits(link: RedisLink) -> click.Group:
    """The group `limits`."""

    @click.group("limits")
    def group() -> None:
        """What is counted for keys and addresses."""

    @group.command("show")
    @click.argument("key_id", required=False)
    @click.option(
        "--address", help="Failed authentications from this address; of IPv6, from its /64 network."
    )
    @click.option("--json", "as_json", is_flag=True)
    def show(key_id: str | None, address: str | None, as_json: bool) -> None:
        """Print what is used, what is left and when: of KEY_ID, of an address, or of all."""
        found = _found(link, key_id, address)
        if as_json:
            click.echo(json.dumps([asdict(count) for count in found], indent=2))
            return
        for count in found:
            click.echo(count.line())
        if not found:
            whose = f" for {key_id or address}" if key_id or address else ""
            click.echo(f"Nothing is counted{whose}: no request for a while, or no limit.")

    @group.command("clear")
    @click.argument("key_id", required=False)
    @click.option(
        "--address", help="Failed authentications from this address; of IPv6, from its /64 network."
    )
    def clear(key_id: str | None, address: str | None) -> None:
        """Forget what KEY_ID, or an address, has used up."""
        if not key_id and not address:
            raise click.UsageError("Say whose: KEY_ID, or --address.")
        names = [name for name, _ in _names(link, key_id, address)]
        for name in names:
            _ask(link, link.client.delete, name, f"{name}/-1")
        click.echo(f"Forgotten: {len(names)} counts of {key_id or address}.")

    return group


def _found(link: RedisLink, key_id: str | None, address: str | None) -> list[Count]:
    counts = [_count(link, name, match) for name, match in _names(link, key_id, address)]
    return sorted(counts, key=lambda count: (ORDER.index(count.kind), count.who, count.limit))


def _names(
    link: RedisLink, key_id: str | None, address: str | None
) -> list[tuple[str, "re.Match[str]"]]:
    """The names of counts in Redis, each once, taken apart."""
    if key_id and without_keys(key_id) != key_id:
        raise click.ClickException("That is a key. Give its id; nobody is to see the key.")
    if link.client is None:
        raise click.ClickException(
            "REDIS_URL is memory://: the counts are in the proxy's own memory, and end with it."
        )
    asked: list[tuple[str, str | None]] = [("key", key_id), ("session", key_id)] if key_id else []
    asked += [("address", network(address))] if address else []
    matches = [match for kind, who in asked or [("*", None)] for match in _scan(link, kind, who)]
    return sorted({match[0]: match for match in matches}.items())


def _scan(link: RedisLink, kind: str, who: str | None) -> Iterator["re.Match[str]"]:
    name = _escaped(quote(who, safe="@:")) if who else "*"
    pattern = f"LIMITS:{{LIMITER/{kind}/{name}/*"
    found = _ask(link, lambda: list(link.client.scan_iter(match=pattern, count=1000)))
    for raw in found:
        if match := _NAME.match(raw.decode("utf-8", "replace")):
            yield match


def _count(link: RedisLink, name: str, match: "re.Match[str]") -> Count:
    """The library's sliding window, without moving it on."""
    kind, who, limit, period = match[1], unquote(match[2]), int(match[3]), match[4]
    length = PERIODS[period]
    current, current_rest = _value(link, name)
    previous, previous_rest = _value(link, f"{name}/-1")
    if 0 < current_rest < length:  # its hour is over, and nobody has asked since
        previous, previous_rest, current, current_rest = current, current_rest, 0, 0.0
    used = math.floor(previous * previous_rest / length) + current
    wait = _wait(limit, length, previous, previous_rest, current, current_rest)
    rest = max(previous_rest, current_rest)
    left = max(0, limit - used)
    return Count(kind, who, limit, period, used, left, math.ceil(wait), math.ceil(rest))


def _wait(
    limit: int, length: int, previous: int, previous_rest: float, current: int, current_rest: float
) -> float:
    """As seconds_to_wait in app/state/windows.py."""
    room = limit - current
    if limit == 0:
        return length
    if room <= 0:
        return max(0.0, current_rest - length)
    return max(0.0, previous_rest - room * length / previous) if previous else 0.0


def _value(link: RedisLink, name: str) -> tuple[int, float]:
    """A window's count, and for how many seconds it stands."""
    value, rest = _ask(link, link.client.get, name), _ask(link, link.client.pttl, name)
    return int(value or 0), max(0, int(rest)) / 1000


def _ask(link: RedisLink, command: Callable[..., T], *arguments: Any) -> T:
    """One command; it is tried again once, for REDIS_TIMEOUT is short for human purposes."""
    for last in (False, True):
        try:
            return command(*arguments)
        except FAILURES as why:
            reason = said(why)
            if last:
                break
    raise click.ClickException(
        f"Redis cannot be reached, or fails ({reason}); is REDIS_URL the one that the proxies use? "
        "While Redis is away each instance counts for itself, in memory that ends with it."
    )


def _escaped(name: str) -> str:
    """Without the meaning that some characters have in a pattern of Redis."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", name)
