"""The command line: `python -m devstack.auth_service create | list | revoke | serve`."""

import json
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import click
from click import BadParameter

from devstack.auth_service.keys import Grant, Key, KeyStore, Network, StoreUnavailable, iso

DURATIONS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
COLUMNS = ("key id", "user", "scopes", "limit", "created", "expires", "state")


# --- the values of options -------------------------------------------------------------------


def user_id(text: str) -> str:
    """Visible ASCII, at most 128 characters: MLflow gets it in a header."""
    if not re.fullmatch(r"[!-~]{1,128}", text):
        raise BadParameter("a user id is 1 to 128 visible ASCII characters without spaces.")
    return text


def printable(text: str) -> str:
    """One line of text; control characters would garble a terminal."""
    if not text or not text.isprintable():
        raise BadParameter("must be one line of printable text.")
    return text


def scopes(text: str) -> tuple[str, ...]:
    """Names separated by commas, each once, in the order given; `none` for no scope."""
    if text == "none":
        return ()
    names = [name.strip() for name in text.split(",")]
    if not all(re.fullmatch(r"[A-Za-z0-9_.:-]+", name) for name in names):
        raise BadParameter("give names like read,write or model:write, separated by commas.")
    return tuple(dict.fromkeys(names))


def limit(text: str) -> int | None:
    """Requests per hour, at least 1; `none` for no limit."""
    if text == "none":
        return None
    if not re.fullmatch(r"[1-9]\d{0,8}", text):
        raise BadParameter("give a whole number from 1 on, or none for no limit.")
    return int(text)


def network(text: str) -> Network:
    """An address, or a network in CIDR notation."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise BadParameter(f"{error}.") from None


def expiry(text: str, now: datetime | None = None) -> int:
    """A future time, in seconds since the epoch: 90d, 12h, 30m or 45s from now on, a date (to its
    end, in UTC), or an ISO time. A time without a zone is in UTC."""
    now = now or datetime.now(UTC)
    if duration := re.fullmatch(r"(\d{1,6})([smhd])", text):
        moment = now + timedelta(**{DURATIONS[duration[2]]: int(duration[1])})
    else:
        moment = _moment(text)
    if moment <= now:
        raise BadParameter(f"{text} lies in the past.")
    return int(moment.timestamp())


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        forms = "2026-12-31, 2026-12-31T12:00Z, 90d or 12h"
        raise BadParameter(f"{text} is not like {forms}.") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        moment += timedelta(days=1, seconds=-1)
    return moment


# --- the commands ----------------------------------------------------------------------------

option = partial(click.option, show_default=True, show_envvar=True)
json_option = option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
database_option = option(
    "--database",
    metavar="FILE",
    envvar="AUTH_SERVICE_DATABASE",
    default=".devstack/keys.db",
    type=click.Path(path_type=Path),
    help="SQLite file of the keys.",
)
redis_option = option(
    "--redis-url", metavar="URL", envvar="REDIS_URL", help="Redis where revocations are announced."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """The local auth service: creates, lists and revokes API keys, and validates them over HTTP.

    For a developer's machine and for tests, not for production.
    """


@cli.command()
@option("--user", "user_id", required=True, type=user_id, metavar="ID", help="Whose key.")
@option("--name", "user_name", type=printable, metavar="TEXT", help="The user's name.")
@option("--email", type=printable, metavar="TEXT", help="The user's address.")
@option(
    "--scopes",
    type=scopes,
    default="read,write",
    metavar="A,B",
    help="What the key may do; none for nothing.",
)
@option(
    "--limit",
    "rate_limit_per_hour",
    type=limit,
    default="1000",
    metavar="N|none",
    help="Requests per hour.",
)
@option("--admin", "is_admin", is_flag=True, help="Allow the administrative routes too.")
@option(
    "--expires",
    "expires_at",
    type=expiry,
    metavar="WHEN",
    help="2026-12-31 (to its end, UTC), 2026-12-31T12:00Z, or from now 90d, 12h, 30m, 45s [never].",
)
@option(
    "--allow-ip",
    "allowed_networks",
    type=network,
    multiple=True,
    metavar="CIDR",
    help="Address or network the key may be used from; may be repeated [anywhere].",
)
@option("--test", is_flag=True, help="Begin the key with hk_test_ instead of hk_live_.")
@json_option
@database_option
def create(test: bool, as_json: bool, database: Path, **granted: Any) -> None:
    """Create a key and print it, this once: only its hash is stored."""
    secret, key = _store(database).create(Grant(**granted), test)
    if as_json:
        click.echo(json.dumps({"key": secret, **_describe(key, time.time())}))
        return
    click.echo(f"key     {secret}\nkey id  {key.key_id}")
    click.echo("Keep the key now: only its hash is stored, it is not shown again.", err=True)


@cli.command("list")
@json_option
@database_option
def list_keys(as_json: bool, database: Path) -> None:
    """List all keys with their state, never the key itself."""
    keys = _store(database).list()
    now = time.time()
    if as_json:
        click.echo(json.dumps([_describe(key, now) for key in keys]))
    else:
        click.echo(_table(keys, now) if keys else "There is no key yet.")


@cli.command()
@click.argument("key_id")
@database_option
@redis_option
def revoke(key_id: str, database: Path, redis_url: str | None) -> None:
    """Revoke the key KEY_ID for good, and announce it in Redis.

    Without the announcement, proxies notice once their cached decisions expire.
    """
    key = _store(database).revoke(key_id)
    if key is None:
        raise click.ClickException(f"There is no key {key_id}. Its id begins with key_; see list.")
    click.echo(f"{key_id} of {key.grant.user_id} is revoked.")
    if not redis_url or redis_url.startswith("memory:"):  # the proxy's setting for no Redis
        click.echo("Not announced: REDIS_URL is not set. Proxies may accept the key for some time.")
    else:
        _announce(redis_url, key_id)


def _announce(redis_url: str, key_id: str) -> None:
    # Here, because importing Redis takes half a second.
    from app.state.redis_client import CHANNEL
    from devstack.auth_service import revocation

    try:
        listeners = revocation.announce(redis_url, key_id)
    except revocation.NotAnnounced as error:
        raise click.ClickException(f"Not announced: {error}. Repeat the command.") from None
    click.echo(f"Announced on {CHANNEL}; listeners: {listeners}.")


@cli.command()
@option(
    "--bind",
    metavar="ADDRESS",
    envvar="AUTH_SERVICE_BIND",
    default="127.0.0.1:8001",
    help="host:port or unix:path; port 0: any.",
)
@option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    envvar="AUTH_SERVICE_LOG_LEVEL",
    default="warning",
    help="info: a line per call.",
)
@option(
    "--lookup-token",
    metavar="TOKEN",
    envvar="AUTH_SERVICE_LOOKUP_TOKEN",
    default="",
    show_default=False,
    help="What a proxy must show to look up keys by id; without it there is no look-up.",
)
@database_option
def serve(bind: str, log_level: str, lookup_token: str, database: Path) -> None:
    """Serve over HTTP until a signal arrives.

    It responds to POST /api/v1/keys/validate, POST /api/v1/keys/lookup and GET /health.
    """
    from devstack.auth_service import service  # here: importing Flask takes half a second

    service.serve(service.create_app(_store(database), lookup_token), bind, log_level)


def _store(database: Path) -> KeyStore:
    try:
        return KeyStore(database)
    except StoreUnavailable as error:
        raise click.ClickException(f"{error} ({database})") from None


# --- what list prints ------------------------------------------------------------------------


def _describe(key: Key, now: float) -> dict[str, Any]:
    """Describe a key for JSON, without the secret, which is not stored."""
    grant = key.grant
    return {
        "key_id": key.key_id,
        "user_id": grant.user_id,
        "name": grant.user_name,
        "email": grant.email,
        "scopes": list(grant.scopes),
        "rate_limit_per_hour": grant.rate_limit_per_hour,
        "is_admin": grant.is_admin,
        "allowed_ips": [str(network) for network in grant.allowed_networks],
        "created_at": iso(key.created_at),
        "expires_at": iso(grant.expires_at),
        "revoked_at": iso(key.revoked_at),
        "state": key.state(now),
    }


def _table(keys: Sequence[Key], now: float) -> str:
    """One line per key under a heading; times in UTC, to the minute."""
    rows = [COLUMNS, *(_row(key, now) for key in keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [map(str.ljust, row, widths) for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _row(key: Key, now: float) -> tuple[str, ...]:
    grant = key.grant
    admin = ("(admin)",) if grant.is_admin else ()
    return (
        key.key_id,
        grant.user_id,
        ",".join(grant.scopes + admin) or "none",
        "none" if grant.rate_limit_per_hour is None else f"{grant.rate_limit_per_hour}/h",
        _minute(key.created_at),
        _minute(grant.expires_at),
        key.state(now),
    )


def _minute(seconds: int | None) -> str:
    text = iso(seconds)
    return "never" if text is None else f"{text[:16]}Z".replace("T", " ")


if __name__ == "__main__":
    cli(prog_name="python -m devstack.auth_service")
