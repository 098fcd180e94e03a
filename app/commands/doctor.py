"""`flask doctor`: checks a deployment from outside, and from inside where it runs beside it.

The checks are in app/doctor/; inside.py adds those that need the proxy's settings. Its options are
those of the scripts, and some more.
"""

import argparse
import sys

import click

from config import Settings, caller

ABOUT = """Check every stage of a deployment, from DNS to a registered model.

Each failure has an explanation, a remedy and the name of the fault. Everything made in MLflow is
deleted again, also after Ctrl-C. Exit status: 0 all well, 1 a fault, 2 wrong usage.
"""


def doctor(settings: Settings) -> click.Command:
    """The command `doctor`."""

    @click.command(
        "doctor",
        help=ABOUT,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        # Imported here: the proxy itself does not need them.
        from app.commands import inside
        from app.doctor.command_line import Parser
        from app.doctor.examination import examine

        parser = Parser(ABOUT, timeout=20, program="flask doctor")
        _add_options(parser)
        options = parser.read(arguments, caller.environment())
        wanted = _is_beside_the_proxy(settings) if options.inside is None else options.inside
        checks = inside.checks(settings) if wanted else ()
        sys.exit(examine(options, checks, not options.read_only, max(0, options.large_mib)))

    return command


def _add_options(parser: argparse.ArgumentParser) -> None:
    """The options that the scripts do not have."""
    add = parser.add_argument
    add("--large-mib", type=int, default=0, metavar="N", help="one more artifact, of N MiB")
    add("--read-only", action="store_true", help="make nothing in MLflow")
    add("--outside", dest="inside", action="store_false", default=None, help="only from outside")
    add(
        "--inside",
        action="store_true",
        default=None,
        help="also check Redis, the auth service and MLflow from here, with the proxy's settings "
        "(default: if these are not the built-in ones)",
    )


def _is_beside_the_proxy(settings: Settings) -> bool:
    """Whether this environment has an address of one of the proxy's parts."""
    default, names = Settings(), ("mlflow_server_url", "auth_service_url", "redis_url")
    return any(getattr(settings, name) != getattr(default, name) for name in names)
