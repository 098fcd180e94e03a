"""A deadline for a whole TLS handshake.

A socket's timeout bounds each read, and a handshake that arrives byte by byte needs many.
"""

import socket
import threading
from contextlib import suppress
from typing import Self


class HandshakeDeadline:
    """Shut the connection down after `seconds`, unless the handshake is over by then; a context
    manager. It holds a duplicate of the socket, because TLS takes the socket over."""

    def __init__(self, connected: socket.socket, seconds: float) -> None:
        self.has_passed = False
        self._same = connected.dup()
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *why: object) -> None:
        self._timer.cancel()
        self._same.close()

    def _end(self) -> None:
        self.has_passed = True
        with suppress(OSError):  # already closed
            self._same.shutdown(socket.SHUT_RDWR)
