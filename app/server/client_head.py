"""The head of a client's request, bounded as a whole and read at linear cost.

gunicorn's parser bounds the request line at 8190 bytes, and each field; together they may take 800
KB, and it rescans all that has arrived for each new byte. MLflow's server (uvicorn with h11)
accepts 64 KiB in total, whatever they hold. So does this one. gunicorn interprets the lines.
"""

from typing import Any

from gunicorn.http.errors import (
    InvalidRequestLine,
    LimitRequestHeaders,
    LimitRequestLine,
    NoMoreData,
    ParseException,
)
from gunicorn.http.message import Request

#: Maximum bytes of a head, from the request line to the empty line; and of a body's trailers.
LONGEST_HEAD = 64 * 1024

#: Name under which the application gets the names that gunicorn dropped. A client cannot send a
#: field with this name, because of the space.
DROPPED = "HOKUSAI DROPPED"

#: Maximum fields of a head. MLflow has no such limit; parsing this many takes about a millisecond.
MOST_FIELDS = 500


class HeadTimeout(ParseException):  # type: ignore[misc]
    """The head did not arrive in time."""


class GivenUp(ParseException):  # type: ignore[misc]
    """The connection was closed to make room, before the head was whole."""


class BoundedRequest(Request):  # type: ignore[misc]
    """A request whose head is at most LONGEST_HEAD bytes. Its ParseException has an attribute
    `received`, with what arrived of the head."""

    limit_request_field_size: int

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._received = bytearray()
        self._dropped: list[str] = []
        self._is_last = False
        try:
            super().__init__(*arguments, **options)
        except ParseException as why:
            why.received = bytes(self._received)
            raise
        self._received = bytearray()

    def parse(self, unreader: Any) -> bytes:
        """Read and parse the head; return the bytes after it."""
        self.max_buffer_headers = LONGEST_HEAD  # for the trailers
        head, rest = self._read(unreader)
        line, _, fields = head.partition(b"\r\n")
        self.parse_request_line(line)
        if fields:
            longest_in_a_trailer = self.limit_request_field_size
            self.limit_request_field_size = LONGEST_HEAD
            self.headers = self.parse_headers(fields)
            self.limit_request_field_size = longest_in_a_trailer
            self._is_last = _names_close(self.headers)
            self.headers += [(DROPPED, name) for name in self._dropped]
        return rest

    def should_close(self) -> bool:
        """Whether the connection closes after the response. Called four times a request."""
        return self._is_last or bool(super().should_close())

    def forget_head(self) -> None:
        """Free the head after the response. The parser keeps the request while it waits for the
        next one, maybe for long and on many connections; it only needs to know whether there may be
        one."""
        option = "close" if self.should_close() else "keep-alive"
        self.headers = [("CONNECTION", option)]
        self.trailers.clear()
        self.uri = self.path = self.query = self.fragment = ""

    def _peer_trusted_for_forwarded(self) -> tuple[dict[str, str], list[str]]:
        """Return no fields that gunicorn would take from a proxy in front: the proxy itself reads
        those that count. gunicorn would parse the peer's address for each request."""
        return {}, []

    def _apply_header_policy(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Record a field that gunicorn drops (None), such as one with an underscore in its name."""
        kept = super()._apply_header_policy(name, *arguments, **options)
        if kept is None:
            self._dropped.append(name)
        return kept

    def _read(self, unreader: Any) -> tuple[bytes, bytes]:
        """Return the head without its last line ends, and the bytes after it."""
        head = self._received
        self._receive(unreader)
        unreader.sock.begin_head()
        while head == b"\r":
            self._receive(unreader)
        if head.startswith(b"\r\n"):  # one empty line may precede it (RFC 9112 section 2.2)
            del head[:2]
        searched = 0
        while (end := head.find(b"\r\n\r\n", max(0, searched - 3), LONGEST_HEAD)) < 0:
            self._check(searched)
            searched = len(head)
            self._receive(unreader)
        return bytes(head[:end]), bytes(head[end + 4 :])

    def _check(self, searched: int) -> None:
        """Reject what can no longer become a head; the first `searched` bytes are checked."""
        head = self._received
        if len(head) >= LONGEST_HEAD:
            if head.find(b"\r\n", 0, LONGEST_HEAD) < 0:
                raise LimitRequestLine(len(head), LONGEST_HEAD)
            raise LimitRequestHeaders("the head is too long")
        # Each line ends with CRLF; a head with a bare LF would never be whole.
        if head.count(b"\n", searched) != head.count(b"\r\n", max(0, searched - 1)):
            raise InvalidRequestLine("bare LF as line terminator")
        if head.startswith(b"\r\n"):
            raise InvalidRequestLine("")

    def _receive(self, unreader: Any) -> None:
        """Read more of the head. Raises StopIteration if no request follows."""
        try:
            data = unreader.read()
        except TimeoutError:
            if not self._received:
                raise StopIteration from None
            raise HeadTimeout from None
        if not data and not self._received:
            raise StopIteration
        if not data and unreader.sock.is_given_up:
            raise GivenUp
        if not data:
            raise NoMoreData(b"")  # without the head, which would be logged
        self._received += data


def _names_close(headers: list[tuple[str, str]]) -> bool:
    """Whether the client closes the connection. gunicorn looks for a lone `close`; it may be part
    of a list (RFC 9112 section 9.6), as Perl's LWP sends it: `TE, close`."""
    options = ",".join(value for name, value in headers if name == "CONNECTION")
    return "close" in (option.strip().lower() for option in options.split(","))


def navigation(received: bytes) -> tuple[dict[str, str], str]:
    """Parse the beginning of a head into a WSGI environment, enough to recognize a browser's
    navigation; return it with the path."""
    line, *fields = received[:LONGEST_HEAD].decode("latin-1").split("\r\n")
    method, _, rest = line.partition(" ")
    environ = {"REQUEST_METHOD": method}
    for field in fields:
        name, colon, value = field.partition(":")
        if colon:
            environ[f"HTTP_{name.strip().upper().replace('-', '_')}"] = value.strip()
    return environ, rest.partition(" ")[0].partition("?")[0]
