"""A request's head, bounded as a whole and read at linear cost.

gunicorn's parser bounds the request line at 8190 bytes and each field; all of them together may
take 800 KB, and it searches all that came again for each byte that comes. MLflow's server (uvicorn
with h11) takes 64 KiB in all, whatever it consists of. So does this one. What the lines mean is
gunicorn's to say.
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

#: Bytes of a head, from the request line to the empty line; and of the trailers behind a body.
LONGEST_HEAD = 64 * 1024

#: How the names that gunicorn dropped from a head reach the application. The blank keeps a client
#: from sending a field of that name.
DROPPED = "HOKUSAI DROPPED"

#: Fields of a head. MLflow has no limit of its own; parsing so many takes about a millisecond.
MOST_FIELDS = 500


class HeadTimeout(ParseException):  # type: ignore[misc]
    """The head did not come in time."""


class GivenUp(ParseException):  # type: ignore[misc]
    """The connection had to make room before the head was whole."""


class BoundedRequest(Request):  # type: ignore[misc]
    """A request whose head is at most LONGEST_HEAD bytes. A ParseException that it raises has what
    came of the head in its attribute `received`."""

    limit_request_field_size: int

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._received = bytearray()
        self._dropped: list[str] = []
        try:
            super().__init__(*arguments, **options)
        except ParseException as why:
            why.received = bytes(self._received)
            raise
        self._received = bytearray()

    def parse(self, unreader: Any) -> bytes:
        """Reads and parses the head; returns what came behind it."""
        self.max_buffer_headers = LONGEST_HEAD  # for the trailers
        head, rest = self._read(unreader)
        line, _, fields = head.partition(b"\r\n")
        self.parse_request_line(line)
        if fields:
            longest_in_a_trailer = self.limit_request_field_size
            self.limit_request_field_size = LONGEST_HEAD
            self.headers = self.parse_headers(fields)
            self.limit_request_field_size = longest_in_a_trailer
            self.headers += [(DROPPED, name) for name in self._dropped]
        return rest

    def should_close(self) -> bool:
        """Whether the connection ends with the response. gunicorn looks for `close` alone; it may
        stand in a list (RFC 9112 section 9.6), as Perl's LWP has it: `TE, close`."""
        options = ",".join(value for name, value in self.headers if name == "CONNECTION")
        is_last = "close" in (option.strip().lower() for option in options.split(","))
        return is_last or bool(super().should_close())

    def forget_head(self) -> None:
        """The answer is out. The parser keeps the request while it waits for the next one, which
        may be long, on many connections; what it still asks is whether there may be one."""
        option = "close" if self.should_close() else "keep-alive"
        self.headers = [("CONNECTION", option)]
        self.trailers.clear()
        self.uri = self.path = self.query = self.fragment = ""

    def _apply_header_policy(self, name: str, *arguments: Any, **options: Any) -> Any:
        """gunicorn's decision about a field; None drops it, as it does names with an underscore."""
        kept = super()._apply_header_policy(name, *arguments, **options)
        if kept is None:
            self._dropped.append(name)
        return kept

    def _read(self, unreader: Any) -> tuple[bytes, bytes]:
        """The head without its last line ends, and what came behind it."""
        head = self._received
        self._receive(unreader)
        unreader.sock.begin_head()
        while head == b"\r":
            self._receive(unreader)
        if head.startswith(b"\r\n"):  # one empty line may come before (RFC 9112 section 2.2)
            del head[:2]
        searched = 0
        while (end := head.find(b"\r\n\r\n", max(0, searched - 3), LONGEST_HEAD)) < 0:
            self._check(searched)
            searched = len(head)
            self._receive(unreader)
        return bytes(head[:end]), bytes(head[end + 4 :])

    def _check(self, searched: int) -> None:
        """Refuses what can no longer become a head; up to `searched` it has been looked at."""
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
        """More of the head. StopIteration where no request begins any more."""
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
            raise NoMoreData(b"")  # nothing of the head, which a log would show
        self._received += data


def navigation(received: bytes) -> tuple[dict[str, str], str]:
    """The beginning of a head as a WSGI environment, good enough to tell a browser's navigation
    from other requests; and the path."""
    line, *fields = received[:LONGEST_HEAD].decode("latin-1").split("\r\n")
    method, _, rest = line.partition(" ")
    environ = {"REQUEST_METHOD": method}
    for field in fields:
        name, colon, value = field.partition(":")
        if colon:
            environ[f"HTTP_{name.strip().upper().replace('-', '_')}"] = value.strip()
    return environ, rest.partition(" ")[0].partition("?")[0]
