"""`flask limits show` and `flask limits clear`: what is counted in Redis for a key or an address.

The names of the counts in Redis tell which limit a key has, so no secret is needed.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import click

from app.observability.record import without_keys
from app.request.addresses import network
from app.state.redis_faults import FAILURES, said
from app.state.redis_link import RedisLink
from app.state.windows import remaining, seconds_to_wait, stored

T = TypeVar("T")

#: What is counted, in the order of the output.
WHAT = {
    "key": "requests",
    "session": "browser requests",
    "address": "failed authentications",
}

_NAME = re.compile(r"LIMITS:\{(LIMITER/(key|session|address)/([^/{}]+)/\d+/1/(hour|minute))\}")


@dataclass(frozen=True)
class Count:
    """One limit: `used` of `limit` in a sliding `period`. One more is granted after `wait` seconds;
    after `forgotten` seconds nothing of it is left in Redis."""

    kind: str
    who: str
    limit: int
    period: str
    used: int
    left: int
    wait: int
    forgotten: int

    def line(self) -> str:
        """As text."""
        what = f"{self.used} of {self.limit} {WHAT[self.kind]} in the last {self.period}"
        when = f"next one in {self.wait} s" if self.wait else f"{self.left} left"
        return f"{self.kind} {self.who}: {what}; {when}; all forgotten in {self.forgotten} s"


def limits(link: RedisLink) -> click.Group:
    """The group `limits`."""
    address_option = click.option(
        "--address", help="Failed authentications from this address; of IPv6, from its /64 network."
    )

    @click.group("limits")
    def group() -> None:
        """What is counted for keys and addresses."""

    @group.command("show")
    @click.argument("key_id", required=False)
    @address_option
    @click.option("--json", "as_json", is_flag=True)
    def show(key_id: str | None, address: str | None, as_json: bool) -> None:
        """Print what is used, what is left and when: of KEY_ID, of an address, or of all."""
        found = [_count(link, name) for name in _names(link, key_id, address)]
        found.sort(key=lambda count: ([*WHAT].index(count.kind), count.who, count.limit))
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
    @address_option
    def clear(key_id: str | None, address: str | None) -> None:
        """Forget what KEY_ID, or an address, has used up."""
        if not key_id and not address:
            raise click.UsageError("Say whose: KEY_ID, or --address.")
        names = [match[0] for match in _names(link, key_id, address)]
        for name in names:
            _ask(link.client.delete, name, f"{name}/-1")
        click.echo(f"Forgotten: {len(names)} counts of {key_id or address}.")

    return group


def _names(link: RedisLink, key_id: str | None, address: str | None) -> list["re.Match[str]"]:
    """The names of the counts in Redis, each once."""
    if key_id and without_keys(key_id) != key_id:
        raise click.ClickException("That is a key. Give its id instead, and do not share the key.")
    if link.client is None:
        raise click.ClickException(
            "REDIS_URL is memory://: the counts are in the proxy's own memory."
        )
    wanted = [("key", key_id), ("session", key_id)] if key_id else []
    wanted += [("address", network(address))] if address else []
    patterns = [f"{kind}/{_escaped(quote(who, safe='@:'))}" for kind, who in wanted] or ["*/*"]
    found: dict[str, re.Match[str]] = {}
    for pattern in patterns:
        for raw in _ask(_scan, link.client, f"LIMITS:{{LIMITER/{pattern}/*"):
            if match := _NAME.match(raw.decode("utf-8", "replace")):
                found[match[0]] = match
    return list(found.values())


def _count(link: RedisLink, name: "re.Match[str]") -> Count:
    key, kind, who, period = name.groups()
    item, windows = _ask(stored, link.client, key)
    left = remaining(item, windows)
    return Count(
        kind=kind,
        who=unquote(who),
        limit=item.amount,
        period=period,
        used=item.amount - left,
        left=left,
        wait=math.ceil(seconds_to_wait(item, windows)),
        forgotten=math.ceil(max(windows.previous_rest, windows.current_rest)),
    )


def _scan(client: Any, pattern: str) -> list[bytes]:
    return list(client.scan_iter(match=pattern, count=1000))


def _ask(command: Callable[..., T], *arguments: Any) -> T:
    """Runs a command, twice if Redis fails: REDIS_TIMEOUT is short for a person."""
    try:
        try:
            return command(*arguments)
        except FAILURES:
            return command(*arguments)
    except FAILURES as why:
        raise click.ClickException(
            f"Redis cannot be reached, or fails ({said(why)}). Check that REDIS_URL is the one "
            "that the proxies use. While Redis is unavailable, each instance counts on its own, "
            "in memory."
        ) from why


def _escaped(name: str) -> str:
    """Without the meaning that some characters have in a pattern of Redis."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", name)
