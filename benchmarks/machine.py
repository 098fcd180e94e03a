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

#: Program → option that prints its version, Debian package, where to get it elsewhere.
PROGRAMS = {
    "nginx": ("-v", "nginx-light", "https://nginx.org/en/download.html"),
    "wrk": ("-v", "wrk", "https://github.com/wg/wrk"),
    "curl": ("--version", "curl", "https://curl.se/download.html"),
}

#: Where Debian keeps nginx; not on every user's PATH.
SYSTEM_PATHS = "/usr/local/sbin:/usr/sbin:/sbin"

Description = Mapping[str, Any]


def describe() -> Description:
    """The machine and the versions, without any name of a host, a user or a folder."""
    return {
        "processor": _processor(),
        "cores": core_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": _versions(),
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


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _versions() -> dict[str, str]:
    """Of packages by the lock files that their environments were made from."""
    versions = {}
    for environment in filter(is_whole, PACKAGES):
        lock = environment.lock.read_text("utf-8")
        for name in PACKAGES[environment]:
            if found := re.search(rf"^{name}==(\S+)", lock, re.MULTILINE):
                versions[name] = found[1]
    for program, (option, _, _) in PROGRAMS.items():
        if path := find(program):
            done = subprocess.run([path, option], capture_output=True, text=True, check=False)
            if found := re.search(r"\d\S*", done.stdout + done.stderr):
                versions[program] = found[0]
    return versions


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


def find(program: str) -> str | None:
    """The path of a program, or None."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATHS}")


def need(program: str) -> str:
    """The path of a program; raises Missing."""
    if path := find(program):
        return path
    _, package, home = PROGRAMS[program]
    raise Missing(
        f"{program} is missing. Debian, Ubuntu: apt-get install {package}; elsewhere: {home}"
    )


def install_missing(say: Callable[[str], None]) -> None:
    """Install missing programs with apt-get, where it exists and this user is root."""
    packages = [PROGRAMS[program][1] for program in PROGRAMS if find(program) is None]
    apt = shutil.which("apt-get")
    if not packages or apt is None or os.geteuid() != 0:
        return
    say(f"installing {', '.join(packages)} with apt-get …")
    install = [apt, "install", "-y", "-q", "--no-install-recommends", *packages]
    if not _succeeds(install) and not (_succeeds([apt, "update", "-q"]) and _succeeds(install)):
        say("apt-get failed; the parts that need these programs are left out")


def _succeeds(command: list[str]) -> bool:
    """Whether a command succeeded; its errors are printed if not."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr.strip()[-2000:])
    return done.returncode == 0
