"""What the proxy makes of its environment: gunicorn.conf.py and config/, as they are."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from config import Settings, load
from tests.infrastructure.deployment import ROOT

GUNICORN = Path(sys.executable).with_name("gunicorn")


@dataclass(frozen=True)
class Served:
    """Times in seconds, as gunicorn prints them; and the settings."""

    keepalive: int
    graceful_timeout: int
    bind: str
    settings: Settings


def served(environment: Mapping[str, str]) -> Served:
    """The proxy's time-outs with these environment variables set."""
    return _served(frozenset(environment.items()))


@cache
def _served(items: frozenset[tuple[str, str]]) -> Served:
    environment = dict(items)
    with tempfile.TemporaryDirectory() as folder:
        own = {"PATH": os.environ["PATH"], "INSTANCE_FOLDER": folder}
        finished = subprocess.run(
            [GUNICORN, "--print-config", "-c", "gunicorn.conf.py", "wsgi:app"],
            cwd=ROOT,
            env=own | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    values = dict(re.findall(r"^(\w+) += (.*)$", finished.stdout, re.MULTILINE))
    return Served(
        int(values["keepalive"]),
        int(values["graceful_timeout"]),
        values["bind"],
        load(environment),
    )
