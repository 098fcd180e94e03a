"""An upstream's response, its head bounded in bytes, in fields and in total time.

http.client accepts a truncated head as whole, bounds each line but not the head, skips only `100
Continue` (any number of them), and passes the fields to the email parser. A socket's timeout bounds
each read, and a head that arrives byte by byte needs many. This parser is lenient where RFC 9112
asks it of a proxy; anything ambiguous is an error.
"""

import http.client
import io
import re
import socket
import time
from typing import Any

from urllib3 import HTTPHeaderDict

#: Limits: bytes of a head, interim responses included (load balancers allow as much); fields of one
#: head; interim responses before the final one.
MAX_HEAD = 65536
MAX_FIELDS = 100
MAX_INTERIM = 16

#: Maximum digits of a Content-Length; a longer number is no length.
MAX_DIGITS = 18

_END = re.compile(rb"\n\r?\n")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_STATUS = re.compile(r"[1-9][0-9]{2}")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")


class MalformedResponse(http.client.HTTPException):
    """The upstream's response is not HTTP, or exceeds a limit."""


class UpstreamResponse(http.client.HTTPResponse):
    """A response. `begin` reads its head, until the deadline; http.client reads its body."""

    headers: Any

    def __init__(
        self, sock: socket.socket, method: str, timeout: float, early: bytes = b""
    ) -> None:
        """`timeout` is in seconds, for the whole head, and then for each read of the body; `early`
        holds bytes that were already read from the socket."""
        super().__init__(sock, method=method)
        if early:
            self.fp = io.BufferedReader(_After(early, self.fp))
        self._socket = sock
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._room = MAX_HEAD
        self._hurried = False

    def begin(self) -> None:
        """Read the head: status, fields, and the body's length. Skip interim responses.

        Raises MalformedResponse, RemoteDisconnected, or TimeoutError at the deadline.
        """
        self._socket.settimeout(self._timeout)
        for _ in range(MAX_INTERIM + 1):
            first, *lines = self._head_lines()
            status, reason = self._status_line(first)
            if status >= 200:
                break
            if status == http.client.SWITCHING_PROTOCOLS:
                raise MalformedResponse("101 without a request to upgrade")
            self._hurry()
        else:
            raise MalformedResponse(f"more than {MAX_INTERIM} interim responses")
        if self._hurried:
            self._socket.settimeout(self._timeout)
        self.code = self.status = status
        self.reason = reason
        self.headers = self.msg = _fields(lines)  # type: ignore[assignment]
        self._frame()

    def _head_lines(self) -> list[str]:
        """Return the lines of one head, without their ends and without the empty one."""
        head = bytearray()
        while not (piece := self._next_piece(head)):
            continue
        lines = piece.decode("latin-1").split("\n")
        return [line.removesuffix("\r") for line in lines[:-2]]

    def _next_piece(self, head: bytearray) -> bytes:
        """Return the whole head once its end has arrived; else extend `head` and return b""."""
        piece = self.fp.peek(1)  # what is buffered, else one recv
        if not piece:
            raise http.client.RemoteDisconnected("in the response's head, or before it")
        before = len(head)
        head += piece
        end = _END.search(head, max(0, before - 2))
        size = end.end() if end else len(head)
        if size > self._room:
            raise MalformedResponse(f"its head is longer than {MAX_HEAD} bytes")
        self.fp.read(size - before)
        if end:
            self._room -= size
            return bytes(head[:size])
        self._hurry()
        return b""

    def _hurry(self) -> None:
        """Give the next read the remaining time. Raises TimeoutError if none is left."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("its head did not arrive in time")
        self._socket.settimeout(left)
        self._hurried = True

    def _status_line(self, line: str) -> tuple[int, str]:
        version, _, rest = line.partition(" ")
        status, _, reason = rest.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or not _STATUS.fullmatch(status):
            raise MalformedResponse("it does not begin with a status line")
        self.version = 11 if version == "HTTP/1.1" else 10
        return int(status), reason.strip()

    def _frame(self) -> None:
        """Set the body's length, and whether the connection closes after it (RFC 9112, 6.3)."""
        fields, status = self.headers, self.status
        if status == http.client.NO_CONTENT:  # it has neither (RFC 9110 section 8.6)
            fields.discard("content-length")
            fields.discard("transfer-encoding")
        coding = fields.get("transfer-encoding", "").lower()
        if coding == "identity":  # RFC 2616's word for no coding
            fields.discard("transfer-encoding")
        length = _length(fields)
        bodiless = self._method == "HEAD" or status in (204, 304)  # type: ignore[attr-defined]
        self.chunked = coding == "chunked" and not bodiless
        self.chunk_left: int | None = None
        self.length = 0 if bodiless else None if self.chunked else length
        ends = self._check_close()  # type: ignore[attr-defined]
        # After an exception that nobody caught, uvicorn sends this, and closes without saying so.
        ends = ends or (status == 500 and fields.get("content-type", "").startswith("text/plain"))
        self.will_close = ends or not (self.chunked or self.length is not None)

    def _read_next_chunk_size(self) -> int:
        """Read a chunk's size strictly: http.client accepts `-5`, `0x5` and `1_0`."""
        line = self.fp.readline(MAX_HEAD + 1)
        size = line.partition(b";")[0].strip(b" \t\r\n")
        if not line.endswith(b"\n") or not _CHUNK_SIZE.fullmatch(size):
            raise MalformedResponse("a chunk has no size")
        return int(size, 16)

    def _read_and_discard_trailer(self) -> None:
        """Read the trailing fields, bounded; http.client reads any number of them."""
        room = MAX_HEAD
        while (line := self.fp.readline(room + 1)) not in (b"\r\n", b"\n", b""):
            room -= len(line)
            if room < 0:
                raise MalformedResponse(f"its trailing fields are longer than {MAX_HEAD} bytes")


class _After(io.RawIOBase):
    """A stream that begins with bytes that were already read."""

    def __init__(self, early: bytes, rest: io.BufferedIOBase) -> None:
        self._early = early
        self._rest = rest

    def readable(self) -> bool:
        """Return True, as io.BufferedReader requires."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes, as many as are available."""
        size = len(buffer)
        piece = self._early[:size] or self._rest.read1(size)
        self._early = self._early[size:]
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Close the rest, too."""
        self._rest.close()
        super().close()


def _fields(lines: list[str]) -> HTTPHeaderDict:
    """Parse the fields of a head. Join a folded one (RFC 9112 section 5.2)."""
    if len(lines) > MAX_FIELDS:
        raise MalformedResponse(f"its head has more than {MAX_FIELDS} fields")
    fields = HTTPHeaderDict()
    for line in _unfolded(lines):
        name, colon, value = line.partition(":")
        name = name.rstrip(" \t")
        if not colon or not _NAME.fullmatch(name):
            raise MalformedResponse("a line of its head is not a field")
        fields.add(name, value.strip(" \t"))
    return fields


def _unfolded(lines: list[str]) -> list[str]:
    whole: list[str] = []
    for line in lines:
        if line[0] not in " \t":
            whole.append(line)
        elif whole:
            whole[-1] += " " + line.strip(" \t")
        else:
            raise MalformedResponse("its first field is folded")
    return whole


def _length(fields: HTTPHeaderDict) -> int | None:
    """Return the Content-Length. Reduce one that is repeated with the same value."""
    given = fields.get("content-length", "")
    values = {value.strip(" \t") for value in given.split(",")}
    length = values.pop()
    if values or len(length) > MAX_DIGITS:
        raise MalformedResponse("its Content-Length is contradictory, or too long")
    if not length:
        fields.discard("content-length")
    elif length != given:
        fields["Content-Length"] = length
    return int(length) if length.isascii() and length.isdigit() else None
