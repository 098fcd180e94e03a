#!/usr/bin/env python3
"""Register a model with the MLflow SDK, from an empty experiment to a prediction, and clean up.

Experiment, run, params, metrics, artifacts (small, large, empty, awkward names; compared by
checksum), a logged model, its registration, version and alias, and loading it back. Everything
has a name of its own, so several runs do not disturb each other, and is deleted at the end, also
after a failure or Ctrl-C. Exit status: 0 all well, 1 a step failed, 2 called wrongly.
"""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where app/doctor/ is

from app.doctor.command_line import Parser, redactor
from app.doctor.steps import Steps, interruptible

PACKAGES = ("requests", "mlflow", "numpy", "pandas")  # mlflow.pyfunc imports the last two


def main() -> int:
    """Run the checks; return the exit status."""
    parser = Parser(__doc__ or "", timeout=60)
    parser.add_argument("--keep", action="store_true", help="leave everything in MLflow")
    parser.add_argument(
        "--large-mib", type=int, default=20, metavar="N", help="large artifact: default %(default)s"
    )
    options = parser.read(None, os.environ, PACKAGES)
    import sdk  # after `read` has found the packages

    from app.doctor.connection import ACCEPTED
    from app.doctor.model import unique_name
    from app.doctor.wire import Wire

    name = unique_name("check")
    title = "Hokusai MLflow proxy: model registration"
    facts = {**options.facts(), "called": f"{name} (experiment and registered model)"}
    steps = Steps(title, facts, redactor(options.key), options.json, sdk.failure)
    with sdk.isolated(options) as scratch:
        from registration import Registration, clean_up, run  # it imports the SDK

        sdk.RequestIds.install()
        flow = Registration(Wire(options), scratch, name)
        opened = steps.run(ACCEPTED, flow.door)
        with interruptible(steps):
            run(steps, flow, options.large_mib)
        if opened and not options.keep:  # behind a closed door nothing was made
            clean_up(steps, flow)
    return steps.finish()


if __name__ == "__main__":
    sys.exit(main())
