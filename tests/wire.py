"""A client that is a raw socket: it sends bytes, and tells how answer and connection ended."""

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

from tests.upstreams import WAIT_LIMIT, reset_on_close


@dataclass(frozen=True)
class Response:
    """One response; its status is 0 where none came. `whole`: its framing says that it is complete.
    `end`: "fin" or "rst" where the connection ended while it was read, else None."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    whole: bool
    end: str | None

    def all(self, name: str) -> list[str]:
        """Every value of a header field."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def one(self, name: str) -> str | None:
        """The value of a header field that may be there once."""
        values = self.all(name)
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Status and error_code of an answer that must be one of our errors, whole and in JSON."""
        assert self.whole, self
        assert self.one("Content-Type") == "application/json", self
        assert self.json.keys() == {"error_code", "message", "request_id"}, self
        assert self.json["request_id"] == self.one("X-Request-ID"), self
        return self.status, self.json["error_code"]


class Wire:
    """One connection to the server at `url`, as a context manager."""

    def __init__(self, url: str, receive_buffer: int | None = None) -> None:
        """`receive_buffer` (bytes) is small for a client that is to be slow."""
        address = urlsplit(url)
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(WAIT_LIMIT)
        try:
            self.socket.connect((address.hostname, address.port))
        except OSError:
            self.socket.close()
            raise
        self.buffer = b""
        self.ended: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *why: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> Self:
        """Sends these bytes."""
        self.socket.sendall(data)
        return self

    def vanish(self) -> None:
        """Ends the connection as a process does that is killed while data is under way: RST."""
        reset_on_close(self.socket)
        self.socket.close()

    def ask(self, request: bytes, method: str = "") -> Response:
        """Sends a whole request and reads the answer to it."""
        return self.send(request).read(method or request.partition(b" ")[0].decode("latin-1"))

    def read(self, method: str = "GET") -> Response:
        """Reads one response to a request of that method."""
        status, headers = self.read_head()
        if not status:
            return Response(0, (), self.buffer, False, self.ended)
        fields = {name.lower(): value for name, value in headers}
        if method == "HEAD" or status in (204, 304) or 100 <= status < 200:
            body, whole = b"", True
        elif "chunked" in fields.get("transfer-encoding", ""):
            body, whole = self.read_chunked()
        elif "content-length" in fields:
            body, whole = self.read_sized(int(fields["content-length"]))
        else:
            body, whole = self._rest()
        return Response(status, headers, body, whole, self.ended)

    def read_head(self) -> tuple[int, tuple[tuple[str, str], ...]]:
        """Status and header fields; (0, ()) where the connection ended before they were whole."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.more():
                return 0, ()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(first.split(" ")[1]), tuple((name, value.strip()) for name, _, value in pairs)

    def read_chunk(self) -> bytes:
        """The next chunk of a body; b"" is the last one. EOFError where the connection ended."""
        size = int(self._line(), 16)
        while len(self.buffer) < size + 2:
            if not self.more():
                raise EOFError
        piece, self.buffer = self.buffer[:size], self.buffer[size + 2 :]
        return piece

    def end(self) -> str:
        """How the connection ends when nothing more comes: "fin" or "rst"."""
        while self.more():
            pass
        assert self.ended is not None
        return self.ended

    def more(self) -> bool:
        """Receives once; False where the connection ended."""
        if self.ended:
            return False
        try:
            data = self.socket.recv(256 * 1024)
            self.ended = None if data else "fin"
        except (ConnectionResetError, BrokenPipeError):
            data, self.ended = b"", "rst"
        self.buffer += data
        return bool(data)

    def read_sized(self, size: int) -> tuple[bytes, bool]:
        """A body of so many bytes, and whether it is whole."""
        body = b"".join(self.pieces(size))
        return body, len(body) == size

    def pieces(self, size: int) -> Iterator[bytes]:
        """A body of so many bytes, piece by piece; fewer where the connection ended."""
        while size and (self.buffer or self.more()):
            piece, self.buffer = self.buffer[:size], self.buffer[size:]
            size -= len(piece)
            yield piece

    def read_chunked(self) -> tuple[bytes, bool]:
        """A chunked body, and whether it is whole."""
        body = b""
        with contextlib.suppress(EOFError):
            while piece := self.read_chunk():
                body += piece
            return body, True
        return body, False

    def _rest(self) -> tuple[bytes, bool]:
        while self.more():
            pass
        return self.buffer, self.ended == "fin"

    def _line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            if not self.more():
                raise EOFError
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line


def request(
    method: str, target: str | bytes, *fields: str | bytes, body: bytes = b"", version: str = "1.1"
) -> bytes:
    """A request as bytes. `fields` are whole header lines, such as "Range: bytes=0-1". Host is
    added unless it is given, and Content-Length where there is a body and nothing frames it."""
    lines = [_bytes(field) for field in fields]
    names = {line.partition(b":")[0].lower() for line in lines}
    if b"host" not in names:
        lines.insert(0, b"Host: proxy.test")
    if body and not names & {b"content-length", b"transfer-encoding"}:
        lines.append(b"Content-Length: %d" % len(body))
    first = b"%s %s HTTP/%s" % (method.encode(), _bytes(target), version.encode())
    return b"\r\n".join((first, *lines, b"", body))


def bearer(key: str) -> str:
    """The header line that carries a key."""
    return f"Authorization: Bearer {key}"


def call(
    url: str, method: str, target: str | bytes, *fields: str | bytes, body: bytes = b""
) -> Response:
    """One request on a connection of its own."""
    with Wire(url) as wire:
        return wire.ask(request(method, target, *fields, body=body))


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
