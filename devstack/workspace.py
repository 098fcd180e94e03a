"""The folder in which one `make run` keeps its data, locked while it runs."""

import fcntl
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from devstack.environments import ROOT

BASE = ROOT / ".devstack"
MOST = 9


@dataclass(frozen=True)
class Workspace:
    """A folder that is locked as long as `lock` is open, at most until this process ends."""

    folder: Path
    lock: IO[str]

    @property
    def logs(self) -> Path:
        """Where the servers' logs are."""
        return self.folder / "logs"

    @property
    def key_file(self) -> Path:
        """Where the first API key is kept, readable by its owner only."""
        return self.folder / "key"


def claim(folder: Path | None = None) -> Workspace:
    """Lock the given folder, or the first of `.devstack`, `.devstack/2`, … that no run holds.
    Raises BlockingIOError if none is free."""
    candidates = [folder] if folder else [BASE, *(BASE / str(n) for n in range(2, MOST + 1))]
    for candidate in candidates:
        if workspace := _try(candidate.absolute()):
            return workspace
    raise BlockingIOError(f"another run uses {candidates[-1]}")


def _try(folder: Path) -> Workspace | None:
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "run.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return Workspace(folder, lock)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text)
