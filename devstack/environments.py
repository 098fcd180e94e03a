"""The Python environments: made from their lock files, and repaired when incomplete.

    python3 -m devstack.environments development mlflow-server

Imports only the standard library: it runs before anything is installed. A stamp inside an
environment holds what it was made from. It is removed first and written last, so an interrupted
set-up is recognised and repeated. A file lock keeps two calls apart; the installers inherit it, so
it is held while any of them still writes, even if this process is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
LOCK_FILE = ROOT / ".devstack" / "install.lock"
HEARTBEAT_SECONDS = 3.0
OLDEST = (3, 11)
NEWER = ("python3.13", "python3.12", "python3.11")


@dataclass(frozen=True)
class Environment:
    """Its folder and lock file, and what a first set-up costs, as text."""

    folder: Path
    lock: Path
    cost: str

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """Present only in a whole environment; holds its fingerprint."""
        return self.folder / "made-from"


REQUIREMENTS = ROOT / "requirements"
INSTALLER_LOCK = REQUIREMENTS / "installer.lock"


def _environment(folder: str, lock: str, cost: str) -> Environment:
    return Environment(ROOT / folder, REQUIREMENTS / f"{lock}.lock", cost)


DEVELOPMENT = _environment(".venv", "development", "up to a minute, 350 MB")
MLFLOW_SERVER = _environment(".venv-mlflow", "mlflow-server", "up to a few minutes, 650 MB")
#: What `make bench` compares the proxy with, and what draws its plot.
BENCH = _environment(".venv-bench", "bench", "up to a minute, 150 MB")
BASIC_AUTH_SERVER = _environment(
    ".venv-mlflow-basic-auth", "bench-basic-auth", "a few minutes, 650 MB"
)
#: What builds the documentation as a site.
DOCS = _environment(".venv-docs", "docs", "up to a minute, 125 MB")
#: A simulated AWS, and its client, for `make test-aws`.
AWS = _environment(".venv-aws", "aws", "up to a minute, 180 MB")
#: Servers that may stand in front of the proxy, for tests/fronts.
FRONTS = _environment(".venv-fronts", "fronts", "a minute, 330 MB")
#: MLflow's clients that the drills call, side by side. 3.18 cannot be resolved yet.
CLIENTS = {
    version: _environment(f".venv-clients/{version}", f"client-{version}", "a minute, 100 MB")
    for version in ("2.22", "3.6", "3.17")
}

#: By their names on the command line.
BY_NAME = {
    "development": DEVELOPMENT,
    "mlflow-server": MLFLOW_SERVER,
    "bench": BENCH,
    "basic-auth-server": BASIC_AUTH_SERVER,
    "docs": DOCS,
    "aws": AWS,
    "fronts": FRONTS,
    **{f"client-{version}": client for version, client in CLIENTS.items()},
}


class SetupFailed(Exception):
    """An environment could not be made; the message says what to do."""


def ensure(*environments: Environment) -> None:
    """Make or repair the environments; quick if there is nothing to do. Raises SetupFailed."""
    if all(is_whole(environment) for environment in environments):
        return
    with _alone() as lock:
        for environment in environments:
            if not is_whole(environment):
                _make(environment, lock)


def is_whole(environment: Environment) -> bool:
    """Whether the environment was completed from the current lock file, in this place."""
    try:
        return environment.stamp.read_text() == _fingerprint(environment)
    except OSError:
        return False


def _fingerprint(environment: Environment) -> str:
    """Return what it depends on: pins, interpreter, and its place (scripts hold the path)."""
    pins = hashlib.sha256(INSTALLER_LOCK.read_bytes() + environment.lock.read_bytes()).hexdigest()
    version = ".".join(str(part) for part in sys.version_info[:3])
    return f"{pins}\nPython {version}\n{environment.folder}\n"


@contextlib.contextmanager
def _alone() -> Iterator[IO[str]]:
    """Hold the set-up lock; report it if another call has it."""
    LOCK_FILE.parent.mkdir(exist_ok=True)
    with LOCK_FILE.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another set-up is running here; waiting for it to finish …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def _make(environment: Environment, lock: IO[str]) -> None:
    name = environment.folder.name
    _say(f"{name}: installing from {environment.lock.name} (first time: {environment.cost}) …")
    began = time.monotonic()
    reusable = environment.stamp.exists() and _runs(environment.python)
    environment.stamp.unlink(missing_ok=True)
    if not reusable:
        _create(environment, lock)
    _install(environment, lock)
    environment.stamp.write_text(_fingerprint(environment))
    _say(f"{name}: ready after {time.monotonic() - began:.0f} s")


def _runs(python: Path) -> bool:
    """Whether the interpreter is there and is of this process's version."""
    wanted = f"import sys; sys.exit(sys.version_info[:3] != {tuple(sys.version_info[:3])})"
    try:
        return subprocess.run([python, "-c", wanted], check=False).returncode == 0
    except OSError:
        return False


def _create(environment: Environment, lock: IO[str]) -> None:
    """Make an empty environment. Only `development` gets pip, which installs for all."""
    arguments = [sys.executable, "-m", "venv", "--clear", str(environment.folder)]
    if environment is not DEVELOPMENT:
        arguments.insert(-1, "--without-pip")
    if _run(arguments, lock) != 0:
        raise SetupFailed(
            "python3 -m venv failed (see above). On Debian or Ubuntu: apt install python3-venv"
        )


def _install(environment: Environment, lock: IO[str]) -> None:
    """Install what the lock file lists: by the pinned uv, or by pip where uv does not run or fails.

    uv itself comes as a wheel, or not at all.
    """
    uv, pins = DEVELOPMENT.folder / "bin" / "uv", ["-q", "--require-hashes"]
    if not uv.exists():
        wheel = ["--only-binary=:all:", "-r", str(INSTALLER_LOCK)]
        _run(_pip("install", *pins, *wheel), lock)
    target = ["--python", str(environment.python)]
    locks = [str(environment.lock)]
    if environment is DEVELOPMENT:  # else uv would remove itself
        locks.append(str(INSTALLER_LOCK))
    if uv.exists() and _run([str(uv), "pip", "sync", *pins, *target, *locks], lock) == 0:
        return
    _say("uv is not usable on this machine; falling back to pip, which takes a few minutes …")
    if _run(_pip(*target, "install", *pins, "-r", str(environment.lock)), lock) != 0:
        raise SetupFailed(
            f"could not install {environment.lock.name}: is a package registry reachable?"
        )


def _pip(*arguments: str) -> list[str]:
    return [str(DEVELOPMENT.python), "-m", "pip", *arguments]


def _run(command: Sequence[str], lock: IO[str]) -> int:
    """Run an installer and return its exit status. Its output is shown when it fails."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        with subprocess.Popen(
            command,
            env=_installer_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()],
        ) as process:
            status = _wait(process)
        if status != 0:
            output.seek(0)
            _say(output.read().strip())
    return status


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Return the exit status. Meanwhile report the time taken, and how much the disk filled."""
    began, used = time.monotonic(), shutil.disk_usage(ROOT).used
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(HEARTBEAT_SECONDS)
            written = max(0, shutil.disk_usage(ROOT).used - used) // 1_000_000
            _say(f"  … {time.monotonic() - began:.0f} s, {written} MB")
    finally:
        process.kill()  # after Ctrl-C; one that has ended is left alone


def _installer_environment() -> dict[str, str]:
    """Return this process's environment, with pip's index for uv, which reads no pip files."""
    environment = dict(os.environ)
    if index := os.environ.get("PIP_INDEX_URL") or _pip_index():
        environment.setdefault("UV_DEFAULT_INDEX", index)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    if not os.access(cache, os.W_OK):
        environment.setdefault("UV_CACHE_DIR", str(ROOT / ".devstack" / "uv-cache"))
    return environment


def _pip_index() -> str:
    """Return the index in pip's configuration files; empty if there is none."""
    command = _pip("config", "get", "global.index-url")
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(names: Sequence[str]) -> int:
    """Ensure the named environments; return the exit status."""
    if sys.version_info < OLDEST:
        return _hand_over(names)
    try:
        ensure(*(BY_NAME[name] for name in names))
    except SetupFailed as failure:
        _say(f"set-up failed: {failure}")
        return 1
    except KeyboardInterrupt:
        _say("\nset-up interrupted; the next call repeats it")
        return 130
    return 0


def _hand_over(names: Sequence[str]) -> int:
    """Run this module with a newer Python, if `python3` is too old."""
    for candidate in NEWER:
        if shutil.which(candidate) and _works(candidate):
            os.execvp(candidate, [candidate, "-m", "devstack.environments", *names])
    _say("Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3 …")
    return 1


def _works(python: str) -> bool:
    """Whether it runs. A version manager's shim may only say how to install that Python."""
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
