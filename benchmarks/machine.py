"""The machine: its description, its cores, the programs that are needed on it."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from devstack.environments import BENCH, DEVELOPMENT, MLFLOW_SERVER, is_whole

#: Load per core, before anything was started, above which the numbers are rough.
BUSY = 0.5

#: The packages whose versions a description names.
PACKAGES = {
    DEVELOPMENT: ("gunicorn", "gevent", "flask", "urllib3", "redis"),
    MLFLOW_SERVER: ("mlflow",),
    BENCH: ("fastapi", "httpx", "uvicorn"),
}

#: Program → option that prints its version, Debian package.
PROGRAMS = {"nginx": ("-v", "nginx-light"), "wrk": ("-v", "wrk"), "curl": ("-V", "curl")}

#: Where Debian keeps nginx; not on every user's PATH.
SYSTEM_PATHS = "/usr/local/sbin:/usr/sbin:/sbin"

Description = Mapping[str, Any]


def describe() -> Description:
    """The machine and the versions, without any name of a host, a user or a folder."""
    processor = re.search(r"(?m)^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text())
    return {
        "processor": processor[1] if processor else platform.machine(),
        "cores": core_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": dict(_versions()),
    }


def is_busy(machine: Description) -> bool:
    """Whether the machine had other work to do when the benchmark began."""
    return float(machine["load_before"]) > BUSY * int(machine["cores"])


def sentence(machine: Description) -> str:
    """The description in words."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, "
        f"{machine['system']}, Python {machine['python']}; {versions}"
    )


def _versions() -> Iterator[tuple[str, str]]:
    """Of packages by the lock files that their environments were made from; of programs."""
    for environment in filter(is_whole, PACKAGES):
        pins = dict(re.findall(r"(?m)^([\w-]+)==(\S+)", environment.lock.read_text("utf-8")))
        yield from ((name, pins[name]) for name in PACKAGES[environment] if name in pins)
    for program in filter(_find, PROGRAMS):
        command = [need(program), PROGRAMS[program][0]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if found := re.search(r"\d\S*", done.stdout + done.stderr):
            yield program, found[0]


# --- cores ---------------------------------------------------------------------------------------


def core_count() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def split_cores() -> tuple[Collection[int], Collection[int]]:
    """(a core for the contestant, the others for its load); the same one twice if there is one."""
    first, *others = sorted(os.sched_getaffinity(0))
    return [first], others or [first]


@contextmanager
def on_cores(cores: Collection[int] | None) -> Iterator[None]:
    """Bind this process, and what it starts meanwhile, to these cores; None binds nothing."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# --- programs ------------------------------------------------------------------------------------


class Missing(Exception):
    """A program is not installed; the message says how to get it."""


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATHS}")


def need(program: str) -> str:
    """The path of a program; raises Missing."""
    if path := _find(program):
        return path
    raise Missing(f"{program} is missing. Debian, Ubuntu: apt-get install {PROGRAMS[program][1]}")


def install_missing(say: Callable[[str], None]) -> None:
    """Install missing programs with apt-get, where it exists and this user is root."""
    packages = " ".join(package for name, (_, package) in PROGRAMS.items() if not _find(name))
    if packages and shutil.which("apt-get") and os.geteuid() == 0:
        say(f"installing {packages} with apt-get …")
        command = f"(apt-get update && apt-get install -y --no-install-recommends {packages})"
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(f"{command} > /dev/null", shell=True, env=environment, check=False)
