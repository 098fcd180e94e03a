"""Forward a request: circuit, then pool, then send. Returns MLflow's response, its body unread.

urllib3's pool is used directly: requests' Session costs three to five times as much per call, reads
.netrc and the proxy variables, shares cookies among users, and rewrites the path after it was
authorized. See docs/decisions/upstream-client.md.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError

from app.request.errors import (
    CircuitOpen,
    ProxyError,
    UpstreamOverloaded,
    UpstreamReset,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.request.inbound import HOP
from app.request.otlp import MLFLOWS
from app.request.permit import Permit
from app.request.route_table import Access, Route
from app.upstream import answers
from app.upstream import circuit as circuits
from app.upstream.headers import asked_for, upstream_headers
from app.upstream.identity import Signer, own_credentials
from app.upstream.liveness import Liveness
from app.upstream.pool import open_pool
from app.upstream.request_head import COPY, TARGET, Copy
from app.upstream.retries import Retries
from app.upstream.streaming import Body, has_left
from app.upstream.write_gate import EXPORT_TIMEOUT, WRITE_TIMEOUT, NotAdmitted, WriteGate, WriteSlot
from config import Settings

#: Errors that open the circuit. MLflow's own 4xx and 5xx do not, nor a timeout: see liveness.py.
FAILURES = (UpstreamUnreachable,)

#: Route kinds that MLflow serves without its stores.
NO_API = frozenset(("server", "ui"))

#: Operation of trace exporters, which time out sooner than MLflow's own client.
EXPORT = "ExportTraces"

#: MLflow's /health needs neither a thread nor the database: it responds while requests wait.
HEALTH = "/health"


class Upstream:
    """MLflow: its address, connection pool and circuit. Shared by all threads."""

    def __init__(self, settings: Settings, circuit: circuits.Circuit) -> None:
        self.circuit = circuit
        #: When MLflow last responded to a caller's API call, in monotonic seconds.
        self.served = float("-inf")
        self.url = settings.mlflow_server_url
        parts = urlsplit(self.url)
        self._base_path = parts.path
        self._host = parts.netloc
        self._own = {**own_credentials(settings), **HOP}
        self._signer = Signer(settings.mlflow_identity_secret)
        #: Whether MLflow learns who calls, so that its own permissions count.
        self.signs = bool(self._signer)
        self._connect_timeout = settings.mlflow_connect_timeout
        self._read_timeout = settings.mlflow_read_timeout
        self._slow_timeout = settings.mlflow_artifact_read_timeout
        self._copy_timeout = settings.mlflow_artifact_copy_timeout
        self._model_timeout = settings.mlflow_gateway_read_timeout
        self._probe_timeout = settings.health_timeout
        self._pool = open_pool(settings, settings.mlflow_pool_size)
        self._probes = open_pool(settings, 1, probes=True)
        self._retries = Retries(settings.mlflow_retry_deadline)
        self._writes = WriteGate(settings.web_concurrency)
        circuit.when_opened(self._writes.empty)
        self.liveness = Liveness(circuit, self.is_there)

    def forward(
        self, permit: Permit, body: Body, tried: Callable[[], None] = lambda: None
    ) -> urllib3.BaseHTTPResponse:
        """Send the permitted request. The response's body is unread, and must be closed; `tried`
        runs before each attempt.

        Raises CircuitOpen, UpstreamUnreachable, UpstreamReset, UpstreamTimeout, UpstreamRefusal,
        UpstreamOverloaded, Overloaded; and whatever reading the client's body raises.
        """
        try:
            with self.circuit.attempt(FAILURES, self.is_there), self._slot(permit) as slot:
                if slot is not None:
                    body = body.when_last_piece(
                        lambda: slot.acquire(lambda: has_left(permit.inbound))
                    )
                return self._with_retries(permit, body, tried)
        except circuits.Open as open_circuit:
            seconds = open_circuit.retry_after
        except NotAdmitted:
            seconds = self.circuit.seconds_to_probe()
        raise paused(seconds)

    def ask(
        self, path: str, timeout: float, permit: Permit | None = None, body: bytes | None = None
    ) -> answers.ProbeResponse:
        """Send a request of the proxy itself, bypassing the circuit: a GET, or a POST of the JSON
        `body`; in the workspace and the name of a permit's caller. `timeout` is for the head, and
        again for the body."""
        headers = self._headers()
        if permit is not None:
            headers |= asked_for(permit)
        if body is not None:
            headers["Content-Type"] = "application/json"
        method, sent = "GET" if body is None else "POST", Body(body, len(body or b""))
        response = self._send(method, path, headers, sent, timeout, self._pool)
        return answers.whole(response, timeout)

    def is_there(self, factor: float = 1.0) -> bool | None:
        """Probe /health on a new connection. True for any response within `factor` times
        HEALTH_TIMEOUT, False for none, None if the connection breaks."""
        headers = {**self._headers(), "Connection": "close"}
        timeout = factor * self._probe_timeout
        try:
            sent = self._send("GET", HEALTH, headers, Body(None, 0), timeout, self._probes)
        except (UpstreamUnreachable, UpstreamTimeout):
            return False
        except UpstreamReset:
            return None
        sent.close()
        return True

    def _headers(self) -> dict[str, str]:
        """Return the headers of a request that the proxy makes itself."""
        named = {"Host": self._host, "User-Agent": "hokusai-mlflow-proxy"}
        return self._own | named | self._signer.own

    def connections_opened(self) -> int:
        """Connections to MLflow that this worker has opened so far."""
        return self._pool.num_connections

    def _slot(self, permit: Permit) -> AbstractContextManager[WriteSlot | None]:
        """Apply the bound on concurrent writes, if the route writes to MLflow's database."""
        route = permit.route
        if route is None or not route.takes_slot:
            return nullcontext()
        agent = permit.inbound.environ.get("HTTP_USER_AGENT", "")
        is_exporters = route.operation == EXPORT and not agent.startswith(MLFLOWS)
        timeout = EXPORT_TIMEOUT if is_exporters else WRITE_TIMEOUT
        return self._writes.slot(permit.principal.key_id, timeout)

    def _with_retries(
        self, permit: Permit, body: Body, tried: Callable[[], None]
    ) -> urllib3.BaseHTTPResponse:
        """Return MLflow's response, retrying where that is safe.

        A failed connect sent nothing and read nothing of the body: retry any request. A reset, or
        an intermediary's error page: retry GET and HEAD only. A POST that was sent may have been
        executed, and is never retried. A read for which MLflow had no database connection: retry
        also a POST, such as a search.
        """
        began, tries = time.monotonic(), 0
        had_slot = permit.route is not None and permit.route.takes_slot
        self._retries.request_made()
        while True:
            tries += 1
            tried()
            sent = time.monotonic()
            try:
                answer, page = self._once(permit, body)
            except (*FAILURES, UpstreamOverloaded, UpstreamReset, UpstreamTimeout) as error:
                if isinstance(error, UpstreamOverloaded):
                    self._writes.tighten(sent, had_slot)
                if not self._may_repeat(error, permit, body, tries, began):
                    raise
                continue
            if answers.is_pool_limit(answer.status, page):  # part of the work may be done
                self._writes.tighten(sent, had_slot)
            if not answers.is_of_intermediary(answer.status, answer.headers, page):
                return answer
            if not self._may_repeat(None, permit, body, tries, began):
                return answer
            answer.close()

    def _may_repeat(
        self, error: ProxyError | None, permit: Permit, body: Body, tries: int, began: float
    ) -> bool:
        """Whether a try that ended so is repeated; without `error` it got an intermediary's page.
        Waits before it says yes."""
        gets = permit.inbound.method in ("GET", "HEAD") and body.is_whole
        if error is not None and isinstance(error.__cause__, ConnectTimeoutError):
            return self._retries.again(tries, began, was_sent=False)
        if isinstance(error, UpstreamOverloaded):
            reads = permit.route is not None and permit.route.access is Access.READ
            if not (reads and body.is_whole) or has_left(permit.inbound):
                return False
            began = time.monotonic()  # MLflow's own wait, 30 s, does not count
        elif isinstance(error, UpstreamTimeout) or not gets:
            return False
        return self._retries.again(tries, began, was_sent=True)

    def _once(self, permit: Permit, body: Body) -> tuple[urllib3.BaseHTTPResponse, bytes]:
        """Send once. Return the response, and the start of its body if that shows its meaning."""
        inbound = permit.inbound
        headers: dict[str, Any] = upstream_headers(permit, self._host, self._own)
        target = f"{inbound.path}?{inbound.query}" if inbound.query else inbound.path
        timeout = self._timeout(permit.route)
        if permit.route and permit.route.copies:
            headers[COPY] = Copy(self._slow_timeout, lambda: has_left(inbound))
        with self.liveness.waiting():
            answer = self._send(inbound.method, target, headers, body, timeout, self._pool)
        try:
            answer, page = answers.beginning(answer, inbound.method, permit.workspace)
        except ReadTimeoutError as why:
            raise UpstreamTimeout("MLflow's response began, and then stalled.") from why
        except HTTPError as why:
            raise UpstreamReset("MLflow's response broke off.") from why
        answers.refuse(permit.route, answer, page, permit.workspace, signed=self.signs)
        if answer.status < 500 and permit.route and permit.route.kind not in NO_API:
            self.served = time.monotonic()
        return answer, page

    def _timeout(self, route: Route | None) -> float:
        """Return the read timeout in seconds, by what the route does."""
        if route is None:
            return self._read_timeout
        if route.copies:
            return self._copy_timeout
        if route.asks_model:
            return self._model_timeout
        return self._slow_timeout if route.is_slow else self._read_timeout

    def _send(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: Body,
        timeout: float,
        pool: urllib3.HTTPConnectionPool,
    ) -> urllib3.BaseHTTPResponse:
        """Send one request on one connection, and translate urllib3's errors."""
        headers[TARGET] = self._base_path + target
        self._signer.sign(method, headers)
        if body.content is not None and body.length is not None:
            headers["Content-Length"] = str(body.length)
        connect = max(self._connect_timeout, timeout if pool is self._probes else 0)
        try:
            return pool.urlopen(
                method,
                "/",
                body=body.content,
                headers=headers,
                chunked=body.length is None,
                timeout=urllib3.Timeout(connect=connect, read=timeout),
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
            )
        except ConnectTimeoutError as why:
            if isinstance(why, NewConnectionError) and isinstance(why.__cause__, TimeoutError):
                late = "MLflow's TLS handshake is slow. Nothing was sent; repeat the request."
                raise UpstreamTimeout(late) from why
            raise UpstreamUnreachable(
                "MLflow cannot be reached. Nothing was sent; repeat the request later."
            ) from why
        except ReadTimeoutError as why:
            raise UpstreamTimeout(
                f"MLflow did not respond within {timeout:g} s. It may still execute the request: "
                "check before you repeat one that creates something."
            ) from why
        except HTTPError as why:
            if isinstance(why.args[-1], TimeoutError):
                raise UpstreamTimeout("MLflow stopped accepting the request's body.") from why
            raise UpstreamReset(
                "MLflow closed the connection before it responded. It may have executed the "
                "request: check before you repeat one that creates something."
            ) from why


def paused(seconds: int) -> CircuitOpen:
    """The error while the circuit is open."""
    return CircuitOpen(
        "MLflow does not respond, so the proxy has paused requests to it. Nothing was "
        f"sent; repeat the request in {seconds} s.",
        seconds,
    )
