"""Reading the client's body from the server in chunks; failures become ProxyErrors."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from app.request.errors import ClientGone, RequestTimeout

#: The chunk size in bytes. At 16 KiB, urllib3's default, a transfer costs 3 to 5 times the CPU.
PIECE = 256 * 1024

#: Seconds for which a stream yields; with 0 gevent would poll no other socket: see
#: app/server/client_socket.py.
BRIEFLY = 1e-9


def whole_body(environ: Mapping[str, Any], length: int) -> bytes:
    """Read the body of a request to one of the proxy's pages. Raises ClientGone, RequestTimeout."""
    stream = Input(environ["wsgi.input"].read, lambda size: None)
    return b"".join(counted(stream, length))


class Input:
    """The client's body; `came` is called with the size of each chunk."""

    def __init__(self, read: Callable[[int], bytes], came: Callable[[int], None]) -> None:
        self._read = read
        self._came = came

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        piece = self._read(size)
        self._came(len(piece))
        return piece


def counted(stream: Any, length: int) -> Iterator[bytes]:
    """Yield exactly `length` bytes in chunks; raise ClientGone if the body is shorter."""
    missing = length
    while missing:
        piece = read_piece(stream, min(PIECE, missing))
        if not piece:
            raise ClientGone(f"{missing} of {length} bytes did not arrive")
        missing -= len(piece)
        yield piece
        if missing:
            yield_to_hub()


def read_piece(stream: Any, size: int) -> bytes:
    """Read one chunk of the client's body. Raises ClientGone or RequestTimeout."""
    try:
        piece: bytes = stream.read(size)
    except TimeoutError:
        raise RequestTimeout(
            "The request's body stalled (CLIENT_IDLE_TIMEOUT) or arrived too slowly "
            "(CLIENT_REQUEST_TIMEOUT); repeat the request."
        ) from None
    except Exception as why:  # a reset or a malformed chunk: each server has its own exceptions
        raise ClientGone(type(why).__name__) from why
    return piece


def yield_to_hub() -> None:
    """Let the worker's other requests run. A stream with two fast ends never waits, so without
    this it would block them until it ends."""
    time.sleep(BRIEFLY)
