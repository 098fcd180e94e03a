"""One holder at a time per subject, across the threads and worker processes of this instance.

N concurrent requests with one uncached key must make one call to the auth service: the first one
calls, the others wait for the lock and find the decision in the cache.
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
    """Locks by subject. Between processes it is a lock on one byte of a shared file, at an offset
    taken from the subject: no files to clean up, and the lock of a process that dies is released
    (POSIX record locks, fcntl(2))."""

    def __init__(self, lock_file: Path | None, most_waiting: int = 1000) -> None:
        """`lock_file` is shared by the instance's workers; None with a single process.
        `most_waiting` bounds the requests that wait for the auth service: each holds a connection,
        and health checks need some."""
        self._waiting, self._most_waiting = 0, most_waiting
        self._locks: dict[str, tuple[threading.Lock, int]] = {}
        self._guard = threading.Lock()
        self._path = lock_file
        self._file: _LockFile | None = None

    @property
    def is_full(self) -> bool:
        """Whether no further request may wait."""
        return self._waiting >= self._most_waiting

    @contextlib.contextmanager
    def lock(self, subject: str, timeout: float) -> Iterator[None]:
        """Hold the lock of `subject` (hex digits). Waits at most `timeout` seconds for another
        process, then proceeds without the lock: calling twice is better than not calling."""
        lock = self._enter(subject)
        try:
            with lock, self._process_lock(subject, timeout):
                yield
        finally:
            self._leave(subject)

    def _enter(self, subject: str) -> threading.Lock:
        with self._guard:
            lock, waiting = self._locks.get(subject, (threading.Lock(), 0))
            self._locks[subject] = (lock, waiting + 1)
            self._waiting += 1
            return lock

    def _leave(self, subject: str) -> None:
        with self._guard:
            lock, waiting = self._locks[subject]
            self._waiting -= 1
            if waiting == 1:
                del self._locks[subject]
            else:
                self._locks[subject] = (lock, waiting - 1)

    @contextlib.contextmanager
    def _process_lock(self, subject: str, timeout: float) -> Iterator[None]:
        file = self._lock_file()  # kept open here: another holder may replace it
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
        """The open lock file, created if missing. None without a path, or if it cannot be opened:
        then each process locks for itself only, and health reports the reason."""
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
    """An open file, closed when its last user releases it."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self.number = os.open(path, flags, 0o600)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)

    def is_at(self, path: Path) -> bool:
        """Whether the file at `path` is still this one, not removed or replaced."""
        try:
            return os.path.samestat(os.stat(path), os.fstat(self.number))
        except FileNotFoundError:
            return False


def _lock_byte(file: int, offset: int, timeout: float) -> bool:
    """Lock one byte; False after `timeout` seconds. Polls with back-off: a blocking lock would stop
    every greenlet of the worker."""
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
