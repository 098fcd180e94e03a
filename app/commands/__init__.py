"""Commands for operators: `flask doctor`, `flask revoke KEY_ID`, … (docs/commands.md). No request
uses them."""

import click

from app.commands.circuit import circuit
from app.commands.config import config
from app.commands.doctor import doctor
from app.commands.limits import limits
from app.commands.revoke import revoke
from app.commands.routes import routes
from app.commands.whoami import whoami
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
        routes(services.routes, settings.split_scopes),
        whoami,
    ):
        group.add_command(command)
