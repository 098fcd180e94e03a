"""The environment of the person who runs a command: not settings of the proxy, but an address and a
key (app/doctor/command_line.py)."""

import os
from collections.abc import Mapping


def environment() -> Mapping[str, str]:
    """All variables."""
    return os.environ
