"""`flask doctor`: checks a deployment from outside, and from inside where it runs beside it.

The checks are in app/doctor/. Those that need the proxy's settings are the health's own, run from
here, past the proxy. The options are those of the scripts, and some more.
"""

import sys
from collections.abc import Callable
from functools import partial

import click

from app.doctor.command_line import Parser
from app.doctor.examination import examine
from app.doctor.steps import Failed
from app.health.diagnosis import Finding
from app.services import patient_checks
from config import Settings, caller

ABOUT = """Check every stage of a deployment, from DNS to a registered model.

Each failure has an explanation, a remedy and the name of the fault. Everything made in MLflow is
deleted again, also after Ctrl-C. Exit status: 0 all well, 1 a fault, 2 wrong usage.
"""

#: Seconds; a slow part is no fault by itself.
TIMEOUT = 10.0

#: Steps, and the health check that each runs. The search for experiments passes MLflow's host
#: check, unlike its /health.
STEPS = {
    "Redis, from here": "redis",
    "auth service, from here": "auth_service",
    "MLflow, from here": "experiments_api",
}


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
        parser = _parser(is_beside_the_proxy=_differs(settings))
        options = parser.read(arguments, caller.environment())
        checks = checks_from_here(settings) if options.inside else ()
        sys.exit(examine(options, checks, not options.read_only, max(0, options.large_mib)))

    return command


def _parser(is_beside_the_proxy: bool) -> Parser:
    parser = Parser(ABOUT, timeout=20, program="flask doctor")
    add = parser.add_argument
    add("--large-mib", type=int, default=0, metavar="N", help="one more artifact, of N MiB")
    add("--read-only", action="store_true", help="make nothing in MLflow")
    add("--outside", dest="inside", action="store_false", help="only from outside")
    add(
        "--inside",
        action="store_true",
        help="also check Redis, the auth service and MLflow from here, with the proxy's settings "
        "(default: if these are not the built-in ones)",
    )
    parser.set_defaults(inside=is_beside_the_proxy)
    return parser


def _differs(settings: Settings) -> bool:
    """Whether this environment has an address of one of the proxy's parts."""
    default, names = Settings(), ("mlflow_server_url", "auth_service_url", "redis_url")
    return any(getattr(settings, name) != getattr(default, name) for name in names)


def checks_from_here(settings: Settings) -> list[tuple[str, Callable[[], str]]]:
    """Each check with its name, in order."""
    questions = patient_checks(settings, TIMEOUT).questions()
    return [(step, partial(_passed, questions[check].ask)) for step, check in STEPS.items()]


def _passed(ask: Callable[[], Finding]) -> str:
    """What was found; raises Failed for a fault."""
    found = ask()
    if found.fault is None:
        return found.message
    code, message, remedy = found.fault
    raise Failed(f"{message} ({found.detail})", remedy, fault=code)
