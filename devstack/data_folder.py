"""The folder in which one `make run` keeps its data, locked while it runs."""

import fcntl
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from devstack.environments import ROOT

BASE = ROOT / ".devstack"
MOST = 9


@dataclass(frozen=True)
class DataFolder:
    """A folder that is locked as long as `lock` is open, at most until this process ends."""

    folder: Path
    lock: IO[str]

    @property
    def logs(self) -> Path:
        """Where the servers' logs are."""
        return self.folder / "logs"

    def key_file(self, whose: str = "") -> Path:
        """Where an API key of `make run` is kept, readable by its owner only."""
        return self.folder / f"key{'-' if whose else ''}{whose}"


def claim(folder: Path | None = None, base: Path | None = None) -> DataFolder:
    """Lock the given folder, or the first of `base` (.devstack), `base`/2, … that no run holds.
    Raises BlockingIOError if none is free."""
    base = base or BASE
    candidates = [folder] if folder else [base, *(base / str(n) for n in range(2, MOST + 1))]
    for candidate in candidates:
        if data := _try(candidate.absolute()):
            return data
    raise BlockingIOError(f"another run uses {candidates[-1]}")


def _try(folder: Path) -> DataFolder | None:
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "run.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return DataFolder(folder, lock)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text)
