"""A connection to MLflow: urllib3's, with the request written and the answer's head read by us.

urllib3 and http.client write each field by itself, read fields through the email parser, and poll a
kept connection before its reuse: together a quarter of what a small request cost. The pool, the
connecting, TLS and the reading of bodies are theirs. See docs/decisions/upstream-client.md.
"""

import http.client
import re
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any

from urllib3 import HTTPHeaderDict, HTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import LocationParseError, NewConnectionError

try:
    from fcntl import ioctl
    from termios import FIONREAD
except ImportError:  # no Unix: urllib3's own way is taken
    ioctl = None  # type: ignore[assignment]

from app.metrics import count_connection

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

#: Bytes of a line of a head, and number of its fields; http.client's own limits.
MAX_LINE = 65536
MAX_FIELDS = 100

#: Methods that have no body where nobody says so (RFC 9110 section 8.6).
BODILESS = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))

_NO_TARGET = re.compile(r"[^\x21-\x7e]")


class MalformedAnswer(http.client.HTTPException):
    """MLflow's answer has a head that is none."""


class _Answer(http.client.HTTPResponse):
    """An answer that has a whole head. http.client takes one that was broken off for a whole one,
    and asks the email parser for the fields."""

    headers: Any

    def begin(self) -> None:
        """Reads the head: status, fields, and how long the body is."""
        status, reason = self._status_line()
        while status == http.client.CONTINUE:
            self._fields()
            status, reason = self._status_line()
        self.code = self.status = status
        self.reason = reason
        fields = self._fields()
        self.headers = self.msg = fields  # type: ignore[assignment]
        coding = fields.get("transfer-encoding", "")
        self.chunked = coding.lower() == "chunked"
        self.chunk_left: int | None = None
        length = fields.get("content-length", "")
        is_sized = not self.chunked and length.isascii() and length.isdigit()
        self.length = int(length) if is_sized else None
        if self._method == "HEAD" or status in (204, 304) or status < 200:  # type: ignore[attr-defined]
            self.length = 0
        ends = self._check_close()  # type: ignore[attr-defined]
        self.will_close = ends or not (self.chunked or self.length is not None)

    def _status_line(self) -> tuple[int, str]:
        line = self._line()
        version, _, rest = line.partition(" ")
        status, _, reason = rest.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or len(status) != 3 or not status.isdigit():
            raise MalformedAnswer("it begins with no status line")
        self.version = 11 if version == "HTTP/1.1" else 10
        return int(status), reason.strip()

    def _fields(self) -> HTTPHeaderDict:
        fields = HTTPHeaderDict()
        for _ in range(MAX_FIELDS):
            line = self._line()
            if not line:
                return fields
            name, colon, value = line.partition(":")
            if not colon or not name or name[0] in " \t":
                raise MalformedAnswer("a line of its head is no field")
            fields.add(name, value.strip(" \t"))
        raise MalformedAnswer(f"its head has more than {MAX_FIELDS} fields")

    def _line(self) -> str:
        """The next line, without its end."""
        line: bytes = self.fp.readline(MAX_LINE + 1)
        if not line.endswith(b"\n"):
            if len(line) > MAX_LINE:
                raise MalformedAnswer(f"a line of its head is longer than {MAX_LINE} bytes")
            raise http.client.RemoteDisconnected("in the answer's head, or before it")
        return line.rstrip(b"\r\n").decode("latin-1")


class Connection(HTTPConnection):
    """A connection to MLflow."""

    #: Seconds an idle one is reused, and seconds that one write may take; set on a subclass.
    reuse_for = 4.0
    send_timeout = 30.0
    _idle_timeout: float | None = None
    _last_used = 0.0
    _method = ""
    _is_open = False

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

    def connect(self) -> None:
        """Connects; the connect time-out ends there, or it would bound each write of an upload.
        Whatever goes wrong in it, TLS included, is a failed connect: nothing was sent."""
        try:
            super().connect()
        except (OSError, LocationParseError) as why:
            raise NewConnectionError(self, f"{type(why).__name__}: {why}") from why
        self._is_open = True
        count_connection(opened=True)

    def close(self) -> None:
        """Closes it; once more does nothing."""
        if self._is_open:
            self._is_open = False
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
        if self.sock is not None and time.monotonic() - self._last_used > self.reuse_for:
            self.close()  # MLflow may be closing it at this moment
        self._method = method
        self._idle_timeout = float(headers[IDLE]) if IDLE in headers else None
        head = _head(method, headers, body is None, chunked)
        if self.sock is None:
            self.connect()
        self.sock.settimeout(self.send_timeout)
        if body is None or isinstance(body, bytes):
            self._write(head + body if body else head)
            return
        self._write(head)
        self._write_pieces(body, chunked)

    def _write_pieces(self, pieces: Iterable[bytes], chunked: bool) -> None:
        for piece in pieces:
            if piece:
                self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            self._write(b"0\r\n\r\n")

    def _write(self, data: bytes) -> None:
        """Sends it all; the time-out is for each write that the kernel takes."""
        sent = self.sock.send(data)
        if sent < len(data):
            rest = memoryview(data)[sent:]
            while rest:
                rest = rest[self.sock.send(rest) :]

    def getresponse(self) -> Any:
        """Reads the answer's head, with delayed ACKs off.

        MLflow's server sends head and body in two writes with Nagle's algorithm on, and so waits
        for our ACK, which Linux delays by 40 ms. The option is not sticky: armed for each answer.
        """
        if self.sock is None:
            raise http.client.RemoteDisconnected("before the answer")
        if QUICKACK is not None:
            self.sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        self.sock.settimeout(self.timeout)
        answer = _Answer(self.sock, method=self._method)
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
        except BaseException:
            answer.close()
            raise
        if self._idle_timeout is not None:
            self.sock.settimeout(self._idle_timeout)
        if answer.will_close:
            self.close()
        self._last_used = time.monotonic()
        return response


class ConnectionTLS(Connection, HTTPSConnection):
    """The same over TLS."""


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
