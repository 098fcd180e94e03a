"""A log stream with a live reader: a pipe, a socket, a terminal.

The reader may stop (a log driver whose service is down, a paused terminal) or be slow (a throttled
driver). A plain write then blocks the worker, health checks included, or the master. Here a write
never blocks for longer than LONGEST_WAIT, and for at most a tenth of the time.
"""

import errno
import os
import stat
import time
from contextlib import suppress
from select import PIPE_BUF, POLLOUT, poll  # the real one: gevent has not replaced it yet

#: Maximum milliseconds that a line waits for its reader.
LONGEST_WAIT = 100

#: After a wait, the minimum pause before the next one, as a multiple of its length. Each line that
#: waits for a slow reader makes all requests as slow as the reader.
REST = 9

#: Attempts to write if poll reports room and the write accepts nothing: another process was
#: faster.
TRIES = 3


class Outlet:
    """A text stream, as far as logging's handlers need one; `file` is its descriptor."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._room = poll()
        self._room.register(file, POLLOUT)
        self._is_stuck = self._is_cut = False
        self._rests_until = 0.0

    def write(self, text: str) -> None:
        """Write all of it. Raises BlockingIOError if the reader is stuck. After a partial line, the
        next one begins on a new line."""
        data = text.encode(errors="backslashreplace")
        if self._is_cut:
            data = b"\n" + data
        rest = memoryview(data)
        while rest:
            taken = self._take(rest[:PIPE_BUF])
            if not taken:
                self._is_cut = self._is_cut or len(rest) < len(data)
                raise BlockingIOError(errno.EAGAIN, "the reader is stuck")
            rest = rest[taken:]
        self._is_cut = False

    def has_room(self) -> bool:
        """Whether the reader accepts data. Wait for a slow reader, unless a wait has just ended,
        but not for a stuck one."""
        began = time.monotonic()
        waits = not self._is_stuck and began >= self._rests_until
        self._is_stuck = not self._room.poll(LONGEST_WAIT if waits else 0)
        if waits:
            now = time.monotonic()
            self._rests_until = now + REST * (now - began)
        return not self._is_stuck

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    def fileno(self) -> int:
        """The descriptor."""
        return self._file

    def close(self) -> None:
        """Closes the descriptor."""
        os.close(self._file)

    def _take(self, piece: memoryview) -> int:
        """Write a piece; return how many bytes were accepted."""
        for _ in range(TRIES):
            if not self.has_room():
                return 0
            with suppress(BlockingIOError):
                return os.write(self._file, piece)
        return 0


def has_reader(file: int) -> bool:
    """Whether the descriptor is a pipe, a socket or a terminal, which has a live reader."""
    mode = os.fstat(file).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(file)


def opened_anew(file: int) -> int:
    """Open a separate, non-blocking descriptor for the same pipe or terminal. Making the shared one
    non-blocking would affect other processes. A terminal that reports room may have one byte of it.

    Falls back to a duplicate of the descriptor, for a socket.
    """
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/dev/fd/{file}", flags)
    except OSError:
        return os.dup(file)
