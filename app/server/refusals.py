"""The responses to requests that gunicorn refuses, or that the application could not serve."""

import json
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from gunicorn.http import errors

from app.server.client_head import LONGEST_HEAD, GivenUp, HeadTimeout
from app.server.client_socket import LINGER_SECONDS

#: Seconds in Retry-After.
RETRY_AFTER = 5

#: Status of what the server itself refuses, where gunicorn's own `code` does not give it. The first
#: match counts. Anything else that is not a ParseException is a defect.
STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (errors.InvalidResponseHeader, 500),  # the application's, though a parse error to gunicorn
    (errors.InvalidResponseHeaderName, 500),
    (HeadTimeout, 408),
    (GivenUp, 503),
    (errors.LimitRequestLine, 414),
    (errors.LimitRequestHeaders, 431),
    (errors.ExpectationFailed, 417),
)

#: The message for a status; that of 400 for any other.
MESSAGES = {
    400: "The request is not well-formed HTTP/1.1.",
    403: "The request is refused.",
    408: "The request's head did not arrive in time (CLIENT_REQUEST_TIMEOUT).",
    414: f"The request line is longer than {LONGEST_HEAD} bytes. Ask for less in one request.",
    417: "The expectation in the Expect header is not supported.",
    431: f"The request's header fields take more than {LONGEST_HEAD} bytes, or are too many. "
    "Usually cookies are the cause: delete those of this site.",
    500: "Internal error in the proxy. Report it with the request id.",
    501: "This transfer coding is not supported.",
    503: "The proxy holds too many connections. Repeat the request later.",
}
CODES = {403: "PERMISSION_DENIED", 500: "INTERNAL_ERROR", 503: "TEMPORARILY_UNAVAILABLE"}


def status_of(exc: BaseException) -> int:
    """Return the status for what gunicorn, or the application, raised during a request."""
    for kind, status in STATUSES:
        if isinstance(exc, kind):
            return status
    return int(getattr(exc, "code", 400)) if isinstance(exc, errors.ParseException) else 500


def message_of(status: int) -> str:
    """Return the message for a status."""
    return MESSAGES.get(status, MESSAGES[400])


def as_json(status: int, message: str, request_id: str) -> tuple[dict[str, str], bytes]:
    """Return fields and body of an error, in the form that MLflow's client understands."""
    code = CODES.get(status, "BAD_REQUEST")
    message = f"{message} (request id {request_id})"
    content = {"error_code": code, "message": message, "request_id": request_id}
    return {"Content-Type": "application/json"}, json.dumps(content).encode()


def send(client: Any, status: int, fields: dict[str, str], body: bytes) -> None:
    """Send a whole response, then close the connection."""
    fields = fields | {"Content-Length": str(len(body)), "Cache-Control": "no-store"}
    if status == 503:
        fields["Retry-After"] = str(RETRY_AFTER)
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    head = "\r\n".join((*lines, "", "")).encode()
    with suppress(OSError):  # the client is gone
        client.idle_timeout = LINGER_SECONDS
        client.send_now(head + body)
        client.linger()
