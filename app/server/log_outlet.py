"""Where somebody reads the log as it comes: a pipe, a socket, a terminal.

The reader may stop: a log driver whose service is away, a terminal that somebody holds (Ctrl-S, a
container's with a stuck driver behind it), or be slow (a driver that is throttled). A plain write
then blocks the worker, health checks included, or the master. Here it never blocks for longer than
PATIENCE, and for a tenth of the time at most.
"""

import errno
import os
import stat
import time
from contextlib import suppress
from select import PIPE_BUF, POLLOUT, poll  # the real one: gevent has not replaced it yet

#: Milliseconds that a line waits for its reader.
PATIENCE = 100

#: After a wait nobody waits for so many times as long: each line that waits for a slow reader makes
#: all requests as slow as it is.
REST = 9

#: Writes that are tried where something says that it has room, and then takes nothing: another
#: process was quicker.
TRIES = 3


class Outlet:
    """A stream of text, as far as logging's handlers use one; `file` is its descriptor."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._room = poll()
        self._room.register(file, POLLOUT)
        self._is_stuck = self._is_cut = False
        self._rests_until = 0.0

    def write(self, text: str) -> None:
        """Writes it all, or raises BlockingIOError where the reader does not go on. What follows a
        part of a line begins on a line of its own."""
        data = text.encode(errors="backslashreplace")
        if self._is_cut:
            data = b"\n" + data
        rest = memoryview(data)
        while rest:
            taken = self._take(rest[:PIPE_BUF])
            if not taken:
                self._is_cut = self._is_cut or len(rest) < len(data)
                raise BlockingIOError(errno.EAGAIN, "whoever reads it does not go on")
            rest = rest[taken:]
        self._is_cut = False

    def has_room(self) -> bool:
        """A reader that is late is waited for, unless one was just now; one that was waited for in
        vain is not any more."""
        began = time.monotonic()
        waits = not self._is_stuck and began >= self._rests_until
        self._is_stuck = not self._room.poll(PATIENCE if waits else 0)
        if waits:
            now = time.monotonic()
            self._rests_until = now + REST * (now - began)
        return not self._is_stuck

    def flush(self) -> None:
        """Nothing is held back."""

    def fileno(self) -> int:
        """The descriptor."""
        return self._file

    def close(self) -> None:
        """Closes the descriptor."""
        os.close(self._file)

    def _take(self, piece: memoryview) -> int:
        """How many bytes were taken."""
        for _ in range(TRIES):
            if not self.has_room():
                return 0
            with suppress(BlockingIOError):
                return os.write(self._file, piece)
        return 0


def has_reader(file: int) -> bool:
    """Whether somebody reads what is written to this descriptor, as it comes."""
    mode = os.fstat(file).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(file)


def opened_anew(file: int) -> int:
    """A descriptor of our own for the same pipe or terminal, which does not block. With the shared
    one others would not block either. A terminal that says it has room may have it for one byte.

    The same descriptor where that cannot be, as for a socket.
    """
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/dev/fd/{file}", flags)
    except OSError:
        return os.dup(file)
