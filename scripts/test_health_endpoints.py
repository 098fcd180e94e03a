#!/usr/bin/env python3
"""Check every health path of a deployment: its form, its statuses, its discretion, its speed.

The public paths without a key, the detailed ones without (refused) and with one, the older names
too, twenty quick calls, and /metrics where it can be reached. Exit status: 0 all well, 1 a step
failed (also: the deployment says that it is unhealthy), 2 called wrongly.
"""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where app/doctor/ is

from app.doctor.command_line import Options, main
from app.doctor.steps import Steps


def check(steps: Steps, options: Options) -> None:
    from app.doctor import health, wire  # after `main` has found requests

    health.run_paths(steps, health.Health(wire.Wire(options)))


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "health", check, os.environ))
