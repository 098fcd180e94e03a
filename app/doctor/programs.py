"""The programs of scripts/: each reads its options, runs its steps and returns the exit status.

What needs a package is imported after the options are read: reading them says which one is missing.
"""

from collections.abc import Callable, Mapping, MutableMapping

from app.doctor.command_line import Options, Parser, redactor
from app.doctor.steps import Steps, interruptible

TITLE = "Hokusai MLflow proxy"
SDK_PACKAGES = ("requests", "mlflow", "numpy", "pandas")  # mlflow.pyfunc imports the last two


def check_connection(description: str, environ: Mapping[str, str]) -> int:
    """The way to MLflow, hop by hop; writes nothing."""

    def check(steps: Steps, options: Options) -> None:
        from app.doctor import examination, health, wire

        way = wire.Wire(options)
        said = health.Health(way)
        examination.look(steps, way, said)
        health.run_last(steps, said)

    return _run(description, "connection", check, environ)


def check_health(description: str, environ: Mapping[str, str]) -> int:
    """Every health path."""

    def check(steps: Steps, options: Options) -> None:
        from app.doctor import health, wire

        health.run_paths(steps, health.Health(wire.Wire(options)))

    return _run(description, "health", check, environ)


def _run(
    description: str,
    title: str,
    check: Callable[[Steps, Options], None],
    environ: Mapping[str, str],
) -> int:
    """A program without options of its own."""
    options = Parser(description, timeout=10).read(None, environ)
    steps = Steps(f"{TITLE}: {title}", options.facts(), redactor(options.key), options.json)
    with interruptible(steps):
        check(steps, options)
    return steps.finish()


def check_registration(description: str, environ: MutableMapping[str, str]) -> int:
    """A model with the SDK. `environ` is the process's own: the SDK reads it."""
    options = _registration_options(description, environ)
    from app.doctor import sdk
    from app.doctor.connection import ACCEPTED
    from app.doctor.model import unique_name
    from app.doctor.wire import Wire

    name = unique_name("check")
    facts = {**options.facts(), "called": f"{name} (experiment and registered model)"}
    title = f"{TITLE}: model registration"
    steps = Steps(title, facts, redactor(options.key), options.json, sdk.failure)
    with sdk.isolated(options, environ) as scratch:
        from app.doctor.registration import Registration, clean_up, run  # it imports the SDK

        sdk.RequestIds.install()
        flow = Registration(Wire(options), scratch, name)
        opened = steps.run(ACCEPTED, flow.door)
        with interruptible(steps):
            run(steps, flow, options.large_mib)
        if opened and not options.keep:  # behind a closed door nothing was made
            clean_up(steps, flow)
    return steps.finish()


def _registration_options(description: str, environ: Mapping[str, str]) -> Options:
    parser = Parser(description, timeout=60)
    parser.add_argument("--keep", action="store_true", help="leave everything in MLflow")
    parser.add_argument(
        "--large-mib", type=int, default=20, metavar="N", help="large artifact: default %(default)s"
    )
    return parser.read(None, environ, SDK_PACKAGES)
