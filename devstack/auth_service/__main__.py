"""The command line: `python -m devstack.auth_service create | list | revoke | serve`."""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import click

from devstack.auth_service import arguments, listing, settings
from devstack.auth_service.errors import StoreUnavailable
from devstack.auth_service.grant import DEFAULT_LIMIT_PER_HOUR, DEFAULT_SCOPES, Grant, Network
from devstack.auth_service.keys import Key, KeyStore

Command = Callable[..., None]


def database_option(command: Command) -> Command:
    """Give a command the option that says where the keys are."""
    text = f"SQLite file of the keys [AUTH_SERVICE_DATABASE; {settings.DEFAULT_DATABASE}]."
    return click.option("--database", metavar="FILE", help=text)(command)


def redis_option(command: Command) -> Command:
    """Give a command the option that says where revocations are told."""
    text = "Redis that revocations are announced in [REDIS_URL; none]."
    return click.option("--redis-url", metavar="URL", help=text)(command)


json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """The local auth service: creates, lists and revokes API keys, and validates them over HTTP.

    For a developer's machine and for tests, not for production.
    """


@cli.command()
@click.option("--user", required=True, type=arguments.user_id, metavar="ID", help="Whose key.")
@click.option("--name", type=arguments.printable, metavar="TEXT", help="The user's name.")
@click.option("--email", type=arguments.printable, metavar="TEXT", help="The user's address.")
@click.option(
    "--scopes",
    type=arguments.scopes,
    default=",".join(DEFAULT_SCOPES),
    show_default=True,
    metavar="A,B",
    help="What the key may do; none for nothing.",
)
@click.option(
    "--limit",
    type=arguments.limit,
    default=str(DEFAULT_LIMIT_PER_HOUR),
    show_default=True,
    metavar="N|none",
    help="Requests per hour.",
)
@click.option("--admin", is_flag=True, help="Allow the administrative routes too.")
@click.option(
    "--expires",
    type=arguments.expiry,
    metavar="WHEN",
    help="2026-12-31 (to its end, UTC), 2026-12-31T12:00Z, or from now 90d, 12h, 30m, 45s [never].",
)
@click.option(
    "--allow-ip",
    type=arguments.network,
    multiple=True,
    metavar="CIDR",
    help="Address or network the key may be used from; may be repeated [anywhere].",
)
@click.option("--test", is_flag=True, help="Begin the key with hk_test_ instead of hk_live_.")
@json_option
@database_option
def create(
    user: str,
    name: str | None,
    email: str | None,
    scopes: tuple[str, ...],
    limit: int | None,
    admin: bool,
    expires: int | None,
    allow_ip: tuple[Network, ...],
    test: bool,
    as_json: bool,
    database: str | None,
) -> None:
    """Create a key and print it, this once: only its hash is stored."""
    grant = Grant(user, name, email, scopes, limit, admin, allow_ip, expires)
    with _store(database) as store:
        secret, key = store.create(grant, test)
    _print_new(secret, key, as_json)


def _print_new(secret: str, key: Key, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"key": secret, **listing.describe(key, time.time())}))
        return
    click.echo(f"key     {secret}\nkey id  {key.key_id}")
    click.echo("Keep the key now: only its hash is stored, it is not shown again.", err=True)


@cli.command("list")
@json_option
@database_option
def list_keys(as_json: bool, database: str | None) -> None:
    """List all keys with their state, never the key itself."""
    with _store(database) as store:
        keys = store.list()
    now = time.time()
    if as_json:
        click.echo(json.dumps([listing.describe(key, now) for key in keys]))
    else:
        click.echo(listing.table(keys, now) if keys else "There is no key yet.")


@cli.command()
@click.argument("key_id")
@database_option
@redis_option
def revoke(key_id: str, database: str | None, redis_url: str | None) -> None:
    """Revoke the key KEY_ID for good, and announce it in Redis.

    Where it cannot be announced, proxies notice when their cached answers run out.
    """
    with _store(database) as store:
        key = store.revoke(key_id)
    if key is None:
        raise click.ClickException(f"There is no key {key_id}. Its id begins with key_; see list.")
    click.echo(f"{key_id} of {key.grant.user_id} is revoked.")
    _announce(key_id, settings.load(redis_url=redis_url).redis_url)


def _announce(key_id: str, redis_url: str | None) -> None:
    if redis_url is None:
        click.echo("Not announced, for no REDIS_URL is known: proxies may accept it for some time.")
        return
    from app.state.redis_rights import CHANNEL
    from devstack.auth_service import (
        revocation,  # here, because importing Redis takes half a second
    )

    try:
        listeners = revocation.announce(redis_url, key_id)
    except revocation.NotAnnounced as error:
        raise click.ClickException(f"It was not announced: {error}. Repeat the command.") from None
    click.echo(f"Announced on {CHANNEL}; listeners: {listeners}.")


@cli.command()
@click.option("--bind", metavar="ADDRESS", help="[AUTH_SERVICE_BIND; 127.0.0.1:8001]; port 0: any.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="info: a line per call [AUTH_SERVICE_LOG_LEVEL; warning].",
)
@database_option
@redis_option
def serve(**options: Any) -> None:
    """Serve over HTTP until a signal comes.

    It answers POST /api/v1/keys/validate and GET /health.
    """
    loaded = settings.load(**options)
    with _store(str(loaded.database)):
        pass  # a database that cannot be opened is said here, in one line
    gunicorn = [
        sys.executable,
        "-m",
        "gunicorn",
        "-c",
        "python:devstack.auth_service.gunicorn_settings",
    ]
    sys.stdout.flush()
    os.execve(
        sys.executable, [*gunicorn, "devstack.auth_service.wsgi:app"], settings.environment(loaded)
    )


def _store(database: str | None) -> closing[KeyStore]:
    path = settings.load(database=database).database
    try:
        return closing(KeyStore(path))
    except StoreUnavailable as error:
        raise click.ClickException(f"{error} ({path})") from None


if __name__ == "__main__":
    cli(prog_name="python -m devstack.auth_service")
