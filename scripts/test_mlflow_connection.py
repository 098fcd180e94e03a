#!/usr/bin/env python3
"""Check the way to MLflow through the proxy, hop by hop, and say where it ends.

DNS, TCP, TLS, the proxy itself, its door (no key, a bad key, the key in each of its four forms)
and MLflow behind it. Writes nothing to MLflow. Exit status: 0 all well, 1 a step failed, 2 called
wrongly.
"""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where app/doctor/ is

from app.doctor.command_line import Options, main
from app.doctor.steps import Steps


def check(steps: Steps, options: Options) -> None:
    from app.doctor import examination, health, wire  # after `main` has found requests

    way = wire.Wire(options)
    said = health.Health(way)
    examination.look(steps, way, said)
    health.run_last(steps, said)


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "connection", check, os.environ))
