"""What the test run's processes have to do with each other.

`make test` runs the tests in several processes, the workers of pytest-xdist. A file is run by one
worker, from its first test to its last, since its tests may share servers. Here is what goes beyond
one worker: the order of the files, the MLflow that all share, and the tests that want the machine
for themselves. Without workers the one process does everything, in the same order.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from devstack.mlflow import MLflow
from devstack.ports import HOST

# --- the order -----------------------------------------------------------------------------------


def slow_files_first(items: list[pytest.Item]) -> None:
    """The files with the most slow tests begin, so that the run does not end with one of them.

    A test that asserts times wants the machine for itself: its file comes last.
    """
    weights: dict[Path, tuple[bool, int]] = {}
    for item in items:
        timed, slow = weights.get(item.path, (False, 0))
        timed = timed or item.get_closest_marker("timing") is not None
        weights[item.path] = (timed, slow - (item.get_closest_marker("slow") is not None))
    items.sort(key=lambda item: weights[item.path])


# --- the machine for oneself ---------------------------------------------------------------------


class Room:
    """Where tests run: many at the same time, or one alone.

    Two locks on files. Whoever goes in takes the door for a moment, and whoever wants to be alone
    keeps it, so that nobody else comes in while those who are inside finish.
    """

    def __init__(self, folder: Path) -> None:
        self._door = (folder / "room.door").open("w")
        self._inside = (folder / "room.inside").open("w")

    @contextmanager
    def entered(self, alone: bool) -> Iterator[None]:
        """Be inside, perhaps alone."""
        with _locked(self._door, fcntl.LOCK_EX):
            fcntl.flock(self._inside, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(self._inside, fcntl.LOCK_UN)

    def close(self) -> None:
        """Leave nothing open."""
        self._door.close()
        self._inside.close()


@contextmanager
def _locked(file: IO[str], how: int) -> Iterator[None]:
    fcntl.flock(file, how)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


# --- MLflow --------------------------------------------------------------------------------------


class SharedMLflow:
    """The MLflow of all workers: the first one starts it, and ends it when all have left."""

    def __init__(self, folder: Path) -> None:
        """Starts it without waiting for it, or finds the one that was started."""
        self.server = MLflow(folder / "mlflow")
        self._users = (folder / "mlflow.users").open("w")
        fcntl.flock(self._users, fcntl.LOCK_SH)
        self._started = folder / "mlflow.started"
        with self._started.open("a+") as started, _locked(started, fcntl.LOCK_EX):
            started.seek(0)
            found = started.read()
            self._is_ours = not found
            if self._is_ours:
                self.server.start()
                json.dump({"port": self.server.port, "pid": self.server.pid}, started)
            else:
                self.server = _Elsewhere(folder / "mlflow", **json.loads(found))

    def leave(self) -> None:
        """Of use to this process no longer. Waits for the others where it is ours to end."""
        fcntl.flock(self._users, fcntl.LOCK_UN)
        if self._is_ours:
            fcntl.flock(self._users, fcntl.LOCK_EX)
            self.server.stop()
            self._started.write_text("")
        self._users.close()


class _Elsewhere(MLflow):
    """A server that another process has started, and will end."""

    def __init__(self, folder: Path, port: int, pid: int) -> None:
        super().__init__(folder)
        self.port, self._pid = port, pid
        self._began = time.monotonic()
        self.url = f"http://{HOST}:{port}"

    def is_running(self) -> bool:
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return False
        return True
