"""`flask whoami`: what a key is, as a deployment sees it."""

import json
import sys

import click

from app.doctor.command_line import Parser, redactor
from app.doctor.steps import EXIT_FAILED, Failed
from app.doctor.wire import Wire, expect
from config import caller

ABOUT = "Show the key's user, rights, limit and expiry, as the deployment sees them."


@click.command(
    "whoami",
    help=ABOUT,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def whoami(arguments: tuple[str, ...]) -> None:
    """The command `whoami`; its options are those of `flask doctor`."""
    options = Parser(ABOUT, timeout=20, program="flask whoami").read(
        arguments, caller.environment()
    )
    try:
        found = expect(Wire(options).mlflow("/whoami"))
    except Failed as failed:
        hidden = redactor(options.key)  # a server may repeat the key
        click.echo(hidden(f"{failed.message} {failed.remedy}".strip()), err=True)
        sys.exit(EXIT_FAILED)
    if options.json:
        click.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        click.echo(f"{name.replace('_', ' '):<12}{_text(value)}")


def _text(value: object) -> str:
    """A value for people: a list with commas, the limit as a phrase."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return "{remaining} of {requests_per_hour} an hour left; more at {more_at}".format(**value)
    return "none" if value is None else str(value)
