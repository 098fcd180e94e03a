#!/usr/bin/env python3
"""Check every health path of a deployment: its form, its verdict, its discretion, its speed.

The public paths without a key, the detailed ones without (refused) and with one, the older names
too, twenty quick calls, and /metrics where it can be reached. Exit status: 0 all well, 1 a step
failed (also: the deployment says that it is unhealthy), 2 called wrongly.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where doctor/ is

from app.doctor.command_line import make_parser, parse, redactor
from app.doctor.steps import Interruption, Steps


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks; return the exit status."""
    options, _ = parse(make_parser(__doc__ or "", timeout=10), argv, os.environ)
    from health_checks import Health, run  # after `parse` has found that requests is there

    from app.doctor.wire import Wire

    title = "Hokusai MLflow proxy: health"
    steps = Steps(title, options.facts(), redactor(options.key), options.json)
    with Interruption(steps):
        run(steps, Health(Wire(options), options))
    return steps.finish()


if __name__ == "__main__":
    sys.exit(main())
