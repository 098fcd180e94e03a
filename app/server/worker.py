"""The gunicorn worker: gevent's, with bounds for stalled clients, and errors as JSON.

Additions, and their reasons:
- A client that neither sends nor accepts a byte for CLIENT_IDLE_TIMEOUT is disconnected, and so is
  one that is too slow with a head or a body (CLIENT_REQUEST_TIMEOUT); gunicorn waits forever.
- A head is bounded as a whole (app/server/client_head.py).
- Near MAX_CONNECTIONS, the client that has kept the worker waiting for the longest is disconnected,
  so that new ones, health checks among them, are still served.
- `100 Continue` is sent at the first read of the body, so after authentication, not before.
- A request that gunicorn itself refuses (too long, malformed) gets the JSON of all proxy errors,
  and its text is not logged: it may hold a key.
- SIGTERM first drains: /ready returns 503 while requests are still accepted, then idle connections
  close.
docs/decisions/worker-class.md has the measurements.
"""

import gc
import os
import signal
import socket
import struct
import time
import uuid
from contextlib import suppress
from typing import Any, ClassVar

import gevent
from gevent.local import local
from gevent.server import StreamServer
from gunicorn.http.parser import RequestParser
from gunicorn.workers import ggevent
from gunicorn.workers.base_async import AsyncWorker

from app.server import refusals
from app.server.client_head import BoundedRequest, GivenUp, HeadTimeout, navigation
from app.server.client_socket import BRIEFLY, ClientSocket
from app.server.hooks import hooks_of
from app.server.request_body import ContinuedBody, quick, was_read
from app.server.settings import PlainSettings

#: Seconds without a request after which a stop closes a connection. One that is in use gets its
#: next response with `Connection: close` instead: closing it could lose a request on its way.
UNUSED_SECONDS = 1.0

#: Concurrent name look-ups; app/upstream/names.py makes one for each name. An idle thread ends.
LOOKUPS = 64

#: Seconds for the rest of an unread body, and one more for each LEAST_RATE bytes of it.
SKIP_SECONDS = 5.0

#: Share of MAX_CONNECTIONS kept free for new clients, by disconnecting those that wait.
RESERVE = 1 / 20

#: Seconds between two log lines about that.
QUIET_SECONDS = 60.0

# The only place where gunicorn sets the class that parses a head.
RequestParser.mesg_class = BoundedRequest


class Listener(StreamServer):  # type: ignore[misc]
    """A listening socket that accepts a few connections in each pass of the event loop: an eighth
    of those that are open. gunicorn accepts one, to share them between workers. But a pass takes
    0.2 s beside 300 busy ones, and a health check waits for all that came before it."""

    max_accept = property(lambda self: 1 + len(self.pool) // 8, lambda self, one: None)


ggevent.StreamServer = Listener


class ProxyWorker(ggevent.GeventWorker):  # type: ignore[misc]
    """A worker for many slow and stalled clients beside quick ones. Times are in seconds."""

    #: Set by gunicorn.conf.py.
    client_idle_timeout: ClassVar[float] = 60.0
    client_request_timeout: ClassVar[float] = 20.0
    drain_delay: ClassVar[float] = 0.0

    draining = False
    cfg: Any

    def patch(self) -> None:
        """Patch the standard library for gevent. Name look-ups run in gevent's threads: those at a
        silent name server must leave some for the others."""
        super().patch()
        gevent.get_hub().threadpool.maxsize = LOOKUPS

    def load_wsgi(self) -> None:
        """Import the application. Nothing is garbage meanwhile, and looking for it takes a tenth of
        the time."""
        gc.disable()
        try:
            super().load_wsgi()
        finally:
            gc.enable()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cfg = PlainSettings(self.cfg)
        self._clients: set[ClientSocket] = set()
        self._waiting: set[_Waiting] = set()
        self._connection = local()  # of this greenlet
        reserve = max(1, int(self.worker_connections * RESERVE))
        self._most_clients = self.worker_connections - reserve
        self._given_up_at_once = 1 + reserve // 2
        self._said_at = -QUIET_SECONDS

    def init_signals(self) -> None:
        """Set the signal handlers. SIGHUP and SIGUSR2 are the master's; `pkill` or `systemctl kill`
        sends them to the workers, too, which they would end."""
        super().init_signals()
        for theirs in (signal.SIGHUP, signal.SIGUSR2):
            signal.signal(theirs, signal.SIG_IGN)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection. GeventWorker's version makes the socket block without a limit."""
        connection = ClientSocket(client, self.client_idle_timeout, self.client_request_timeout)
        self._connection.socket = connection
        self._clients.add(connection)
        try:
            AsyncWorker.handle(self, listener, connection, addr)
        finally:
            self._clients.discard(connection)

    def timeout_ctx(self) -> "_Waiting":
        """Surround the wait for a request's head: at most the keep-alive time until it begins, and
        less if the worker stops."""
        self._make_room()
        self._connection.socket.await_head(self.cfg.keepalive)
        return _Waiting(self._waiting, self._connection.socket)

    def notify(self) -> None:
        """Run every second, with the heartbeat."""
        super().notify()
        self._make_room()

    def _make_room(self) -> None:
        """Disconnect clients, if there are too many: those without a request so far first, and
        those that have been waited for the longest. Disconnect some more than needed: the search
        takes a millisecond, and the next clients come soon."""
        surplus = len(self._clients) - self._most_clients
        if surplus <= 0:
            return
        idle = [client for client in self._clients if client.may_be_given_up]
        idle.sort(key=lambda client: (client.is_in_use, client.since))
        for client in idle[: surplus - 1 + self._given_up_at_once]:
            self._clients.discard(client)
            client.give_up()
            self._dropped("no_room")
        if idle and time.monotonic() > self._said_at + QUIET_SECONDS:
            self._said_at = time.monotonic()
            self.log.warning(
                "more connections than %d (MAX_CONNECTIONS is %d): closing those that have waited "
                "the longest",
                self._most_clients,
                self.worker_connections,
            )

    def _dropped(self, why: str) -> None:
        """Count a client that was disconnected."""
        if hooks := hooks_of(self):
            hooks.count_dropped(why)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """Serve one request, from its head to the end of the response."""
        sock.begin_answer()
        req.body = quick(req.body)
        if req._expected_100_continue:
            req._expected_100_continue = False
            req.body = ContinuedBody(req, sock)
        if self.draining:
            req.force_close()
        if sock.family == socket.AF_UNIX and req.version < (1, 1):
            # A unix socket has no reset, so only chunks show that a response broke off. nginx reads
            # them, though it asks in HTTP/1.0 by default.
            req.version = (1, 1)
            req.force_close()
        try:
            result = super().handle_request(listener_name, req, sock, addr)
            sock.flush()
            self._make_room()
            sock.skip(SKIP_SECONDS)
            if not _skip_rest(req.body, self.cfg.keepalive):
                raise StopIteration
            if req.unreader.buf.getbuffer().nbytes:  # the next request, or a part of it
                gevent.sleep(BRIEFLY)
            req.forget_head()
            return result
        except StopIteration:
            sock.flush()
            sock.linger()
            raise
        except TimeoutError:
            self.log.info("a client accepted no data for %g s: closed", self.client_idle_timeout)
            self._dropped("took_nothing")
            # A normal end would look like the end of a body that has neither length nor chunks.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise StopIteration from None

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Respond to a request that gunicorn could not parse, or could not serve."""
        if isinstance(exc, gevent.GreenletExit):
            return
        status, request_id = refusals.status_of(exc), uuid.uuid4().hex
        client_ip = addr[0] if isinstance(addr, tuple) else "127.0.0.1"  # a unix socket
        logged = {"request_id": request_id, "status": status, "client_ip": client_ip}
        if hooks := hooks_of(self):
            hooks.count_refused(status)
        if isinstance(exc, HeadTimeout):
            self._dropped("slow_head")
        if status == 500:
            self.log.error("defect: %s", type(exc).__name__, exc_info=exc, extra={"fields": logged})
        elif not isinstance(exc, GivenUp):  # already logged, once
            self.log.warning("refused: %s", type(exc).__name__, extra={"fields": logged})
        message = refusals.message_of(status)
        page = self._page(exc, status, message, request_id)
        fields, body = page or refusals.as_json(status, message, request_id)
        refusals.send(client, status, fields | {"X-Request-ID": request_id}, body)

    def _page(
        self, exc: BaseException, status: int, message: str, request_id: str
    ) -> tuple[dict[str, str], bytes] | None:
        """Return fields and body of an error page, if a browser navigates; the application renders
        it."""
        hooks, received = hooks_of(self), getattr(exc, "received", b"")
        if hooks is None or not received:
            return None
        environ, path = navigation(received)
        return hooks.error_page(environ, path, status, message, request_id)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Handle SIGTERM: drain, then stop; at once during boot, when there is no client yet."""
        if not self.booted:
            os._exit(0)
        if not self.draining:
            self.draining = True
            if hooks := hooks_of(self):
                hooks.drain()
            gevent.spawn_later(self.drain_delay, self._stop)

    def _stop(self) -> None:
        """Accept no more connections; close those that wait for a next request."""
        self.alive = False
        while True:
            gevent.sleep(0.2)
            for waiting in list(self._waiting):
                waiting.end_if_unused()


class _Waiting:
    """A wait for a request's head, on one connection."""

    def __init__(self, waiting: "set[_Waiting]", connection: Any) -> None:
        """Keep this wait in `waiting` while it lasts."""
        self._waiting = waiting
        self._socket = connection
        self._since = time.monotonic()

    def end_if_unused(self) -> None:
        """End the wait, unless the connection was used just now. A request that has already arrived
        is still read and answered."""
        if time.monotonic() > self._since + UNUSED_SECONDS:
            with suppress(OSError):  # already closed by the client
                self._socket.shutdown(socket.SHUT_RD)

    def __enter__(self) -> None:
        self._waiting.add(self)

    def __exit__(self, *why: object) -> None:
        self._waiting.discard(self)


def _skip_rest(body: Any, seconds: float) -> bool:
    """Read the rest of a request's body after its response, for at most `seconds`; gunicorn would
    read as long as the client sends, and block other greenlets. Return False if the connection must
    close instead."""
    if was_read(body):
        return True
    with gevent.Timeout(seconds, False):
        try:
            while not body.failed and body.read(65536):
                gevent.sleep(BRIEFLY)
            return not body.failed
        except Exception:  # truncated or malformed, with the response already sent
            return False
    return False
