"""The Python environments: made from their lock files, and repaired when incomplete.

    python3 -m devstack.environments development mlflow-server

Imports only the standard library: it runs before anything is installed. A
stamp inside an environment holds what it was made from. It is removed first and
written last, so an interrupted set-up is recognised and repeated. A file lock
keeps two calls apart; the installers inherit it, so it is held while any of
them still writes, even if this process is killed.
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
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """Present only in a whole environment; holds its fingerprint."""
        return self.folder / "made-from"


#: Name, folder, lock file without its suffix, and what a first set-up costs.
TABLE = (
    ("development", ".venv", "development", "up to a minute, 350 MB"),
    ("mlflow-server", ".venv-mlflow", "mlflow-server", "up to a few minutes, 650 MB"),
    # What `make bench` compares the proxy with, and what draws its plot.
    ("bench", ".venv-bench", "bench", "up to a minute, 150 MB"),
    ("basic-auth-server", ".venv-mlflow-basic-auth", "bench-basic-auth", "a few minutes, 650 MB"),
    # What builds the documentation as a site.
    ("docs", ".venv-docs", "docs", "up to a minute, 125 MB"),
    # A simulated AWS, and its client, for `make test-aws`.
    ("aws", ".venv-aws", "aws", "up to a minute, 180 MB"),
    # Servers that may stand in front of the proxy, for tests/fronts.
    ("fronts", ".venv-fronts", "fronts", "a minute, 330 MB"),
    # MLflow's clients that the drills call, side by side. 3.18 cannot be resolved yet.
    ("client-2.22", ".venv-clients/2.22", "client-2.22", "up to a minute, 100 MB"),
    ("client-3.6", ".venv-clients/3.6", "client-3.6", "up to a minute, 100 MB"),
    ("client-3.17", ".venv-clients/3.17", "client-3.17", "up to a minute, 100 MB"),
)
REQUIREMENTS = ROOT / "requirements"
INSTALLER_LOCK = REQUIREMENTS / "installer.lock"
BY_NAME = {
    name: Environment(ROOT / folder, REQUIREMENTS / f"{lock}.lock", cost)
    for name, folder, lock, cost in TABLE
}
DEVELOPMENT, MLFLOW_SERVER = BY_NAME["development"], BY_NAME["mlflow-server"]
BENCH, BASIC_AUTH_SERVER = BY_NAME["bench"], BY_NAME["basic-auth-server"]
DOCS, AWS, FRONTS = BY_NAME["docs"], BY_NAME["aws"], BY_NAME["fronts"]
CLIENTS = {version: BY_NAME[f"client-{version}"] for version in ("2.22", "3.6", "3.17")}


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
    """Install what the lock file lists: by uv, or by pip where uv does not run or fails."""
    if _has_uv(lock) and _run(_uv_sync(environment), lock) == 0:
        return
    _say("uv is not usable on this machine; falling back to pip, which takes a few minutes …")
    if _run(_pip_install(environment), lock) != 0:
        raise SetupFailed(
            f"could not install {environment.lock.name}: is a package registry reachable?"
        )


def _has_uv(lock: IO[str]) -> bool:
    """Whether the pinned uv is there, after a try to fetch it (a wheel, or not at all)."""
    if _uv().exists():
        return True
    fetch = _pip("install", "-q", "--only-binary=:all:", "--require-hashes")
    return _run([*fetch, "-r", str(INSTALLER_LOCK)], lock) == 0


def _uv() -> Path:
    return DEVELOPMENT.folder / "bin" / "uv"


def _uv_sync(environment: Environment) -> list[str]:
    locks = [str(environment.lock)]
    if environment is DEVELOPMENT:  # else uv would remove itself
        locks.append(str(INSTALLER_LOCK))
    python = str(environment.python)
    return [str(_uv()), "pip", "sync", "-q", "--require-hashes", "--python", python, *locks]


def _pip_install(environment: Environment) -> list[str]:
    target = ["--python", str(environment.python)]
    return _pip(*target, "install", "-q", "--require-hashes", "-r", str(environment.lock))


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
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not _is_writable(Path(cache)):
        environment.setdefault("UV_CACHE_DIR", str(ROOT / ".devstack" / "uv-cache"))
    return environment


def _pip_index() -> str:
    """Return the index in pip's configuration files; empty if there is none."""
    command = _pip("config", "get", "global.index-url")
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _is_writable(folder: Path) -> bool:
    """Whether files can be made in the folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


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
