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

from app.doctor import programs

if __name__ == "__main__":
    sys.exit(programs.check_registration(__doc__ or "", os.environ))
