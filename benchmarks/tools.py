"""The programs that do the load: wrk and curl; and nginx, a peer. Found, installed, or named.

On Debian or Ubuntu, as root, what is missing is installed by apt-get. Elsewhere the message says
how to get it.
"""

import os
import shutil
import subprocess
from collections.abc import Callable

#: Program → Debian package, and where to get it elsewhere.
PACKAGES = {
    "wrk": ("wrk", "https://github.com/wg/wrk"),
    "curl": ("curl", "https://curl.se/download.html"),
    "nginx": ("nginx-light", "https://nginx.org/en/download.html"),
}

#: Where Debian keeps nginx; not on every user's PATH.
ELSEWHERE = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class Missing(Exception):
    """A program is not there and could not be installed; the message says how to get it."""


def find(program: str) -> str | None:
    """The program's path, or None."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *ELSEWHERE))
    return shutil.which(program, path=path)


def need(program: str) -> str:
    """The program's path; Missing if it is not there."""
    path = find(program)
    if path is None:
        package, home = PACKAGES[program]
        raise Missing(
            f"{program} is missing. Debian, Ubuntu: apt-get install {package}; elsewhere: {home}"
        )
    return path


def install_missing(say: Callable[[str], None]) -> None:
    """Installs what is missing, where this user may and apt-get is there."""
    packages = [PACKAGES[program][0] for program in PACKAGES if find(program) is None]
    apt = shutil.which("apt-get")
    if not packages or apt is None or os.geteuid() != 0:
        return
    say(f"installing {', '.join(packages)} with apt-get …")
    install = [apt, "install", "-y", "-q", "--no-install-recommends", *packages]
    if not _quietly(install) and not (_quietly([apt, "update", "-q"]) and _quietly(install)):
        say("apt-get could not do it; what needs them is left out")


def _quietly(command: list[str]) -> bool:
    """Whether a command succeeded; what it says is shown only if it did not."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr.strip()[-2000:])
    return done.returncode == 0


def version(program: str) -> str | None:
    """What the program says of its version; None if it is not there."""
    path = find(program)
    if path is None:
        return None
    option = {"wrk": "-v", "nginx": "-v"}.get(program, "--version")
    done = subprocess.run([path, option], capture_output=True, text=True, check=False)
    first = (done.stdout + done.stderr).strip().splitlines()[0]
    return " ".join(first.removeprefix("nginx version: ").split()[:2])
