"""What the test run's processes have to do with each other.

`make test` runs the tests in several processes, the workers of pytest-xdist. A file is run by one
worker, from its first test to its last, since its tests may share servers. Here is what goes beyond
one worker: the order of the files, the MLflow that all share, and the tests that want the machine
for themselves. Those come last, one by one, so that four workers prepare them while one measures.
Without workers the one process does everything, in the same order.
"""

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from xdist.scheduler import LoadFileScheduling

from devstack.mlflow import MLflow
from devstack.ports import HOST

TOGETHER = "tests/tenants/"  # one worker gets all of this folder: its files share an MLflow
TIMED = "timed"  # the list of timed tests, a file in the folder that all share

# --- the order -----------------------------------------------------------------------------------


def slow_files_first(items: list[pytest.Item]) -> None:
    """The files with the most slow tests begin, so that the run does not end with one of them.

    The tests that assert times come after all others.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (is_timed(item), -slow[item.path]))


def is_timed(item: pytest.Item) -> bool:
    """Whether the test wants the machine for itself, as a whole or by the fixture `alone`."""
    return item.get_closest_marker("timing") is not None or "alone" in getattr(
        item, "fixturenames", ()
    )


class TimedApart(LoadFileScheduling):  # type: ignore[misc]
    """A worker gets a whole file, or all files of `TOGETHER`, save that each timed test goes to the
    next one that is free.

    Only workers know which tests those are: each writes the same list into the shared folder.
    """

    def __init__(self, config: pytest.Config, log: Any, folder: Path) -> None:
        super().__init__(config, log)
        self._list = folder / TIMED

    def _split_scope(self, nodeid: str) -> str:
        timed = self._list.read_text().splitlines()
        if nodeid in timed:
            return nodeid
        return TOGETHER if nodeid.startswith(TOGETHER) else str(super()._split_scope(nodeid))


def list_timed_tests(items: list[pytest.Item], folder: Path) -> None:
    """Write the list for `TimedApart`, whole at any time."""
    written = folder / f"{TIMED}.{os.getpid()}"
    written.write_text("\n".join(item.nodeid for item in items if is_timed(item)))
    written.replace(folder / TIMED)


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
        self._enter(fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(self._inside, fcntl.LOCK_UN)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be alone for a while, for one who is inside already."""
        fcntl.flock(self._inside, fcntl.LOCK_UN)
        self._enter(fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._inside, fcntl.LOCK_SH)

    def _enter(self, how: int) -> None:
        with _locked(self._door, fcntl.LOCK_EX):
            fcntl.flock(self._inside, how)

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
                started.flush()  # before the lock goes, or the next one starts it again
            else:
                self.server = _Elsewhere(folder / "mlflow", **json.loads(found))

    def leave(self) -> None:
        """Of use to this process no longer. Waits for the others where it is ours to end."""
        fcntl.flock(self._users, fcntl.LOCK_UN)
        if self._is_ours:
            fcntl.flock(self._users, fcntl.LOCK_EX)
            self.server.kill()
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
