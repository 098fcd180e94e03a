"""Folders that the processes of one instance share, made when they are missing.

A folder can vanish under a running instance (a session cleaner, `systemd-tmpfiles`, an operator's
`rm`), so each process makes it again when it needs it.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def make(folder: Path) -> None:
    """Make the folder, for this user alone, unless it is there.

    Raises OSError where it cannot be made, where something else is in its place, and where it
    belongs to a user other than this one or root: in a place that everybody may write to, such as
    /dev/shm, another user could make a folder of that name and put forged data into it.
    """
    folder.mkdir(0o700, parents=True, exist_ok=True)
    owner = os.stat(folder).st_uid
    if owner not in (os.geteuid(), 0):
        raise PermissionError(f"the folder {folder} belongs to another user (uid {owner})")


@contextmanager
def locked(folder: Path, *, shared: bool, timeout: float) -> Iterator[bool]:
    """Lock the folder for this process, or with others that share it. Yields False if that takes
    more than `timeout` seconds. Polls, so that a worker serves others meanwhile. Raises OSError."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _lock(directory, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, timeout)
    finally:
        os.close(directory)  # which also releases the lock


def _lock(directory: int, kind: int, timeout: float) -> bool:
    end = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(directory, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
