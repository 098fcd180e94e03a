"""Commands for operators, through Flask's own: `flask doctor`, `flask revoke KEY_ID`, … beside
wsgi.py. None is on a request's way. docs/commands.md shows them all."""

import click

from app.auth.revocations import Revocations
from app.commands.circuit import circuit
from app.commands.config import config
from app.commands.doctor import doctor
from app.commands.limits import limits
from app.commands.revoke import revoke
from app.commands.routes import routes
from app.request.route_table import RouteTable
from app.state.redis_link import RedisLink
from config import Settings


def add(
    group: click.Group,
    settings: Settings,
    link: RedisLink,
    revocations: Revocations,
    table: RouteTable,
) -> None:
    """Adds every command to the application's group."""
    for command in (
        circuit(settings),
        config(settings),
        doctor(settings),
        limits(link),
        revoke(revocations, settings.auth_cache_ttl, settings.auth_stale_ttl),
        routes(table),
    ):
        group.add_command(command)
