"""Buffer request bodies until they are complete, bounded per body, per key and per worker.

A body is in memory up to IN_MEMORY bytes, then in a temporary file (TMPDIR). Without room, or if
the file system fails, the caller gets a 503 and may repeat the request when others are done.
"""

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from typing import IO, Self

from app.observability.metrics import BUFFERED_BYTES, count_buffer_refusal
from app.request.errors import BodyTooLarge, NoRoomForBody

log = logging.getLogger("hokusai.proxy")

#: Bytes of a body kept in memory; a longer one goes to a temporary file.
IN_MEMORY = 256 * 1024

#: Seconds in Retry-After if there is no room.
RETRY_AFTER = 5

#: Seconds between two log lines about the same cause.
QUIET_SECONDS = 60.0


class BufferedBodies:
    """The bodies that this worker buffers. Shared by all its requests."""

    def __init__(self, each: int, total: int) -> None:
        """`each` and `total` are in bytes: one body, and all of them. A key may use a quarter of
        `total`."""
        self.each = each
        self._total = max(each, total)
        self._of_key = max(each, self._total // 4)
        self._used: Counter[str] = Counter()
        self._said_at: dict[str, float] = {}

    def new(self, key_id: str) -> "BufferedBody":
        """Return an empty body for a request of this key; the caller must close it."""
        return BufferedBody(self, key_id)

    def take(self, key_id: str, size: int) -> None:
        """Reserve `size` bytes. Raises NoRoomForBody."""
        if self._used[key_id] + size > self._of_key:
            raise self.refusal("key", f"one key has used its share of MAX_BUFFERED_TOTAL: {key_id}")
        if self._used.total() + size > self._total:
            raise self.refusal("total", "MAX_BUFFERED_TOTAL is reached")
        self._used[key_id] += size
        BUFFERED_BYTES.inc(size)

    def give_back(self, key_id: str, size: int) -> None:
        """Release `size` bytes."""
        BUFFERED_BYTES.dec(size)
        self._used[key_id] -= size
        if not self._used[key_id]:
            del self._used[key_id]

    def refusal(self, reason: str, cause: str) -> NoRoomForBody:
        """Return the error for the caller. Count it each time; log it once in QUIET_SECONDS."""
        count_buffer_refusal(reason)
        now = time.monotonic()
        if now > self._said_at.get(reason, -QUIET_SECONDS) + QUIET_SECONDS:
            self._said_at[reason] = now
            log.warning("cannot buffer chunked bodies: %s", cause)
        whose = "your key's other" if reason == "key" else "other"
        return NoRoomForBody(
            "The proxy has no room to buffer this chunked body. Repeat the request when "
            f"{whose} requests are done, or send the body with a Content-Length.",
            RETRY_AFTER,
        )


class BufferedBody:
    """One body, written and then read, as a context manager. Closing it releases its room."""

    def __init__(self, bodies: BufferedBodies, key_id: str) -> None:
        self._bodies = bodies
        self._key_id = key_id
        self._file: IO[bytes] | None = None
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *why: object) -> None:
        self.close()

    def write(self, piece: bytes) -> None:
        """Append to the body. Raises BodyTooLarge or NoRoomForBody."""
        if self.size + len(piece) > self._bodies.each:
            raise BodyTooLarge(
                f"A chunked body on this route may have at most {self._bodies.each} bytes "
                "(MAX_BUFFERED_BODY). Send it with a Content-Length, or ask the operator for a "
                "higher limit."
            )
        self._bodies.take(self._key_id, len(piece))
        self.size += len(piece)
        try:
            if self._file is None:
                self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
            self._file.write(piece)
        except OSError as why:
            raise self._no_disk(why) from why

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield the whole body once, in pieces of up to `size` bytes, and close it after the last.
        Raises NoRoomForBody if it cannot be read."""
        if self._file is None:
            return
        try:
            self._file.seek(0)
            while piece := self._file.read(size):
                yield piece
        except OSError as why:
            raise self._no_disk(why) from why
        finally:
            self.close()

    def close(self) -> None:
        """Discard the body."""
        size, self.size = self.size, 0
        if size:
            self._bodies.give_back(self._key_id, size)
        if self._file is not None:
            try:
                self._file.close()
            except OSError as why:  # flushing the rest failed: the disk is still full
                log.debug("closing a temporary file: %s", why)

    def _no_disk(self, why: OSError) -> NoRoomForBody:
        return self._bodies.refusal("disk", f"cannot use the temporary folder (TMPDIR): {why}")
