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

from app.doctor import programs

if __name__ == "__main__":
    sys.exit(programs.check_connection(__doc__ or "", os.environ))
