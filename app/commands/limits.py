"""`flask limits show` and `flask limits clear`: what is counted in Redis for a key or an address.

The names of the counts in Redis tell which limit a key has, so no secret is needed.
"""

import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import unquote

import click

from app.observability.record import without_keys
from app.request.addresses import network
from app.state.redis_faults import FAILURES, message_of
from app.state.redis_link import RedisLink
from app.state.windows import remaining, seconds_to_wait, stored

T = TypeVar("T")

#: What is counted, in the order of the output.
WHAT = {
    "key": "requests",
    "session": "browser requests",
    "address": "failed authentications",
}

_NAME = re.compile(
    r"LIMITS:\{(LIMITER/(?P<kind>key|session|address)/(?P<who>[^/{}]+)/\d+/1/(hour|minute))\}"
)


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
        found.sort(key=lambda one: ([*WHAT].index(one["kind"]), one["who"], one["limit"]))
        if as_json:
            click.echo(json.dumps(found, indent=2))
            return
        for count in found:
            click.echo(_line(count))
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
    """The names of the counts in Redis, each once; of all keys and addresses if none is given."""
    if key_id and without_keys(key_id) != key_id:
        raise click.ClickException("That is a key. Give its id instead, and do not share the key.")
    if link.client is None:
        raise click.ClickException(
            "REDIS_URL is memory://: the counts are in the proxy's own memory."
        )
    wanted = {("key", key_id), ("session", key_id), ("address", address and network(address))}
    found = {}  # the counts of two periods have one name
    for raw in _ask(_scan, link.client):
        match = _NAME.match(raw.decode("utf-8", "replace"))
        if match and (not (key_id or address) or (match["kind"], unquote(match["who"])) in wanted):
            found[match[0]] = match
    return list(found.values())


def _count(link: RedisLink, name: "re.Match[str]") -> dict[str, Any]:
    """One limit: `used` of `limit` in a sliding `period`. One more is granted after `wait` seconds;
    after `forgotten` seconds nothing of it is left in Redis."""
    key, kind, who, period = name.groups()
    item, windows = _ask(stored, link.client, key)
    left = remaining(item, windows)
    return {
        "kind": kind,
        "who": unquote(who),
        "limit": item.amount,
        "period": period,
        "used": item.amount - left,
        "left": left,
        "wait": math.ceil(seconds_to_wait(item, windows)),
        "forgotten": math.ceil(max(windows.previous_rest, windows.current_rest)),
    }


def _line(count: dict[str, Any]) -> str:
    text = "{kind} {who}: {used} of {limit} {what} in the last {period}; "
    text += "next one in {wait} s; " if count["wait"] else "{left} left; "
    return (text + "all forgotten in {forgotten} s").format(what=WHAT[count["kind"]], **count)


def _scan(client: Any) -> list[bytes]:
    return list(client.scan_iter(match="LIMITS:*", count=1000))


def _ask(command: Callable[..., T], *arguments: Any) -> T:
    """Runs a command, twice if Redis fails: REDIS_TIMEOUT is short for a person."""
    with suppress(*FAILURES):
        return command(*arguments)
    try:
        return command(*arguments)
    except FAILURES as why:
        raise click.ClickException(
            f"Redis cannot be reached, or fails ({message_of(why)}). Check that REDIS_URL is the "
            "one that the proxies use. While Redis is unavailable, each instance counts on its "
            "own, in memory."
        ) from why
