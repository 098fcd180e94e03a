"""Commands for operators, through Flask's own: `flask doctor`, `flask revoke KEY_ID`, … beside
wsgi.py. None is on a request's way. docs/commands.md shows them all."""

import click

from app.operations.commands.circuit import circuit
from app.operations.commands.config import config
from app.operations.commands.doctor import doctor
from app.operations.commands.limits import limits
from app.operations.commands.revoke import revoke
from app.operations.commands.routes import routes
from app.redis_link import RedisLink
from app.revocations import Revocations
from app.route_table import RouteTable
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
