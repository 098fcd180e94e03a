#!/usr/bin/env python3
"""Check the way to MLflow through the proxy, hop by hop, and say where it ends.

DNS, TCP, TLS, the proxy itself, its door (no key, a bad key, the key in each of its four forms)
and MLflow behind it. Writes nothing to MLflow. Exit status: 0 all well, 1 a step failed, 2 called
wrongly.
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
    from app.doctor.examination import look  # after `parse` has found that requests is there
    from app.doctor.parts import Parts, run_last
    from app.doctor.wire import Wire

    title = "Hokusai MLflow proxy: connection"
    steps = Steps(title, options.facts(), redactor(options.key), options.json)
    with Interruption(steps):
        wire = Wire(options)
        health = Parts(wire)
        look(steps, wire, health)
        run_last(steps, health)
    return steps.finish()


if __name__ == "__main__":
    sys.exit(main())
