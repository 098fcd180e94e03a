"""Folders shared by the processes of one instance, created when missing.

A folder can vanish under a running instance (a session cleaner, `systemd-tmpfiles`, an operator's
`rm`), so each process recreates it when needed.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def make(folder: Path) -> None:
    """Create the folder with mode 0700 unless it exists.

    Raises OSError if it cannot be created, if something else is in its place, and if its owner is
    neither this user nor root: in a world-writable place such as /dev/shm, another user could
    create a folder of that name with forged data.
    """
    folder.mkdir(0o700, parents=True, exist_ok=True)
    owner = os.stat(folder).st_uid
    if owner not in (os.geteuid(), 0):
        raise PermissionError(f"the folder {folder} belongs to another user (uid {owner})")


@contextmanager
def locked(folder: Path, *, shared: bool, timeout: float) -> Iterator[bool]:
    """Lock the folder, exclusively or shared. Yields False if the lock is not free within `timeout`
    seconds. Polls, so the worker serves other requests meanwhile. Raises OSError."""
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
