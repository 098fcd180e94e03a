"""A request's body, as the worker hands it to the application."""

from typing import Any

from gunicorn.http.body import Body, LengthReader


def quick(body: Any) -> Any:
    """Return the same body; one with a length is then read without gunicorn's copies."""
    reader = getattr(body, "reader", None)
    return SizedBody(reader) if isinstance(reader, LengthReader) else body


def was_read(body: Any) -> bool:
    """Whether a sized body, or none, was read to its end: the usual case, without a timer."""
    reader = getattr(body, "reader", None)
    return isinstance(reader, LengthReader) and reader.length == 0 and not body.failed


class SizedBody(Body):  # type: ignore[misc]
    """A body with a length, read piece by piece as it arrives. gunicorn's version reads a MiB from
    the socket, and copies the rest of it for each requested piece: three times the work, and two
    MiB for each upload."""

    def read(self, size: int | None = None) -> bytes:
        """Return up to `size` bytes, whatever is available; without a size, all the rest. Empty at
        the end, and if the client disconnected before it."""
        if size is None or size < 0 or self.buf.tell():
            whole: bytes = super().read(size)
            return whole
        size = min(size, self.reader.length)
        if not size:
            return b""
        piece = self._take(size)
        self.reader.length -= len(piece)
        return piece

    def _take(self, size: int) -> bytes:
        """Return what came with the request's head, else the next bytes of the socket. Bytes after
        the body are put back."""
        unreader = self.reader.unreader
        is_buffered = unreader.buf.getbuffer().nbytes > 0
        read: bytes = unreader.take_buffered() if is_buffered else self._receive(size)
        if len(read) > size:
            unreader.unread(read[size:])
        return read[:size]

    def _receive(self, size: int) -> bytes:
        try:
            received: bytes = self.reader.unreader.chunk(size)
        except Exception:
            self.failed = True  # the start of the next request is unknown
            raise
        return received


class ContinuedBody:
    """A request body whose client waits for `100 Continue` (RFC 9110 section 10.1.1). The first
    read sends it. If nothing is read, the client may or may not send the body, so the connection
    must close after the response."""

    def __init__(self, req: Any, sock: Any) -> None:
        self._req = req
        self._sock = sock
        self._body = req.body
        self._asked = False
        req.must_close = True

    @property
    def failed(self) -> bool:
        """Whether reading failed; gunicorn checks this before it reuses the connection."""
        return bool(self._body.failed)

    def read(self, size: int | None = None) -> bytes:
        """Return up to `size` bytes, as gunicorn's Body does."""
        if not self._asked:
            self._asked = True
            self._req.must_close = False
            self._sock.send_now(b"HTTP/1.1 100 Continue\r\n\r\n")
        data: bytes = self._body.read(size)
        return data
