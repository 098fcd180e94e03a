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

from app.doctor import programs

if __name__ == "__main__":
    sys.exit(programs.check_health(__doc__ or "", os.environ))
