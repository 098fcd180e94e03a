"""A connection to MLflow: urllib3's, with the request written and the answer's head read by us.

urllib3 and http.client write each field by itself, read fields through the email parser, and poll a
kept connection before its reuse: together a quarter of what a small request cost. The pool, TLS and
the reading of bodies are theirs. Names are looked up in names.py, inside the connect timeout; heads
are read in response_head.py, inside the read timeout. See docs/decisions/upstream-client.md.
"""

import errno
import http.client
import re
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from urllib3 import HTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

try:
    from fcntl import ioctl
    from termios import FIONREAD
except ImportError:  # no Unix: urllib3's own way is taken
    ioctl = None  # type: ignore[assignment]

from app.observability.metrics import count_connection
from app.upstream.handshake import HandshakeDeadline
from app.upstream.names import FAILED, open_socket
from app.upstream.response_head import UpstreamResponse

#: Carries the request target to the connection as it is. The pool would rewrite it (`%2f` becomes
#: `%2F`), and what goes on must be what was authorized, byte for byte.
TARGET = ":path"

#: Carries the seconds between two pieces of the answer's body, where they are not those until its
#: head.
IDLE = ":idle"

#: Linux only; None elsewhere.
QUICKACK = getattr(socket, "TCP_QUICKACK", None)
TCP_INFO = getattr(socket, "TCP_INFO", None)

#: The first byte of TCP_INFO (linux/tcp.h, net/tcp_states.h): 1 is an established connection.
ESTABLISHED = b"\x01"

#: Seconds after which a write that MLflow does not take is interrupted, to look for an answer.
LOOK = 1.0

#: Bytes of an answer that are looked at while the request is still going out.
EARLY = 4096

#: Methods that have no body where nobody says so (RFC 9110 section 8.6).
BODILESS = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))

_NO_TARGET = re.compile(r"[^\x21-\x7e]")
_REFUSAL = re.compile(rb"(?:^|\n)HTTP/1\.[01] [45]")


class Connection(HTTPConnection):
    """A connection to MLflow."""

    #: Seconds an idle one is reused, seconds from its connect after which it is not (its name may
    #: mean another address by then), seconds that one write may take, whether the metrics count it,
    #: and whether silence is held against its address; set on a subclass.
    reuse_for = 4.0
    max_age = 60.0
    send_timeout = 30.0
    counted = True
    probes = False
    _idle_timeout: float | None = None
    _last_used = 0.0
    _connected_at = 0.0
    _refused = False
    _early = b""
    _method = ""
    _is_open = False
    _handshake: HandshakeDeadline | None = None
    _connecting: ExitStack

    @property
    def is_connected(self) -> bool:
        """Whether it can be reused: MLflow has neither ended it nor said anything unasked. Two
        system calls; urllib3 polls, which under gevent costs ten times as much."""
        if self.sock is None:
            return False
        if TCP_INFO is None or ioctl is None or isinstance(self, HTTPSConnection):
            return super().is_connected
        if self.sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 1) != ESTABLISHED:
            return False
        return not any(ioctl(self.sock.fileno(), FIONREAD, bytes(4)))

    def _new_conn(self) -> socket.socket:
        """Called by urllib3's connect, whose own version looks the name up without a timeout."""
        timeout = float(self.timeout or 0)
        try:
            opened = open_socket(self._dns_host, self.port, timeout, self.socket_options or ())
        except socket.gaierror as why:
            raise NameResolutionError(self.host, self, why) from why
        except TimeoutError as why:
            raise ConnectTimeoutError(self, f"no connection within {timeout:g} s") from why
        if isinstance(self, HTTPSConnection):
            self._handshake = HandshakeDeadline(opened, opened.gettimeout() or timeout)
            self._connecting.enter_context(self._handshake)
        return opened

    def connect(self) -> None:
        """Connects; the connect time-out ends there, or it would bound each write of an upload.
        Whatever goes wrong in it, TLS included, is a failed connect: nothing was sent."""
        self._handshake = None
        with ExitStack() as self._connecting:
            try:
                super().connect()
            except OSError as why:
                if self._handshake is None or not self._handshake.has_passed:
                    raise NewConnectionError(self, f"{type(why).__name__}: {why}") from why
            if self._handshake is not None and self._handshake.has_passed:
                late = TimeoutError("the TLS handshake took too long")
                raise NewConnectionError(self, f"TimeoutError: {late}") from late
        self._connected_at, self._refused = time.monotonic(), False
        self._is_open = True
        if self.counted:
            count_connection(opened=True)

    def close(self) -> None:
        """Closes it; once more does nothing."""
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
        """Sends a request, to the exact target in the TARGET field; head and whole body in one
        write. ValueError for what would not be one request."""
        if self.sock is not None and self._is_too_old():
            self.close()
        self._method, self._early = method, b""
        self._idle_timeout = float(headers[IDLE]) if IDLE in headers else None
        head = _head(method, headers, body is None, chunked)
        if self.sock is None:
            self.connect()
        self.sock.settimeout(min(LOOK, self.send_timeout))
        if body is None or isinstance(body, bytes):
            self._write(head + body if body else head)
            return
        self._write(head)
        self._write_pieces(body, chunked)

    def _is_too_old(self) -> bool:
        """Asked between two requests, so none in progress is cut. After an idle time MLflow may be
        closing it at this moment."""
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
        """Sends it all; the time-out is for each write that the kernel takes."""
        sent = self._send(data)
        if sent < len(data):
            rest = memoryview(data)[sent:]
            while rest:
                rest = rest[self._send(rest) :]

    def _send(self, data: bytes | memoryview) -> int:
        """One write. While MLflow takes nothing, its answer may be there: it is looked for."""
        deadline = time.monotonic() + self.send_timeout
        while True:
            try:
                return self.sock.send(data)
            except TimeoutError:
                self._stop_if_refused()
                if time.monotonic() >= deadline:
                    raise
            except OSError:
                self._stop_if_refused()  # it said why, and closed
                raise

    def _stop_if_refused(self) -> None:
        """Ends an upload that MLflow has refused before its end (413, say): the rest would not be
        read, and the answer lost. urllib3 takes a BrokenPipeError for that, and reads the answer.
        A success is waited for: it may be about the whole body."""
        if _REFUSAL.search(self._beginning()):
            self._refused = True
            raise BrokenPipeError("refused before the end of the body")

    def _beginning(self) -> bytes:
        """What is there of the answer already, in part; it is read again with the answer."""
        if ioctl is None or not any(ioctl(self.sock.fileno(), FIONREAD, bytes(4))):
            return b""
        return self.sock.recv(EARLY, socket.MSG_PEEK)

    def getresponse(self) -> Any:
        """Reads the answer's head, with delayed ACKs off.

        MLflow's server sends head and body in two writes with Nagle's algorithm on, and so waits
        for our ACK, which Linux delays by 40 ms. The option is not sticky: armed for each answer.
        """
        if self.sock is None:
            raise http.client.RemoteDisconnected("before the answer")
        if QUICKACK is not None:
            self.sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        timeout = float(self.timeout or 0)
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
                raise ConnectionAbortedError("the host acknowledges nothing any more") from why
            if isinstance(why, TimeoutError) and self.probes:
                host, port, *rest = self.sock.getpeername()
                FAILED.note((host, *rest), port)
            raise
        if self._idle_timeout is not None:
            self.sock.settimeout(self._idle_timeout)
        if answer.will_close or self._refused:
            self.close()
        self._last_used = time.monotonic()
        return response


class ConnectionTLS(Connection, HTTPSConnection):
    """The same over TLS, where nothing can be read twice: what was looked at is kept."""

    def _beginning(self) -> bytes:
        if len(self._early) < EARLY:
            limit = self.sock.gettimeout()
            self.sock.settimeout(0)
            try:
                self._early += self.sock.recv(EARLY)
            except OSError:  # nothing is there, or nothing will be
                pass
            finally:
                self.sock.settimeout(limit)
        return self._early


def _head(method: str, headers: Mapping[str, str], bodiless: bool, chunked: bool) -> bytes:
    """The request's line and fields. Who asks for no encoding gets none."""
    target = headers[TARGET]
    lines = [f"{method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items() if name[0] != ":"]
    if "Accept-Encoding" not in headers:
        lines.append("Accept-Encoding: identity")
    if chunked:
        lines.append("Transfer-Encoding: chunked")
    elif bodiless and method not in BODILESS:
        lines.append("Content-Length: 0")
    text, ends = "\r\n".join(lines), len(lines) - 1
    if _NO_TARGET.search(target) or text.count("\n") != ends or text.count("\r") != ends:
        raise ValueError("a line end, or a blank in the target, would make it another request")
    return text.encode("latin-1") + b"\r\n\r\n"
