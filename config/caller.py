"""The environment of the person who runs a command: an address and a key for
app/doctor/command_line.py; not settings of the proxy."""

import os
from collections.abc import Mapping


def environment() -> Mapping[str, str]:
    """All variables."""
    return os.environ
