"""Forwarding: circuit, then pool, then send. What comes back is MLflow's answer, its body unread.

urllib3's pool is used directly: requests' Session costs three to five times as much a call, reads
.netrc and the proxy variables, shares cookies among users, and rewrites the path after it was
authorized. See docs/decisions/upstream-client.md.
"""

import base64
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
)

from app import circuit as circuits
from app.authorization import Permit
from app.connection import TARGET, Connection, ConnectionTLS
from app.errors import CircuitOpen, UpstreamReset, UpstreamTimeout, UpstreamUnreachable
from app.headers import upstream_headers
from app.inbound import HOP
from app.retries import Retries
from app.streaming import Body
from config import Settings

#: What says that MLflow is in trouble. Its own 4xx and 5xx do not: they are often the caller's.
FAILURES = (UpstreamUnreachable, UpstreamTimeout)


class Told(NamedTuple):
    """What MLflow answered to a question of our own."""

    status: int
    data: bytes


class Upstream:
    """MLflow: its address, the pool of connections to it, its circuit. Shared by all threads."""

    def __init__(self, settings: Settings, circuit: circuits.Circuit) -> None:
        self.circuit = circuit
        self.url = settings.mlflow_server_url
        parts = urlsplit(self.url)
        self._base_path = parts.path
        self._host = parts.netloc
        self._own = {**_own_credentials(settings), **HOP}
        self._connect_timeout = settings.mlflow_connect_timeout
        self._read_timeout = settings.mlflow_read_timeout
        self._artifact_read_timeout = settings.mlflow_artifact_read_timeout
        self._pool = _pool(settings)
        self._retries = Retries(settings.mlflow_retry_deadline)

    def forward(
        self, permit: Permit, body: Body, tried: Callable[[], None] = lambda: None
    ) -> urllib3.BaseHTTPResponse:
        """Sends the permitted request. The answer's body is unread, and must be closed; `tried`
        runs before each try.

        Raises CircuitOpen, UpstreamUnreachable, UpstreamReset, UpstreamTimeout; and what reading
        the client's body raises.
        """
        try:
            with self.circuit.attempt(FAILURES):
                return self._with_retries(permit, body, tried)
        except circuits.Open as open_circuit:
            raise CircuitOpen(
                "MLflow gives no answer, so the proxy does not ask it for a while. Nothing was "
                f"sent; repeat the request in {open_circuit.retry_after} s.",
                open_circuit.retry_after,
            ) from None

    def ask(self, path: str, timeout: float) -> "Told":
        """A GET of our own, past the circuit; `timeout` is for the head, and again for the body."""
        headers = {**self._own, "Host": self._host, "User-Agent": "hokusai-mlflow-proxy"}
        response = self._send("GET", path, headers, Body(None, 0), timeout)
        deadline, body = time.monotonic() + timeout, b""
        try:
            while len(body) < 65536 and time.monotonic() < deadline and (more := response.read1()):
                body += more
        except HTTPError as why:
            raise UpstreamReset("MLflow broke its answer off.") from why
        finally:
            response.close()
        return Told(response.status, body)

    def connections_opened(self) -> int:
        """How many connections to MLflow this worker has opened in all."""
        return self._pool.num_connections

    def _with_retries(
        self, permit: Permit, body: Body, tried: Callable[[], None]
    ) -> urllib3.BaseHTTPResponse:
        """MLflow's answer, tried again where that can do no harm.

        A failed connect: nothing was sent, nothing was taken from the body, so any request. A
        reset, or an error page of something in between: GET and HEAD only. A POST that went out may
        have been carried out, and is never repeated.
        """
        began, tries = time.monotonic(), 0
        reads_only = permit.inbound.method in ("GET", "HEAD") and body.is_whole
        self._retries.request_made()
        while True:
            tries += 1
            tried()
            try:
                answer = self._once(permit, body)
            except UpstreamUnreachable:
                if not self._retries.again(tries, began, was_sent=False):
                    raise
                continue
            except UpstreamReset:
                if not reads_only or not self._retries.again(tries, began, was_sent=True):
                    raise
                continue
            if not reads_only or not _is_of_intermediary(answer):
                return answer
            if not self._retries.again(tries, began, was_sent=True):
                return answer
            answer.close()

    def _once(self, permit: Permit, body: Body) -> urllib3.BaseHTTPResponse:
        inbound = permit.inbound
        headers = upstream_headers(permit, self._host, self._own)
        target = f"{inbound.path}?{inbound.query}" if inbound.query else inbound.path
        streams = permit.route is not None and permit.route.streams
        timeout = self._artifact_read_timeout if streams else self._read_timeout
        return self._send(inbound.method, target, headers, body, timeout)

    def _send(
        self, method: str, target: str, headers: dict[str, str], body: Body, timeout: float
    ) -> urllib3.BaseHTTPResponse:
        """One request on one connection, urllib3's failures in our words."""
        headers[TARGET] = self._base_path + target
        if body.content is not None and body.length is not None:
            headers["Content-Length"] = str(body.length)
        try:
            return self._pool.urlopen(
                method,
                "/",
                body=body.content,
                headers=headers,
                chunked=body.length is None,
                timeout=urllib3.Timeout(connect=self._connect_timeout, read=timeout),
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
            )
        except (NewConnectionError, ConnectTimeoutError) as why:
            raise UpstreamUnreachable(
                "MLflow cannot be reached. Nothing was sent; repeat the request later."
            ) from why
        except ReadTimeoutError as why:
            raise UpstreamTimeout(
                f"MLflow did not answer within {timeout:g} s. It may still carry the request out: "
                "look before you repeat one that creates something."
            ) from why
        except HTTPError as why:
            if isinstance(why.args[-1], TimeoutError):
                raise UpstreamTimeout("MLflow took no byte of the body for too long.") from why
            raise UpstreamReset(
                "MLflow broke the connection before its answer. It may have carried the request "
                "out: look before you repeat one that creates something."
            ) from why


def _is_of_intermediary(answer: urllib3.BaseHTTPResponse) -> bool:
    """Whether this is the error page of a load balancer or the like between us and MLflow; MLflow's
    own 503s, which are often the caller's doing, are JSON."""
    content_type = answer.headers.get("Content-Type", "")
    return answer.status in (502, 503, 504) and not content_type.startswith("application/json")


def _own_credentials(settings: Settings) -> Mapping[str, str]:
    """What the proxy shows MLflow: a token, a user name and password, or nothing."""
    if settings.mlflow_upstream_token:
        return {"Authorization": f"Bearer {settings.mlflow_upstream_token}"}
    if settings.mlflow_upstream_username:
        pair = f"{settings.mlflow_upstream_username}:{settings.mlflow_upstream_password}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


def _pool(settings: Settings) -> urllib3.HTTPConnectionPool:
    """The pool: MLFLOW_POOL_SIZE idle connections are kept; more are opened when needed."""
    parts = urlsplit(settings.mlflow_server_url)
    is_tls = parts.scheme == "https"
    pool_class = urllib3.HTTPSConnectionPool if is_tls else urllib3.HTTPConnectionPool
    pool = pool_class(
        parts.hostname or "", parts.port, maxsize=settings.mlflow_pool_size, block=False
    )
    limits = {
        "reuse_for": settings.mlflow_keepalive,
        "max_age": settings.mlflow_connection_max_age,
        "send_timeout": settings.mlflow_artifact_read_timeout,
    }
    base = ConnectionTLS if is_tls else Connection
    pool.ConnectionCls = type(base.__name__, (base,), limits)
    return pool
