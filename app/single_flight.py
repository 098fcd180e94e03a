"""One at a time per subject, across the threads and the worker processes of this instance.

N requests at once with one key that is not cached must make one call to the auth service: the first
one asks, the others wait for their turn and find the answer in the cache.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path


class SingleFlight:
    """Turns by subject. Between processes a turn is a lock on one byte of a shared file, at an
    offset taken from the subject: no files to clean up, and a process that dies gives its lock back
    (POSIX record locks, fcntl(2))."""

    def __init__(self, lock_file: Path | None) -> None:
        """`lock_file` is shared by the instance's workers; None where there is one process."""
        self._turns: dict[str, tuple[threading.Lock, int]] = {}
        self._guard = threading.Lock()
        self._file = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o600) if lock_file else None

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
        if self._file is None:
            yield
            return
        offset = int(subject[:15], 16)
        locked = _lock_byte(self._file, offset, timeout)
        try:
            yield
        finally:
            if locked:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, offset)


def _lock_byte(file: int, offset: int, timeout: float) -> bool:
    """Whether the byte could be locked in time. Asks again and again instead of blocking: a
    blocking lock would stop every greenlet of the worker."""
    deadline = time.monotonic() + timeout
    pause = 0.002
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
