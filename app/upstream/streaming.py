"""Stream bodies both ways in constant memory, and close every stream however it ends.

Upload: a short body is read whole before MLflow is contacted. A long one is forwarded piece by
piece and counted, because gunicorn ends the input of a vanished client without an error. Download:
pieces as they arrive. An aborted transfer never looks complete.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import urllib3

from app.request.body import PIECE, Input, counted, read_piece, yield_to_hub
from app.request.client_connection import abort_with_reset
from app.request.errors import BodyTooLarge, BrokenTransfer
from app.request.inbound import Inbound
from app.upstream.buffered_bodies import BufferedBody

#: Bytes up to which a body is read whole before it is forwarded: it is then sent in one write, can
#: be resent on another connection, and a slow client does not keep MLflow waiting.
WHOLE = 64 * 1024

#: The same on the routes whose body is judged before it is forwarded. MLflow takes no batch of
#: metrics above 1 MB.
JUDGED = 4 * 1024 * 1024

#: Pieces of a short response after which other greenlets run; MLflow's chunks may be tiny.
FEW_PIECES = 64


@dataclass(frozen=True, slots=True)
class Body:
    """A request body for MLflow. `length` is in bytes, None if chunked. `content` is None for no
    body, bytes for a whole one, else an iterator of pieces."""

    content: bytes | Iterator[bytes] | None
    length: int | None

    @property
    def is_whole(self) -> bool:
        """Whether it can be sent a second time."""
        return self.content is None or isinstance(self.content, bytes)

    @property
    def short(self) -> bytes | None:
        """The content, if it is whole and has at most WHOLE bytes."""
        if isinstance(self.content, bytes) and len(self.content) <= WHOLE:
            return self.content
        return None

    def when_last_piece(self, go: Callable[[], None]) -> "Body":
        """Return the same body; `go` is called once the client has sent it all, before the last
        piece is forwarded."""
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
    is_judged: bool = False,
) -> Body:
    """Frame the client's body as MLflow needs it. `came` receives the size of each piece.

    MLflow's Flask routes lose a chunked body (200 with an empty result), so it is buffered in
    `aside` and sent with its length; `streams` marks the routes that accept chunks. A body that
    `is_judged` is read whole. That must arrive within CLIENT_REQUEST_TIMEOUT. Raises BodyTooLarge,
    NoRoomForBody, ClientGone or RequestTimeout.
    """
    stream = Input(inbound.environ["wsgi.input"].read, came)
    length, longest = inbound.content_length, JUDGED if is_judged else WHOLE
    _keep(inbound, streams if inbound.chunked else (length or 0) > longest)
    if inbound.chunked:
        return Body(_pieces(stream), None) if streams else _put_aside(stream, aside, is_judged)
    if length is None:
        return Body(None, 0)
    if is_judged and length > JUDGED:
        raise _too_large()
    if length <= longest:
        whole = b"".join(counted(stream, length))
        return Body(whole, len(whole))
    return Body(counted(stream, length), length)


def _keep(inbound: Inbound, streams: bool) -> None:
    """Tell the server that this request is admitted; see app/server/client_socket.py."""
    client = inbound.environ.get("gunicorn.socket")
    if client is not None:
        client.keep(streams)


def has_left(inbound: Inbound) -> bool:
    """Whether the client is known to have closed its side of the connection."""
    client = inbound.environ.get("gunicorn.socket")
    return client is not None and client.has_left()


def _pieces(stream: Any) -> Iterator[bytes]:
    """Yield a chunked body's pieces; the server's parser checks its end."""
    while piece := read_piece(stream, PIECE):
        yield piece
        yield_to_hub()


def _put_aside(stream: Any, aside: BufferedBody, is_judged: bool) -> Body:
    """Buffer a chunked body to its end, to give it a length."""
    for piece in _pieces(stream):
        if is_judged and aside.size + len(piece) > JUDGED:
            raise _too_large()
        aside.write(piece)
    size = aside.size
    if size <= (JUDGED if is_judged else WHOLE):
        return Body(b"".join(aside.pieces(PIECE)), size)
    return Body(aside.pieces(PIECE), size)


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(
        f"The proxy reads this request's body before it forwards it, so it may have at most "
        f"{JUDGED} bytes. Send it in parts."
    )


def body_length(upstream: urllib3.BaseHTTPResponse, method: str) -> int | None:
    """Return the length of MLflow's body in bytes; None if it is unknown or there is no body.

    Raises ValueError for ambiguous framing (RFC 9112 section 6.3).
    """
    length = upstream.headers.get("Content-Length")
    coding = upstream.headers.get("Transfer-Encoding", "chunked").lower()
    if coding != "chunked" or (length and "Transfer-Encoding" in upstream.headers):
        raise ValueError("the framing is neither plain Content-Length nor plain chunked")
    if length and not (length.isascii() and length.isdigit()):
        raise ValueError("Content-Length is not a number")
    bodiless = method == "HEAD" or upstream.status in (204, 304)
    return int(length) if length and not bodiless else None


def response_body(
    upstream: urllib3.BaseHTTPResponse, expected: int | None, inbound: Inbound
) -> Iterator[bytes]:
    """Yield MLflow's body, piece by piece as it arrives (a server-sent event at once).

    `expected` is its Content-Length, None if chunked. Raises BrokenTransfer if MLflow breaks off.
    Closes the connection, unless the body was read to its end: then it is reused.
    """
    passed = pieces = 0
    unframed = expected is None and inbound.environ.get("SERVER_PROTOCOL") == "HTTP/1.0"
    if unframed:
        abort_with_reset(inbound)  # in advance: this worker may die, too, and could not do it then
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
