"""Bytes both ways, in constant memory; whatever ends a stream, it is closed.

Up: a short body is read whole before MLflow hears of it; a long one is handed on piece by piece
and counted, because gunicorn ends the input of a vanished client without an error. Down: pieces as
they come. A transfer that broke never looks complete.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import urllib3

from app.request.body import PIECE, Input, counted, read_piece, yield_to_hub
from app.request.client_connection import abort_with_reset
from app.request.errors import BrokenTransfer
from app.request.inbound import Inbound
from app.upstream.buffered_bodies import BufferedBody

#: Bytes up to which a body is read whole before it goes on: it is then sent in one write, can be
#: sent again to another connection, and a slow client does not keep MLflow waiting.
WHOLE = 64 * 1024

#: Pieces of a short answer after which others have their turn; MLflow's chunks may be tiny.
FEW_PIECES = 64


@dataclass(frozen=True, slots=True)
class Body:
    """A request body for MLflow. `length` is in bytes, None for a chunked one. `content` is None
    for no body, bytes for a whole one, else the pieces."""

    content: bytes | Iterator[bytes] | None
    length: int | None

    @property
    def is_whole(self) -> bool:
        """Whether it could be sent a second time."""
        return self.content is None or isinstance(self.content, bytes)

    def when_last_piece(self, go: Callable[[], None]) -> "Body":
        """The same body, for which `go` is called when the client has sent it all; its last piece
        waits for that."""
        if self.content is None or isinstance(self.content, bytes):
            go()
            return self
        return Body(_holding_the_last(self.content, go), self.length)


def _holding_the_last(pieces: Iterator[bytes], go: Callable[[], None]) -> Iterator[bytes]:
    held = b""
    for piece in pieces:
        if held:
            yield held
        held = piece
    go()
    yield held


def request_body(
    inbound: Inbound,
    streams: bool,
    aside: BufferedBody,
    came: Callable[[int], None] = lambda size: None,
) -> Body:
    """The client's body, framed as MLflow needs it. `came` is told the bytes of each piece.

    MLflow's Flask routes lose a chunked body (200 with an empty result), so one is put `aside` and
    then sent with its length; `streams` marks the routes that take it chunked. What is read whole,
    must come within CLIENT_REQUEST_TIMEOUT. Raises BodyTooLarge, NoRoomForBody, ClientGone or
    RequestTimeout.
    """
    stream = Input(inbound.environ["wsgi.input"].read, came)
    length = inbound.content_length
    _keep(inbound, streams if inbound.chunked else (length or 0) > WHOLE)
    if inbound.chunked:
        return Body(_pieces(stream), None) if streams else _put_aside(stream, aside)
    if length is None:
        return Body(None, 0)
    if length <= WHOLE:
        whole = b"".join(counted(stream, length))
        return Body(whole, len(whole))
    return Body(counted(stream, length), length)


def _keep(inbound: Inbound, streams: bool) -> None:
    """Tells the server that this request has its place now; see app/server/client_socket.py."""
    client = inbound.environ.get("gunicorn.socket")
    if client is not None:
        client.keep(streams)


def has_left(inbound: Inbound) -> bool:
    """Whether the client is known to have ended its side of the connection."""
    client = inbound.environ.get("gunicorn.socket")
    return client is not None and client.has_left()


def _pieces(stream: Any) -> Iterator[bytes]:
    """A chunked body's pieces; its end is checked by the server's parser."""
    while piece := read_piece(stream, PIECE):
        yield piece
        yield_to_hub()


def _put_aside(stream: Any, aside: BufferedBody) -> Body:
    """A chunked body, read to its end and given a length."""
    for piece in _pieces(stream):
        aside.write(piece)
    size = aside.size
    if size <= WHOLE:
        return Body(b"".join(aside.pieces(WHOLE)), size)
    return Body(aside.pieces(PIECE), size)


def body_length(upstream: urllib3.BaseHTTPResponse, method: str) -> int | None:
    """How many bytes MLflow's body has to have, None where it does not tell or has no body.

    ValueError for a framing that could be read in two ways (RFC 9112 section 6.3).
    """
    length = upstream.headers.get("Content-Length")
    coding = upstream.headers.get("Transfer-Encoding", "chunked").lower()
    if coding != "chunked" or (length and "Transfer-Encoding" in upstream.headers):
        raise ValueError("neither plainly sized nor plainly chunked")
    if length and not (length.isascii() and length.isdigit()):
        raise ValueError("Content-Length is not a number")
    bodiless = method == "HEAD" or upstream.status in (204, 304)
    return int(length) if length and not bodiless else None


def response_body(
    upstream: urllib3.BaseHTTPResponse, expected: int | None, inbound: Inbound
) -> Iterator[bytes]:
    """MLflow's body, piece by piece as it comes (a server-sent event at once).

    `expected` is its Content-Length, None if chunked. Raises BrokenTransfer where MLflow breaks
    off. Closes the connection unless it was read to its end, in which case it is reused.
    """
    passed = pieces = 0
    unframed = expected is None and inbound.environ.get("SERVER_PROTOCOL") == "HTTP/1.0"
    if unframed:
        abort_with_reset(inbound)  # beforehand: this worker too may end, and cannot say so then
    try:
        while piece := upstream.read1(PIECE, decode_content=False):
            passed += len(piece)
            pieces += 1
            yield piece
            if passed > PIECE or not pieces % FEW_PIECES:
                yield_to_hub()
    except (urllib3.exceptions.HTTPError, OSError) as why:
        abort_with_reset(inbound)
        raise BrokenTransfer(f"MLflow broke off after {passed} bytes: {why}") from why
    finally:
        upstream.close()
    if expected is not None and passed != expected:
        abort_with_reset(inbound)
        raise BrokenTransfer(f"MLflow ended after {passed} of {expected} bytes")
    if unframed:
        abort_with_reset(inbound, False)
