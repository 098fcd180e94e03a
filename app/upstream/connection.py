"""A connection to MLflow: urllib3's, with its own request writer and response head reader.

urllib3 and http.client write each field separately, parse fields with the email parser, and poll a
kept connection before its reuse: together a quarter of the cost of a small request. Pooling, TLS
and body reads stay with them. names.py looks names up, within the connect timeout; response_head.py
reads heads, within the read timeout. See docs/decisions/upstream-client.md.
"""

import errno
import http.client
import re
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import Any

from urllib3 import HTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.wait import wait_for_read

try:
    from fcntl import ioctl
    from termios import FIONREAD
except ImportError:  # not Unix: urllib3's own check is used
    ioctl = None  # type: ignore[assignment]

from app.observability.metrics import count_connection
from app.request.errors import ClientGone
from app.upstream.handshake import HandshakeDeadline
from app.upstream.names import FAILED, open_socket
from app.upstream.request_head import COPY, Copy, request_head
from app.upstream.response_head import UpstreamResponse

#: Seconds of a copy for which nobody looks whether the client has left: one that has closed only
#: its sending side looks the same, and waits for its answer.
SURE = 30.0

#: Linux only; None elsewhere.
QUICKACK = getattr(socket, "TCP_QUICKACK", None)
TCP_INFO = getattr(socket, "TCP_INFO", None)

#: Bounds the 15 minutes for which Linux retransmits to a lost host. It also applies to a host that
#: accepts no bytes: so it exceeds a write's timeout by this many seconds, and is off for uploads.
TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)
BEYOND_WRITES = 5.0

#: The first byte of TCP_INFO (linux/tcp.h, net/tcp_states.h): 1 is an established connection.
ESTABLISHED = b"\x01"

#: Seconds after which a blocked write is interrupted, to check for an early response, and between
#: two looks whether the client has left.
LOOK = 1.0

#: Bytes of a response that are inspected while the request is still being sent.
EARLY = 4096

_REFUSAL = re.compile(rb"(?:^|\n)HTTP/1\.[01] [45]")


class Connection(HTTPConnection):
    """A connection to MLflow."""

    #: Seconds for which an idle connection is reused; seconds of age after which it is not (its
    #: name may resolve to another address by then); seconds that one write may take, and one of an
    #: upload, which may wait for the copies of others; whether the metrics count it; the errors
    #: before a response that are held against its address. Set on a subclass.
    reuse_for = 4.0
    max_age = 60.0
    send_timeout = 30.0
    upload_timeout = 30.0
    counted = True
    held: tuple[type[Exception], ...] = (ConnectionError,)
    _copy: Copy | None = None
    _write_timeout = 0.0
    _early = b""
    _method = ""
    _is_open = False
    _handshake: HandshakeDeadline | None = None
    _peer: tuple[Any, ...] = ()
    _connecting: ExitStack

    @property
    def is_connected(self) -> bool:
        """Whether it can be reused: MLflow has neither closed it nor sent unsolicited data. Takes
        two system calls; urllib3's poll costs ten times as much under gevent."""
        if self.sock is None:
            return False
        if TCP_INFO is None or ioctl is None or isinstance(self, HTTPSConnection):
            return super().is_connected
        if self.sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 1) != ESTABLISHED:
            return False
        return not any(ioctl(self.sock.fileno(), FIONREAD, bytes(4)))

    def _new_conn(self) -> socket.socket:
        """Open the socket. urllib3's version looks up the name without a timeout."""
        timeout = float(self.timeout or 0)
        try:
            opened = open_socket(self._dns_host, self.port, timeout, self.socket_options or ())
        except socket.gaierror as why:
            raise NameResolutionError(self.host, self, why) from why
        except TimeoutError as why:
            raise ConnectTimeoutError(self, f"no connection within {timeout:g} s") from why
        with suppress(OSError):  # reset already
            self._peer = opened.getpeername()
        if isinstance(self, HTTPSConnection):
            self._handshake = HandshakeDeadline(opened, opened.gettimeout() or timeout)
            self._connecting.enter_context(self._handshake)
        return opened

    def connect(self) -> None:
        """Connect. The connect timeout ends here, or it would bound each write of an upload. Any
        error, TLS included, is a failed connect: nothing was sent."""
        self._handshake, self._peer = None, ()
        with ExitStack() as self._connecting:
            try:
                super().connect()
            except OSError as why:
                if self._peer:
                    FAILED.note(self._peer)
                if self._handshake is None or not self._handshake.has_passed:
                    raise NewConnectionError(self, f"{type(why).__name__}: {why}") from why
            if self._handshake is not None and self._handshake.has_passed:
                late = TimeoutError("the TLS handshake took too long")
                raise NewConnectionError(self, f"TimeoutError: {late}") from late
        self._connected_at, self._last_used = time.monotonic(), float("inf")  # not used yet
        self._is_open, self._refused, self._lost_after = True, False, 0
        if self.counted:
            count_connection(opened=True)

    def close(self) -> None:
        """Close the connection. Idempotent."""
        if self._is_open:
            self._is_open = False
            if self.counted:
                count_connection(opened=False)
        super().close()

    def request(
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Any = None,
        *,
        chunked: bool = False,
        **options: Any,
    ) -> None:
        """Send a request to the exact target in the TARGET field; head and whole body in one write.
        Raises ValueError if the head would not be exactly one request."""
        if self.sock is not None and self._is_too_old():
            self.close()
        self._method, self._early = method, b""
        self._copy = headers.get(COPY)
        head = request_head(method, headers, body is None, chunked)
        if self.sock is None:
            self.connect()
        is_whole = body is None or isinstance(body, bytes)
        self._limit_writes(is_upload=self._copy is not None and not is_whole)
        if is_whole:
            self._write(head + body if body else head)
            return
        self._write(head)
        self._write_pieces(body, chunked)

    def _limit_writes(self, *, is_upload: bool) -> None:
        self._write_timeout = self.upload_timeout if is_upload else self.send_timeout
        self.sock.settimeout(min(LOOK, self._write_timeout))
        lost_after = 0 if is_upload else int((self.send_timeout + BEYOND_WRITES) * 1000)
        if lost_after != self._lost_after and TCP_USER_TIMEOUT is not None:
            self.sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, lost_after)
        self._lost_after = lost_after

    def _is_too_old(self) -> bool:
        """Whether to reconnect first. Checked between requests, so none in progress is cut. MLflow
        may be about to close an idle connection."""
        now = time.monotonic()
        idle, age = now - self._last_used, now - self._connected_at
        return idle > self.reuse_for or age > self.max_age

    def _write_pieces(self, pieces: Iterable[bytes], chunked: bool) -> None:
        for piece in pieces:
            if piece:
                self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                self._stop_if_refused()
        if chunked:
            self._write(b"0\r\n\r\n")

    def _write(self, data: bytes) -> None:
        """Send all of it; the timeout is for each write that the kernel accepts."""
        rest = memoryview(data)[self._send(data) :]
        while rest:
            rest = rest[self._send(rest) :]

    def _send(self, data: bytes | memoryview) -> int:
        """Write once. While MLflow accepts nothing, check for an early response."""
        deadline = time.monotonic() + self._write_timeout
        while True:
            try:
                return self.sock.send(data)
            except TimeoutError:
                self._stop_if_refused()
                if time.monotonic() >= deadline:
                    raise
            except OSError:
                self._stop_if_refused()  # MLflow may have sent the reason before it closed
                FAILED.note(self._peer)
                raise

    def _stop_if_refused(self) -> None:
        """End an upload that MLflow refused before its end (413, say): it would not read the rest,
        and its response would be lost. urllib3 reads the response after a BrokenPipeError. A
        success does not end the upload: it may be about the whole body."""
        if _REFUSAL.search(self._beginning()):
            self._refused = True
            raise BrokenPipeError("refused before the end of the body")

    def _beginning(self) -> bytes:
        """Peek at the response's first bytes, if any; they are read again with the response."""
        if ioctl is None or not any(ioctl(self.sock.fileno(), FIONREAD, bytes(4))):
            return b""
        return self.sock.recv(EARLY, socket.MSG_PEEK)

    def getresponse(self) -> Any:
        """Read the response's head, with delayed ACKs off.

        MLflow's server sends head and body in two writes with Nagle's algorithm on. The second one
        waits for our ACK, which Linux delays by 40 ms. TCP_QUICKACK is not sticky: set it for each
        response.
        """
        if self.sock is None:
            raise http.client.RemoteDisconnected("before the response")
        timeout = float(self.timeout or 0)
        if self._copy is not None and not self._early:
            timeout = self._wait_for_copy(timeout, self._copy.has_left)
        if QUICKACK is not None:
            self.sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        answer = UpstreamResponse(self.sock, self._method, timeout, self._early)
        try:
            answer.begin()
            response = HTTPResponse(
                body=answer,
                headers=answer.headers,
                status=answer.status,
                version=answer.version,
                reason=answer.reason,
                preload_content=False,
                decode_content=False,
                original_response=answer,
                request_method=self._method,
            )
        except BaseException as why:
            answer.close()
            if isinstance(why, TimeoutError) and why.errno == errno.ETIMEDOUT:
                raise ConnectionAbortedError("the host no longer acknowledges data") from why
            if isinstance(why, self.held):
                FAILED.note(self._peer)
            raise
        if self._copy is not None:
            self.sock.settimeout(self._copy.idle)
        if answer.will_close or self._refused:
            self.close()
        self._last_used = time.monotonic()
        return response

    def _wait_for_copy(self, seconds: float, has_left: Callable[[], bool]) -> float:
        """Wait for the response as long as the client does; return the seconds left. Each retry of
        a client that gave up would hold one more place until MLflow's copy ends."""
        deadline, pause = time.monotonic() + seconds, min(SURE, seconds)
        while not self._responds(pause) and time.monotonic() < deadline:
            if has_left():
                raise ClientGone("the client left while MLflow copied")
            pause = LOOK
        return max(0.001, deadline - time.monotonic())

    def _responds(self, seconds: float) -> bool:
        return wait_for_read(self.sock, seconds)


class ConnectionTLS(Connection, HTTPSConnection):
    """The same over TLS, which cannot be peeked at: early bytes are kept in `_early`."""

    def _beginning(self) -> bytes:
        if len(self._early) < EARLY:
            limit = self.sock.gettimeout()
            self.sock.settimeout(0)
            with suppress(OSError):  # no data yet, or the connection has ended
                self._early += self.sock.recv(EARLY)
            self.sock.settimeout(limit)
        return self._early

    def _responds(self, seconds: float) -> bool:
        """Read it: what makes the socket readable may be TLS's own, such as session tickets."""
        self.sock.settimeout(seconds)
        try:
            self._early = self.sock.recv(EARLY)
        except OSError as why:
            return not isinstance(why, TimeoutError)
        return True
