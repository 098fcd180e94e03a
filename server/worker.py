"""The gunicorn worker: gevent's, with an end to what a client may stall, and errors as JSON.

What is added, and why:
- A client that neither sends nor takes a byte for CLIENT_IDLE_TIMEOUT is dropped; gunicorn itself
  waits for ever.
- `100 Continue` goes out when the body is first read, so after authentication, not before.
- A request that gunicorn refuses by itself (too long, malformed) is answered in the JSON of all our
  errors, and its text is not logged: it may hold a key.
- SIGTERM first drains: /ready says 503 while requests are still taken, then idle connections close.
docs/decisions/worker-class.md has the measurements.
"""

import errno
import json
import socket
import struct
import time
import uuid
from contextlib import suppress
from typing import Any, ClassVar

import gevent
from gevent.local import local
from gunicorn.http import errors
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from server.client_socket import ClientSocket
from server.request_body import ContinuedBody, quick, was_read

#: Seconds, and bytes, for which a connection that is being closed may still send what we ignore;
#: closing it at once would reset it, and the client might never read the answer.
LINGER_SECONDS = 2.0
LINGER_BYTES = 4 * 1024 * 1024

#: Seconds without a request after which a connection is closed in a stop. One that is in use gets
#: its next answer with `Connection: close` instead: closing it could lose a request on its way.
UNUSED_SECONDS = 1.0

#: What gunicorn refuses by itself; anything else that it could not parse is a 400.
REFUSALS: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.LimitRequestLine, 414, "The request line is longer than {limit} bytes."),
    (errors.LimitRequestHeaders, 431, "The request's header fields are too many or too long."),
    (errors.ExpectationFailed, 417, "The Expect header is not one that can be met."),
    (errors.UnsupportedTransferCoding, 501, "This transfer coding is not supported."),
)
MALFORMED = (400, "The request is not well-formed HTTP/1.1.")
REASONS = {400: "Bad Request", 414: "URI Too Long", 417: "Expectation Failed"} | {
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
}


class ProxyWorker(GeventWorker):  # type: ignore[misc]
    """Serves many slow and stalled clients beside quick ones. Times are in seconds."""

    #: Set by gunicorn.conf.py.
    client_idle_timeout: ClassVar[float] = 60.0
    drain_delay: ClassVar[float] = 0.0

    draining = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._waiting: set[_Waiting] = set()
        self._connection = local()  # of this greenlet

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """One connection. Not GeventWorker's: it would make the socket block without a limit."""
        patient = ClientSocket(client, self.client_idle_timeout)
        self._connection.socket = patient
        AsyncWorker.handle(self, listener, patient, addr)

    def timeout_ctx(self) -> "_Waiting":
        """Surrounds the wait for a request's head: at most the keep-alive time, and ended early
        when the worker stops."""
        return _Waiting(self._waiting, self._connection.socket, self.cfg.keepalive)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """One request, from its head to the end of the response."""
        sock.begin_answer()
        req.body = quick(req.body)
        if req._expected_100_continue:
            req._expected_100_continue = False
            req.body = ContinuedBody(req, sock)
        if self.draining:
            req.force_close()
        try:
            result = super().handle_request(listener_name, req, sock, addr)
            sock.flush()
            if not _skip_rest(req.body, self.cfg.keepalive):
                raise StopIteration
            return result
        except StopIteration:
            sock.flush()
            _linger(sock)
            raise
        except TimeoutError:
            self.log.info("a client took nothing for %g s: dropped", self.client_idle_timeout)
            # A plain end would look like the end of a body that has neither length nor chunks.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise StopIteration from None
        finally:
            sock.settimeout(None)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answers what gunicorn could not parse, or could not serve."""
        if isinstance(exc, gevent.GreenletExit):
            return
        status, message = self._verdict(exc)
        request_id = uuid.uuid4().hex
        client_ip = addr[0] if isinstance(addr, tuple) else "127.0.0.1"  # a unix socket
        fields = {"request_id": request_id, "status": status, "client_ip": client_ip}
        if count := getattr(self.wsgi, "extensions", {}).get("hokusai-refused"):
            count(status)
        if status == 500:
            self.log.error("defect: %s", type(exc).__name__, exc_info=exc, extra={"fields": fields})
        else:
            self.log.warning("refused: %s", type(exc).__name__, extra={"fields": fields})
        _send_error(client, status, message, request_id)

    def _verdict(self, exc: BaseException) -> tuple[int, str]:
        """Status and message for what gunicorn raised."""
        for kind, status, message in REFUSALS:
            if isinstance(exc, kind):
                return status, message.format(limit=self.cfg.limit_request_line)
        if isinstance(exc, errors.ParseException):
            return MALFORMED
        return 500, "The proxy failed; this is a defect of its own. Report it with the request id."

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: drain, then stop."""
        if not self.draining:
            self.draining = True
            # None while it boots; an error here would be a failed boot, and end the instance.
            application = getattr(self, "wsgi", None)
            health = getattr(application, "extensions", {}).get("hokusai-health")
            if health is not None:
                health.draining = True
            gevent.spawn_later(self.drain_delay, self._stop)

    def _stop(self) -> None:
        """Takes no more connections; those that wait for a next request are closed."""
        self.alive = False
        while True:
            gevent.sleep(0.2)
            for waiting in list(self._waiting):
                waiting.end_if_unused()


class _Waiting:
    """A wait for a request's head, on one connection, for some seconds."""

    def __init__(self, waiting: "set[_Waiting]", connection: Any, seconds: float) -> None:
        """While it lasts it is one of those that are `waiting`."""
        self._waiting = waiting
        self._socket = connection
        self._timeout = gevent.Timeout(seconds, False)
        self._since = time.monotonic()

    def end_if_unused(self) -> None:
        """Lets the wait see the client's end, unless the connection was in use just now. A request
        that has come already is still read, and answered: nothing is thrown into its way."""
        if time.monotonic() > self._since + UNUSED_SECONDS:
            with suppress(OSError):  # the client has closed it
                self._socket.shutdown(socket.SHUT_RD)

    def __enter__(self) -> None:
        self._waiting.add(self)
        self._timeout.start()

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> bool:
        self._waiting.discard(self)
        self._timeout.close()
        return value is self._timeout


def _skip_rest(body: Any, seconds: float) -> bool:
    """Reads what is left of a request's body after its answer, for so long; gunicorn would read for
    as long as a client sends, and nobody else would have a turn. False where the connection must
    end instead."""
    if was_read(body):
        return True
    with gevent.Timeout(seconds, False):
        try:
            while not body.failed and body.read(65536):
                gevent.sleep(0)
            return not body.failed
        except Exception:  # cut off or malformed, and answered already
            return False
    return False


def _send_error(client: Any, status: int, message: str, request_id: str) -> None:
    """A whole response in our JSON, then the end of the connection."""
    code = "INTERNAL_ERROR" if status == 500 else "BAD_REQUEST"
    message = f"{message} (request id {request_id})"
    content = {"error_code": code, "message": message, "request_id": request_id}
    body = json.dumps(content).encode()
    head = (
        f"HTTP/1.1 {status} {REASONS[status]}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"X-Request-ID: {request_id}\r\n\r\n"
    )
    try:
        client.settimeout(LINGER_SECONDS)
        client.sendall(head.encode() + body)
        _linger(client)
    except OSError:
        return  # the client is gone, nobody is left to answer


def _linger(sock: Any) -> None:
    """Ends our side, and ignores for a moment what the client still sends."""
    ignored = 0
    try:
        sock.shutdown(socket.SHUT_WR)
        with gevent.Timeout(LINGER_SECONDS, False):
            while ignored < LINGER_BYTES and (data := sock.recv(65536)):
                ignored += len(data)
    except OSError as why:
        if why.errno not in (errno.ENOTCONN, errno.ECONNRESET, errno.EBADF, errno.EPIPE, None):
            raise
