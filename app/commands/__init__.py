"""Commands for operators, through Flask's own: `flask doctor`, `flask revoke KEY_ID`, … beside
wsgi.py. None is on a request's way. docs/commands.md shows them all."""

import click

from app.commands.circuit import circuit
from app.commands.config import config
from app.commands.doctor import doctor
from app.commands.limits import limits
from app.commands.revoke import revoke
from app.commands.routes import routes
from app.services import Services


def add(group: click.Group, services: Services) -> None:
    """Adds every command to the application's group."""
    settings, link = services.settings, services.link
    for command in (
        circuit(settings),
        config(settings),
        doctor(settings),
        limits(link),
        revoke(services.revocations, settings.auth_cache_ttl, settings.auth_stale_ttl),
        routes(services.routes),
    ):
        group.add_command(command)
