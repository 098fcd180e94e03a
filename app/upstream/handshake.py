"""A bound for a whole TLS handshake.

A socket's timeout bounds each wait, and a handshake that comes byte by byte has many.
"""

import socket
import threading
from contextlib import suppress
from typing import Self


class HandshakeDeadline:
    """Ends a connection after so many seconds, unless the handshake is over by then; a context
    manager. It has a duplicate of the socket: TLS takes the socket itself over."""

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
        with suppress(OSError):  # it has ended by itself
            self._same.shutdown(socket.SHUT_RDWR)
