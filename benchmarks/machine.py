"""On which machine, with which versions: what a reader needs to judge the numbers."""

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

from benchmarks import tools
from devstack.environments import BENCH, DEVELOPMENT, MLFLOW_SERVER, Environment

#: A load above this share of the cores, before anything was started, makes the numbers rough.
BUSY = 0.5

#: What is looked up in which environment.
PACKAGES = {
    DEVELOPMENT: ("gunicorn", "gevent", "flask", "urllib3", "redis"),
    MLFLOW_SERVER: ("mlflow",),
    BENCH: ("fastapi", "httpx", "uvicorn"),
}

ASK = """
import sys
from importlib.metadata import version
for name in sys.argv[1:]:
    print(name, version(name))
"""


def describe() -> dict[str, object]:
    """The machine and the versions; no name of a host, a user or a folder is in it."""
    return {
        "processor": _processor(),
        "cores": core_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": _versions(),
    }


def core_count() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def is_busy(machine: Mapping[str, object]) -> bool:
    """Whether the machine had other work to do when the benchmark began."""
    return float(str(machine["load_before"])) > BUSY * core_count()


def sentence(machine: Mapping[str, object]) -> str:
    """The description in words."""
    versions = machine["versions"]
    assert isinstance(versions, dict)
    names = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, "
        f"{machine['system']}, Python {machine['python']}; {names}"
    )


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for environment, names in PACKAGES.items():
        found |= _installed(environment, names)
    for program in ("nginx", "wrk", "curl"):
        if said := tools.version(program):
            found[program] = re.sub(r"^\D+", "", said.removeprefix(program).strip(" /"))
    return found


def _installed(environment: Environment, names: tuple[str, ...]) -> dict[str, str]:
    if not environment.python.exists():
        return {}
    done = subprocess.run(
        [environment.python, "-c", ASK, *names], capture_output=True, text=True, check=False
    )
    return dict(line.split() for line in done.stdout.splitlines())
