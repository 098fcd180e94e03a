"""The client's socket, as the worker uses it."""

import socket
from typing import Any

#: Bytes that the kernel takes from us before the client's window has room for them. Not everywhere.
UNSENT_BYTES = 128 * 1024
NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", None)


class ClientSocket:
    """A client's socket that tells a client that takes nothing from one that is slow, and that
    sends an answer's head with the first piece of its body.

    gevent's sendall wants all of its data taken within the time-out; and the kernel, by default,
    reports progress only when a third of a buffer of some megabytes has been taken.
    """

    def __init__(self, sock: Any, idle_timeout: float) -> None:
        """`idle_timeout` is for each answer, in seconds; without one there is no time-out."""
        self._sock = sock
        self.recv, self.settimeout = sock.recv, sock.settimeout
        self._idle_timeout = idle_timeout
        self._is_next_the_head = False
        self._held = b""
        sock.setblocking(1)
        if NOTSENT_LOWAT is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT, UNSENT_BYTES)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def begin_answer(self) -> None:
        """The next bytes to send are an answer's head: gunicorn writes it when the first piece of
        the body is there, so it does not wait here."""
        self.settimeout(self._idle_timeout)
        self._is_next_the_head = True

    def sendall(self, data: bytes) -> None:
        """Sends it all; TimeoutError if the client takes no byte for the time-out."""
        if self._is_next_the_head:
            self._is_next_the_head, self._held = False, data
            return
        if self._held:
            data, self._held = self._held + data, b""
        self.send_now(data)

    def send_now(self, data: bytes) -> None:
        """The same, past a head that is yet to come."""
        sent = self._sock.send(data)
        if sent < len(data):
            rest = memoryview(data)[sent:]
            while rest:
                rest = rest[self._sock.send(rest) :]

    def flush(self) -> None:
        """Sends a head that no body followed."""
        self._is_next_the_head = False
        if self._held:
            data, self._held = self._held, b""
            self.send_now(data)

    def sendfile(self, *arguments: Any, **options: Any) -> Any:
        """A file, after what came before it."""
        self.flush()
        return self._sock.sendfile(*arguments, **options)
