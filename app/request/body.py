"""The client's body as the server hands it over: read in pieces, its failures as our errors."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from app.request.errors import ClientGone, RequestTimeout

#: Bytes handled at once. At 16 KiB, urllib3's default, a transfer costs 3 to 5 times the CPU.
PIECE = 256 * 1024

#: Seconds for which a stream gives way; with 0 gevent would look at no other socket: see
#: app/server/client_socket.py.
BRIEFLY = 1e-9


def whole_body(environ: Mapping[str, Any], length: int) -> bytes:
    """The body of a request to one of our own pages. Raises ClientGone or RequestTimeout."""
    stream = Input(environ["wsgi.input"].read, lambda size: None)
    return b"".join(counted(stream, length))


class Input:
    """The client's body; `came` is called with the bytes of each piece."""

    def __init__(self, read: Callable[[int], bytes], came: Callable[[int], None]) -> None:
        self._read = read
        self._came = came

    def read(self, size: int) -> bytes:
        """Up to `size` bytes."""
        piece = self._read(size)
        self._came(len(piece))
        return piece


def counted(stream: Any, length: int) -> Iterator[bytes]:
    """Exactly `length` bytes, in pieces; ClientGone if there are fewer."""
    missing = length
    while missing:
        piece = read_piece(stream, min(PIECE, missing))
        if not piece:
            raise ClientGone(f"{missing} of {length} bytes did not come")
        missing -= len(piece)
        yield piece
        yield_to_hub()


def read_piece(stream: Any, size: int) -> bytes:
    """One piece of the client's body, its failures in our words."""
    try:
        piece: bytes = stream.read(size)
    except TimeoutError:
        raise RequestTimeout(
            "The request's body stopped coming (CLIENT_IDLE_TIMEOUT), or came too slowly "
            "(CLIENT_REQUEST_TIMEOUT); repeat the request."
        ) from None
    except Exception as why:  # a reset, or a chunk that cannot be parsed: each server has its own
        raise ClientGone(type(why).__name__) from why
    return piece


def yield_to_hub() -> None:
    """Lets the worker's other requests have their turn. A stream whose both ends are quick never
    waits, and so would keep them from running for as long as it lasts."""
    time.sleep(BRIEFLY)
