"""Responses: MLflow's unchanged, the proxy's own as JSON. Only this module writes HTTP.

Every error passes the one handler here. It is recorded once and rendered once, as JSON or a page.
After the first byte of a body no error can be mapped; streaming.py aborts the transfer instead.
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import urllib3
from flask import Flask, Response, g, request
from werkzeug.exceptions import BadHost, HTTPException, MethodNotAllowed, NotFound
from werkzeug.wsgi import ClosingIterator

from app.observability.metrics import IN_FLIGHT
from app.observability.record import Record, count
from app.request.errors import (
    BrokenTransfer,
    ClientGone,
    InternalError,
    NoSuchPath,
    NotForwarded,
    ProxyError,
    UpstreamOverloaded,
    UpstreamReset,
)
from app.request.inbound import (
    client_address,
    raw_path,
    refuse_loop,
    request_id_of,
    without_empty_segment,
)
from app.request.otlp import as_exporters_read_it
from app.request.permit import Permit
from app.request.principal import utc
from app.upstream.headers import dropped_names
from app.upstream.returned_headers import returned_headers, returned_status
from app.upstream.streaming import body_length, response_body

log = logging.getLogger("hokusai.proxy")
access_log = logging.getLogger("hokusai.access")


def respond(
    upstream: urllib3.BaseHTTPResponse, permit: Permit, upstream_url: str, leave: Callable[[], None]
) -> Response:
    """Stream MLflow's response to the client; `leave` runs when the response is closed.

    Raises UpstreamReset if the response is not well-formed HTTP.
    """
    record: Record = g.record
    record.outcome = "forwarded"
    try:
        status = returned_status(upstream.status, upstream.reason or "")
        expected = body_length(upstream, permit.inbound.method)
        fields = returned_headers(upstream.headers.items(), upstream_url, permit.inbound.prefix)
    except ValueError as why:
        upstream.close()
        raise UpstreamReset("MLflow's response is not well-formed HTTP; check its log.") from why
    body = _counted(response_body(upstream, expected, permit.inbound), record)
    response = _AsItIs(body, status=status, headers=fields)
    if dropped := dropped_names(permit, upstream.headers):
        record.dropped = dropped
        response.headers["X-Hokusai-Dropped-Headers"] = dropped
    response.call_on_close(upstream.close)  # even if the body is never iterated: HEAD, 304
    response.call_on_close(leave)
    return response


def keep_private(response: Response) -> Response:
    """Mark a response to a browser's session, or to X-API-Key: shared caches must not store it, and
    the browser must revalidate its copy, even after sign-out. Shared caches do not store responses
    to requests with Authorization (RFC 9111 section 3.5); other fields give no such protection."""
    response.headers.setdefault("Cache-Control", "private, no-cache")
    return response


class _AsItIs(Response):
    """MLflow's response, unchanged. werkzeug would rewrite its Location, which can fail after the
    pipeline, and would check each chunk of the body."""

    default_mimetype = None

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Send the response as WSGI requires."""
        start_response(self.status, self.headers.to_wsgi_list())
        status = self.status_code
        is_bodiless = environ["REQUEST_METHOD"] == "HEAD" or status in (204, 304)
        body: Any = () if is_bodiless else self.response
        return ClosingIterator(body, self.close)


def _counted(body: Iterator[bytes], record: Record) -> Iterator[bytes]:
    """Yield the body; record its size, and whether the transfer broke."""
    try:
        for piece in body:
            record.bytes_out += len(piece)
            yield piece
    except BrokenTransfer as broken:
        record.outcome = "broken_transfer"
        log.warning("%s", broken.strerror, extra={"fields": {"request_id": record.request_id}})
        raise
    except GeneratorExit:
        record.outcome = "client_gone"
        raise


def error_json(error: ProxyError) -> Response:
    """Render an error in the JSON that MLflow's client understands.

    MLflow's client (3.18 and later) retries most of its writing POSTs on 429 only. So such a call
    gets 429 if nothing was done.
    """
    request_id = g.record.request_id
    nothing_done = isinstance(error, NotForwarded | UpstreamOverloaded)
    status = 429 if error.wants_429 and nothing_done else error.status
    # The id is in the message too: MLflow's client shows only the message.
    message = f"{error.message} (request id {request_id})"
    content = {"error_code": error.code, "message": message, "request_id": request_id}
    response = Response(orjson.dumps(content), status=status, content_type="application/json")
    response.headers.extend(error.headers)
    response.headers["Cache-Control"] = "no-store"
    agent = request.headers.get("User-Agent", "")
    content_type = request.headers.get("Content-Type", "")
    return as_exporters_read_it(response, request.path, content_type, agent)


def install(
    app: Flask,
    *,
    hops: int,
    target: str,
    audit: Callable[[Record], None],
    render: Callable[[ProxyError], Response],
) -> None:
    """Install the request id, the error handler and the log line, for every request. `audit` gets
    the record of each finished write; `render` turns an error into a response."""

    @app.before_request
    def begin() -> None:
        environ = request.environ
        request_id, client_ip = request_id_of(environ), client_address(environ, hops)
        g.record = Record(request_id, environ["REQUEST_METHOD"], raw_path(environ), client_ip)
        IN_FLIGHT.inc()
        refuse_loop(environ)

    @app.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        return render(note(error))

    app.wsgi_app = _without_upgrade(without_empty_segment(app.wsgi_app))  # type: ignore[method-assign]

    @app.after_request
    def end(response: Response) -> Response:
        record: Record = g.record
        record.status, record.answered = response.status_code, time.monotonic()
        response.headers["X-Request-ID"] = record.request_id
        response.headers.update(record.limit_fields)
        if record.principal is not None and record.principal.expires_soon:
            response.headers["X-Hokusai-Key-Expires"] = utc(record.principal.expires_at or 0)
        response.call_on_close(lambda: _finish(record, target, audit))
        return response


def _without_upgrade(serve: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the application to ignore Upgrade, as a server may (RFC 9110 section 7.8). The router
    would find no route for a web socket."""

    def serve_as_http(environ: dict[str, Any], start_response: Any) -> Any:
        environ.pop("HTTP_UPGRADE", None)
        return serve(environ, start_response)

    return serve_as_http


def note(error: Exception) -> ProxyError:
    """Convert what a view raised to a ProxyError; record it, and log it if its status is 5xx."""
    known = as_proxy_error(error)
    record: Record = g.record
    record.outcome, record.error_code = known.outcome, known.code
    if isinstance(known, NotForwarded):
        record.upstream_seconds = None  # MLflow never saw the request
    _log_cause(error, known, record)
    return known


def as_proxy_error(error: Exception) -> ProxyError:
    """Convert any exception to a ProxyError: the framework's refusal, a client that hung up, or a
    defect. The framework's 5xx are defects too: no caller can cause one."""
    if isinstance(error, ProxyError):
        return error
    if isinstance(error, ClientGone):
        gone = _refusal(400, "The request's body is incomplete; repeat the request.", {})
        gone.outcome = ClientGone.outcome
        return gone
    if isinstance(error, HTTPException) and 400 <= (error.code or 0) < 500:
        return _of_the_framework(error)
    return InternalError("Internal error in the proxy. Report it with the request id.")


#: The messages that replace the framework's own.
MESSAGES = {
    NotFound: "Not found. MLflow is under /api/mlflow/ and /mlflow/; set the tracking URI to "
    "<this host>/api/mlflow.",
    MethodNotAllowed: "This path does not support this method.",
    BadHost: "The Host header is not a valid host name.",
}


#: MLflow's error code by status; every other status below 500 is BAD_REQUEST.
CODES = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 429: "REQUEST_LIMIT_EXCEEDED"}


def _of_the_framework(error: HTTPException) -> ProxyError:
    """Convert the framework's refusal; its status and header fields stay."""
    message = MESSAGES.get(type(error), f"{error.name}. {error.description or ''}".strip())
    fields = {name: value for name, value in error.get_headers() if name != "Content-Type"}
    status = int(error.code or 400)
    return NoSuchPath(message, fields) if status == 404 else _refusal(status, message, fields)


def _refusal(status: int, message: str, fields: dict[str, str]) -> ProxyError:
    error = ProxyError(message, fields)
    error.status, error.code = status, CODES.get(status, "BAD_REQUEST")
    error.outcome = "malformed"
    return error


def _log_cause(error: Exception, known: ProxyError, record: Record) -> None:
    """Log the cause of a 5xx, which the caller does not see; a defect with its traceback."""
    fields = {"request_id": record.request_id}
    if known.status == 500:
        log.error("defect: %s", type(error).__name__, exc_info=error, extra={"fields": fields})
    elif known.status > 500:
        reason = error.__cause__ or known.message
        log.warning("%s: %s", type(error).__name__, reason, extra={"fields": fields})


def _finish(record: Record, target: str, audit: Callable[[Record], None]) -> None:
    """Write log line, audit and metrics once the last byte is sent or the client is gone."""
    IN_FLIGHT.dec()
    count(record, time.monotonic())
    if record.kind != "own" or log.isEnabledFor(logging.DEBUG) or record.status >= 400:
        access_log.info("request", extra={"fields": record.line(target)})
    if record.is_write:
        audit(record)


def json_response(content: Any, status: int = 200) -> Response:
    """Build a JSON response of the proxy itself, never cached."""
    response = Response(orjson.dumps(content), status=status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
