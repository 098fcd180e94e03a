"""One at a time per subject, across the threads and the worker processes of this instance.

N requests at once with one key that is not cached must make one call to the auth service: the first
one asks, the others wait for their turn and find the answer in the cache.
"""

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from app.observability import folders


class SingleFlight:
    """Turns by subject. Between processes a turn is a lock on one byte of a shared file, at an
    offset taken from the subject: no files to clean up, and a process that dies gives its lock back
    (POSIX record locks, fcntl(2))."""

    def __init__(self, lock_file: Path | None) -> None:
        """`lock_file` is shared by the instance's workers; None where there is one process."""
        self._turns: dict[str, tuple[threading.Lock, int]] = {}
        self._guard = threading.Lock()
        self._path = lock_file
        self._file: _LockFile | None = None

    @contextlib.contextmanager
    def turn(self, subject: str, timeout: float) -> Iterator[None]:
        """Waits for the turn of `subject` (hex digits), at most `timeout` seconds in another
        process's favour; after that it goes on regardless, since asking twice beats not asking."""
        lock = self._enter(subject)
        try:
            with lock, self._process_turn(subject, timeout):
                yield
        finally:
            self._leave(subject)

    def _enter(self, subject: str) -> threading.Lock:
        with self._guard:
            lock, waiting = self._turns.get(subject, (threading.Lock(), 0))
            self._turns[subject] = (lock, waiting + 1)
            return lock

    def _leave(self, subject: str) -> None:
        with self._guard:
            lock, waiting = self._turns[subject]
            if waiting == 1:
                del self._turns[subject]
            else:
                self._turns[subject] = (lock, waiting - 1)

    @contextlib.contextmanager
    def _process_turn(self, subject: str, timeout: float) -> Iterator[None]:
        file = self._lock_file()  # kept open here: another turn may replace it
        if file is None:
            yield
            return
        offset = int(subject[:15], 16)
        locked = _lock_byte(file.number, offset, timeout)
        try:
            yield
        finally:
            if locked:
                fcntl.lockf(file.number, fcntl.LOCK_UN, 1, offset)

    def _lock_file(self) -> "_LockFile | None":
        """The file that is in place, made if need be; None where there is none, or it cannot be
        opened: each process has turns of its own then, and health names the reason."""
        if self._path is None:
            return None
        try:
            if self._file is None or not self._file.is_at(self._path):
                folders.make(self._path.parent)
                self._file = _LockFile(self._path)
        except OSError:
            return None
        return self._file


class _LockFile:
    """An open file, closed when the last turn that uses it is over."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self.number = os.open(path, flags, 0o600)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)

    def is_at(self, path: Path) -> bool:
        """Whether it has not been removed, or replaced."""
        try:
            return os.path.samestat(os.stat(path), os.fstat(self.number))
        except FileNotFoundError:
            return False


def _lock_byte(file: int, offset: int, timeout: float) -> bool:
    """Whether the byte could be locked in time. Asks again and again instead of blocking: a
    blocking lock would stop every greenlet of the worker."""
    deadline = time.monotonic() + timeout
    pause = 0.002
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
            return True
        except OSError as why:
            if time.monotonic() > deadline or why.errno not in (errno.EACCES, errno.EAGAIN):
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
