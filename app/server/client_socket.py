"""The client's socket, as the worker uses it."""

import errno
import socket
import time
from contextlib import suppress
from typing import Any

import gevent

#: Unsent bytes that the kernel accepts beyond the client's window. Not on every platform.
UNSENT_BYTES = 128 * 1024
NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", None)

#: While MLflow copies a file, or asks a model, no byte passes for minutes. A load balancer for TCP,
#: or NAT, would forget the connection silently; so a keep-alive probe passes every 30 s.
KEEPALIVE_SECONDS = 30
KEEPALIVE_IDLE = getattr(socket, "TCP_KEEPIDLE", None)

#: Bytes up to which a piece of a body is sent in one write with the head. A longer one is not
#: copied for that: it may be one static file for many slow clients.
WITH_HEAD = 64 * 1024

#: Minimum average bytes per second from a client, once its time for a request is used up. The
#: slowest connections in use, old mobile ones, are faster.
LEAST_RATE = 8 * 1024

#: Reads up to this size are the parser's: of a head, or of chunk framing. Parsing tiny chunks takes
#: milliseconds per read, so other greenlets run between two reads, after YIELD_AFTER seconds.
SMALL_READ = 8 * 1024
YIELD_AFTER = 0.005

#: Seconds to sleep for that. With 0 gevent runs the same greenlet up to 50 times before it polls
#: any socket (0.7 s if each run is long, measured); a timer, however short, runs after the poll.
BRIEFLY = 1e-9

#: Seconds, and bytes, for which a closing connection may still send data, which is discarded;
#: closing it at once would reset it, and the client might never read the response.
LINGER_SECONDS = 2.0
LINGER_BYTES = 4 * 1024 * 1024


class ClientSocket:
    """A client's socket that tells a stalled client from a slow one, both ways, and sends a
    response's head with the first piece of its body.

    Sending: gevent's sendall needs all data accepted within the timeout, and the kernel by default
    reports progress only after a third of a buffer of some megabytes. Receiving: a timeout per read
    lets a client that sends a byte now and then stay forever. So a head, and a body unless it is
    streamed, has a deadline: `request_timeout` seconds, plus one per LEAST_RATE bytes received.
    """

    def __init__(self, sock: Any, idle_timeout: float, request_timeout: float) -> None:
        """Both times are in seconds: for a single read or write, and for a head or body."""
        self._sock = sock
        self.idle_timeout = idle_timeout
        self._request_timeout = request_timeout
        #: When the current wait for a request, or the request itself, began.
        self.since = time.monotonic()
        #: Whether this connection has already served a request.
        self.is_in_use = False
        #: Whether the connection was closed to make room, before its request was whole.
        self.is_given_up = False
        self._is_kept = False
        self._waits_for: int | None = None  # the shutdown() direction that ends the current wait
        self._is_next_the_head = False
        self._held = b""
        self._time_between_reads = idle_timeout
        self._allowed: float | None = None
        self._received = 0
        self._yielded_at = 0.0
        self._timeout: float | None = None
        sock.setblocking(1)
        #: Kept, because gevent converts it at each access.
        self.family = sock.family
        if self.family not in (socket.AF_INET, socket.AF_INET6):
            return
        if NOTSENT_LOWAT is not None:
            sock.setsockopt(socket.IPPROTO_TCP, NOTSENT_LOWAT, UNSENT_BYTES)
        if KEEPALIVE_IDLE is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, KEEPALIVE_IDLE, KEEPALIVE_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    # --- phases and deadlines ----------------------------------------------------------------

    def await_head(self, seconds: float) -> None:
        """Allow `seconds` for the next request to begin."""
        self._begin(seconds, between_reads=seconds)

    def begin_head(self) -> None:
        """Start the deadline for a head whose first bytes have arrived."""
        self._begin(self._request_timeout)

    def begin_answer(self) -> None:
        """Mark the head as whole. The next bytes sent are a response's head: gunicorn writes it
        once the first piece of the body is available, so holding it costs no time."""
        self._begin(self._request_timeout)
        self._is_next_the_head = True
        self.is_in_use = True

    def keep(self, streams: bool) -> None:
        """Mark this request as admitted, so that it is not closed to make room. Its body is read
        from now on; one that streams has no deadline."""
        self._begin(None if streams else self._request_timeout)
        self._is_kept = True

    def skip(self, seconds: float) -> None:
        """Allow `seconds` to discard the rest of the body after the response."""
        self._begin(seconds)

    def _begin(self, allowed: float | None, between_reads: float | None = None) -> None:
        self._time_between_reads = between_reads or self.idle_timeout
        self._allowed = allowed
        self._received = 0
        self._is_kept = False
        self.since = time.monotonic()

    @property
    def may_be_given_up(self) -> bool:
        """Whether this connection only waits for a client that is not admitted."""
        return self._waits_for is not None and not self._is_kept

    def has_left(self) -> bool:
        """Whether the client has closed its side, as far as known without a wait."""
        try:
            return not self._of_the_kernel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def give_up(self) -> None:
        """End the wait, to make room for another client."""
        self.is_given_up = True
        with suppress(OSError):  # already closed by the client
            self.shutdown(self._waits_for or socket.SHUT_RD)

    def shutdown(self, how: int) -> None:
        """Shut down one direction, or both, in the kernel: data that has arrived is still read,
        then comes the end. gevent's version raises an error in another greenlet that waits."""
        self._of_the_kernel.shutdown(how)

    @property
    def _of_the_kernel(self) -> Any:
        """The plain socket below gevent's."""
        return getattr(self._sock, "_sock", self._sock)

    # --- receiving ---------------------------------------------------------------------------

    def recv(self, size: int) -> bytes:
        """Receive up to `size` bytes. Raises TimeoutError if the client is silent or too slow."""
        if size <= SMALL_READ and self._received:
            self._give_way()
        self._wait_for(self._time_between_reads if self._allowed is None else self._seconds_left())
        self._waits_for = socket.SHUT_RD
        try:
            data: bytes = self._sock.recv(size)
        finally:
            self._waits_for = None
        self._received += len(data)
        return data

    def _give_way(self) -> None:
        if (now := time.monotonic()) > self._yielded_at + YIELD_AFTER:
            gevent.sleep(BRIEFLY)
            self._yielded_at = now

    def _wait_for(self, seconds: float) -> None:
        """Set the timeout of the next read or write."""
        if seconds != self._timeout:
            self._sock.settimeout(seconds)
            self._timeout = seconds

    def _seconds_left(self) -> float:
        """Return the seconds for the next read, under a deadline."""
        allowed = (self._allowed or 0.0) + self._received / LEAST_RATE
        left = self.since + allowed - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"incomplete after {allowed:.0f} s")
        return min(left, self._time_between_reads)

    # --- sending -----------------------------------------------------------------------------

    def sendall(self, data: bytes) -> None:
        """Send all of it. Raises TimeoutError if the client accepts nothing for the timeout."""
        if self._is_next_the_head:
            self._is_next_the_head, self._held = False, data
            return
        if len(data) > WITH_HEAD:
            self.flush()
        elif self._held:
            data, self._held = self._held + data, b""
        self.send_now(data)

    def send_now(self, data: bytes) -> None:
        """Send at once, ahead of a response's head."""
        self._wait_for(self.idle_timeout)
        self._waits_for = socket.SHUT_RDWR
        try:
            sent = self._sock.send(data)
            if sent < len(data):
                rest = memoryview(data)[sent:]
                while rest:
                    rest = rest[self._sock.send(rest) :]
        finally:
            self._waits_for = None

    def flush(self) -> None:
        """Send a held head that no body followed."""
        self._is_next_the_head = False
        if self._held:
            data, self._held = self._held, b""
            self.send_now(data)

    def sendfile(self, *arguments: Any, **options: Any) -> Any:
        """Send a file, after a held head."""
        self.flush()
        return self._sock.sendfile(*arguments, **options)

    def linger(self) -> None:
        """Close the sending side, and briefly discard what the client still sends."""
        ignored = 0
        try:
            self.shutdown(socket.SHUT_WR)
            self.skip(LINGER_SECONDS)
            with gevent.Timeout(LINGER_SECONDS, False):
                while ignored < LINGER_BYTES and (data := self.recv(65536)):
                    ignored += len(data)
        except OSError as why:
            if why.errno not in (errno.ENOTCONN, errno.ECONNRESET, errno.EBADF, errno.EPIPE, None):
                raise
