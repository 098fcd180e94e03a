"""A fake at the other end of the wire: a real socket that records requests and answers by script.

    with Upstream() as fake:
        fake.answers(Answer(send(sized(b"hello"))))                  # every request
        fake.answers(Answer(reset()), Answer(send(sized(b"ok"))))    # in turn, the last one stays
        fake.answers_by(lambda request: Answer(...))                 # by what was asked
        ...
        assert fake.requests[0].target == b"/api/2.0/mlflow/runs/get"

What it records are the bytes as they came. An answer is a list of steps; a step is a function of
the exchange, so a new fault is a function of three lines.
"""

import contextlib
import hashlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

#: Seconds until something that should have happened is given up.
WAIT_LIMIT = 20.0

#: Bytes of a body that are kept; all of them are counted and hashed.
KEPT = 4 * 1024 * 1024

PIECE = 256 * 1024


# --- what was asked ------------------------------------------------------------------------------


@dataclass
class Received:
    """One request, byte for byte. `end` tells how its body ended: "whole", or, in mid-body, "fin"
    or "rst"; None while it is still coming. `chunks` counts the pieces of a chunked body."""

    connection: int
    head: bytes
    body: bytes = b""
    length: int = 0
    chunks: int = 0
    trailers: bytes = b""
    end: str | None = None
    checksum: "hashlib._Hash" = field(default_factory=hashlib.sha256, repr=False)

    @property
    def line(self) -> bytes:
        """The request line."""
        return self.head.partition(b"\r\n")[0]

    @property
    def method(self) -> bytes:
        """GET, and so on."""
        return self.line.split(b" ")[0]

    @property
    def target(self) -> bytes:
        """Path and query as they stand in the request line."""
        return self.line.split(b" ")[1]

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The header fields in order, spelt as they came."""
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]

    def all(self, name: str) -> list[str]:
        """Every value of a header field; in which case, and with - or _, does not matter."""
        return [value for key, value in self.headers if _folded(key) == _folded(name)]

    def one(self, name: str) -> str | None:
        """The value of a header field that may be there once."""
        values = self.all(name)
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None


def _folded(name: str) -> str:
    return name.replace("_", "-").lower()


# --- what is answered ----------------------------------------------------------------------------

Step = Callable[["Exchange"], None]


class Answer:
    """The steps that answer one request. `early`: begun when the head is there, the body unread."""

    def __init__(self, *steps: Step, early: bool = False) -> None:
        self.steps = steps
        self.early = early


@dataclass
class Exchange:
    """What a step works with: the connection, the request, and the fake it belongs to."""

    connection: socket.socket
    request: Received
    fake: "Upstream"


class Over(Exception):
    """Raised by a step: nothing more happens on this connection."""


def send(data: bytes) -> Step:
    """Sends these bytes in one write."""
    return lambda exchange: exchange.connection.sendall(data)


def pause(seconds: float) -> Step:
    """Does nothing for a while, or until the fake is stopped."""

    def step(exchange: Exchange) -> None:
        exchange.fake.stopping.wait(seconds)

    return step


def until(event: threading.Event) -> Step:
    """Goes on when the test says so."""

    def step(exchange: Exchange) -> None:
        assert event.wait(WAIT_LIMIT), "nobody set the event"

    return step


def generate(size: int, as_chunks: bool = False) -> Step:
    """Sends `size` bytes that nobody has to keep; `checksum_of(size)` is theirs."""

    def step(exchange: Exchange) -> None:
        for piece in pieces_of(size):
            exchange.connection.sendall(chunk(piece) if as_chunks else piece)

    return step


def without_end(piece: bytes) -> Step:
    """Sends the same piece again and again, until nobody takes it any more."""

    def step(exchange: Exchange) -> None:
        while not exchange.fake.stopping.is_set():
            exchange.connection.sendall(piece)

    return step


def close() -> Step:
    """Closes the connection in the ordinary way (FIN)."""
    return _raise_over


def reset() -> Step:
    """Resets the connection (RST)."""

    def step(exchange: Exchange) -> None:
        reset_on_close(exchange.connection)
        raise Over

    return step


def silence() -> Step:
    """Never answers: waits until the other side gives up."""

    def step(exchange: Exchange) -> None:
        with contextlib.suppress(OSError):
            while exchange.connection.recv(PIECE):
                pass
        raise Over

    return step


def _raise_over(exchange: Exchange) -> None:
    raise Over


def reset_on_close(connection: socket.socket) -> None:
    """Makes the close of a connection a RST instead of a FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Fields = tuple[tuple[str, str], ...]


def head(status: int = 200, *fields: tuple[str, str]) -> bytes:
    """A response's head."""
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def sized(body: bytes = b"{}", status: int = 200, *fields: tuple[str, str]) -> bytes:
    """A response with a Content-Length."""
    return head(status, *fields, ("Content-Length", str(len(body)))) + body


def chunked(*pieces: bytes, status: int = 200, fields: Fields = (), last: bool = True) -> bytes:
    """A chunked response, one chunk a piece; without the `last` chunk it is broken off."""
    body = b"".join(map(chunk, pieces)) + (b"0\r\n\r\n" if last else b"")
    return head(status, *fields, ("Transfer-Encoding", "chunked")) + body


def chunk(piece: bytes) -> bytes:
    """One chunk of a body."""
    return f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


def pieces_of(size: int) -> Iterator[bytes]:
    """Pieces of `size` bytes in all, always the same ones, each different from the others."""
    block = hashlib.shake_256(b"hokusai").digest(PIECE)
    for number in range(-(-size // PIECE)):
        piece = number.to_bytes(8, "big") + block[8:]
        yield piece[: size - number * PIECE]


@cache
def checksum_of(size: int) -> str:
    """The SHA-256 of what `generate(size)` sends."""
    checksum = hashlib.sha256()
    for piece in pieces_of(size):
        checksum.update(piece)
    return checksum.hexdigest()


OK = Answer(send(sized(b"{}", 200, ("Content-Type", "application/json"))))


# --- the server ----------------------------------------------------------------------------------


class Upstream:
    """A server on a free port of 127.0.0.1, one thread a connection; a context manager. A second
    one can have the same port of another loopback address. With `tls` it speaks TLS."""

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.stopping = threading.Event()
        self.requests: list[Received] = []
        self.open_connections = 0
        self.connections = 0
        self._changed = threading.Condition()
        self._script: Callable[[Received], Answer] = lambda request: OK
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((host, port), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}"
        self._tls = tls

    def __enter__(self) -> "Upstream":
        self._spawn(self._accept)
        return self

    def __exit__(self, *why: object) -> None:
        self.stopping.set()
        socket.create_connection(self._listener.getsockname()).close()  # wakes the accept
        self.drop_connections()
        for thread in self._threads:
            thread.join(WAIT_LIMIT)
        self._listener.close()

    def answers(self, *answers: Answer) -> None:
        """The answers to the next requests in turn; the last one stays."""
        waiting = list(answers)
        self.answers_by(lambda request: waiting.pop(0) if len(waiting) > 1 else waiting[0])

    def answers_by(self, script: Callable[[Received], Answer]) -> None:
        """Asks the script for the answer to each request, one at a time."""
        self._script = script

    def forget(self) -> None:
        """Answers 200 with {} again, and has recorded nothing."""
        with self._changed:
            self._script = lambda request: OK
            self.requests.clear()
            self.connections = 0

    def drop_connections(self) -> None:
        """Ends all connections, as a server does that is being stopped."""
        with self._changed:
            for connection in self._sockets:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def wait_for(self, condition: Callable[[], bool], what: str = "what was waited for") -> None:
        """Returns when the condition holds; it is asked whenever something happened here."""
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_LIMIT), f"{what} did not happen"

    def _spawn(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self.stopping.is_set():
                connection.close()
                return
            if self._tls:
                connection = self._tls.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
            with self._changed:
                self.connections += 1
                self.open_connections += 1
                self._sockets.add(connection)
            self._spawn(self._serve, connection, self.connections)

    def _serve(self, connection: socket.socket, number: int) -> None:
        """One connection, until either side ends it."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            reader = _Reader(connection)
            while (request_head := reader.head()) is not None:
                self._exchange(connection, reader, Received(number, request_head))
        except (Over, OSError):
            pass
        finally:
            with self._changed:
                self._sockets.discard(connection)
                connection.close()
                self.open_connections -= 1
                self._changed.notify_all()

    def _exchange(self, connection: socket.socket, reader: "_Reader", request: Received) -> None:
        with self._changed:
            self.requests.append(request)
            answer = self._script(request)
            self._changed.notify_all()
        if not answer.early:
            self._read_body(reader, request)
        for step in answer.steps:
            step(Exchange(connection, request, self))
        if answer.early:
            self._read_body(reader, request)

    def _read_body(self, reader: "_Reader", request: Received) -> None:
        try:
            reader.body(request)
            end = "whole"
        except EOFError:
            end = "fin"
        except ConnectionResetError:
            end = "rst"
        with self._changed:
            request.end = end
            self._changed.notify_all()
        if end != "whole":
            raise Over


class _Reader:
    """Reads requests from a connection. EOFError where it ends in the middle of one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    def head(self) -> bytes | None:
        """The bytes up to the blank line; None where there is no further request."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def body(self, request: Received) -> None:
        """The body, into the request."""
        if request.one("Transfer-Encoding"):
            self._chunks(request)
        else:
            self._take(int(request.one("Content-Length") or 0), request)

    def _chunks(self, request: Received) -> None:
        while size := int(self._line().partition(b";")[0], 16):
            self._take(size, request)
            request.chunks += 1
            assert self._line() == b""
        while line := self._line():
            request.trailers += line + b"\r\n"

    def _take(self, size: int, request: Received) -> None:
        while size:
            if not self._buffer and not self._more():
                raise EOFError
            piece, self._buffer = self._buffer[:size], self._buffer[size:]
            size -= len(piece)
            request.length += len(piece)
            request.checksum.update(piece)
            request.body += piece[: KEPT - len(request.body)]

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if not self._more():
                raise EOFError
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _more(self) -> bool:
        data = self._connection.recv(PIECE)
        self._buffer += data
        return bool(data)


@contextlib.contextmanager
def refused_port() -> Iterator[int]:
    """A port that refuses connections, and that nobody else gets meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def eventually(condition: Callable[[], object], what: str, timeout: float = WAIT_LIMIT) -> None:
    """Returns when the condition holds; for what happens in other processes, where it can only be
    looked at again and again."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.01)
