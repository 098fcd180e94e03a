#!/usr/bin/env python3
"""Register a model with the MLflow SDK, from an empty experiment to a prediction, and clean up.

Experiment, run, params, metrics, artifacts (small, large, empty, awkward names; compared by
checksum), a logged model, its registration, version and alias, and loading it back. Everything
has a name of its own, so several runs do not disturb each other, and is deleted at the end, also
after a failure or Ctrl-C. Exit status: 0 all well, 1 a step failed, 2 called wrongly.
"""

import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where doctor/ is

from app.doctor.command_line import Options, make_parser, parse, redactor
from app.doctor.steps import Interruption, Steps

PACKAGES = ("requests", "mlflow", "numpy", "pandas")  # mlflow.pyfunc imports the last two


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks; return the exit status."""
    parser = make_parser(__doc__ or "", timeout=60)
    parser.add_argument("--keep", action="store_true", help="leave everything in MLflow")
    parser.add_argument(
        "--large-mib", type=int, default=20, metavar="N", help="large artifact: default %(default)s"
    )
    options, more = parse(parser, argv, os.environ, PACKAGES)
    return check(options, keep=more.keep, large_mib=more.large_mib)


def check(options: Options, keep: bool, large_mib: int) -> int:
    """All steps in a scratch folder; the SDK is imported only there."""
    import sdk

    from app.doctor.wire import Wire

    name = unique_name()
    steps = Steps(
        "Hokusai MLflow proxy: model registration",
        {**options.facts(), "called": f"{name} (experiment and registered model)"},
        redactor(options.key),
        options.json,
        sdk.failure,
    )
    with sdk.isolated(options) as scratch:
        from registration_checks import Registration, clean_up, opens, run

        sdk.RequestIds.install()
        flow = Registration(Wire(options), scratch, name)
        opened = opens(steps, flow)
        with Interruption(steps):
            run(steps, flow, large_mib)
        if opened and not keep:
            clean_up(steps, flow)
    return steps.finish()


def unique_name() -> str:
    """A name that no run beside this one has, and that tells when it was made (UTC)."""
    return f"hokusai-check-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


if __name__ == "__main__":
    sys.exit(main())
