"""The errors of a request, as classes with an HTTP status.

    ProxyError
    ├── BadRequest            400  malformed path, ambiguous credentials, key in the query
    │   └── InvalidName            a file name that leaves its folder, with MLflow's error code
    ├── FeatureDisabled       400  the request names a workspace, but MLflow has none
    ├── Unauthenticated       401  no key, bad key
    │   └── SessionEnded           a browser's session is over
    ├── Forbidden             403  scope missing, route refused to everyone, another's workspace
    ├── NoSuchPath            404  no such path
    ├── NoSuchWorkspace       404  MLflow does not have the request's workspace
    ├── RequestTimeout        408  the client stopped sending in mid-body, or was too slow
    ├── BodyTooLarge          413  a chunked body over MAX_BUFFERED_BODY
    ├── RateLimited           429  over the key's limit, too many failed attempts, auth throttled
    ├── NotForwarded          503  + Retry-After; MLflow never saw the request: safe to repeat
    │   ├── CircuitOpen            (429 instead for most writing POSTs: MLflow's client repeats them
    │   ├── Overloaded              on 429 only)
    │   ├── NoRoomForBody          MAX_BUFFERED_TOTAL is reached, or TMPDIR takes no file
    │   └── AuthServiceUnavailable
    ├── UpstreamOverloaded    503  + Retry-After; MLflow had no database connection and did nothing
    │                              (429 as above)
    ├── UpstreamUnreachable   502  no connection to MLflow
    ├── UpstreamReset         502  MLflow broke the connection before its response
    ├── UpstreamRefusal       502  MLflow refuses the proxy itself: its credentials, its Host header
    ├── UpstreamTimeout       504  MLflow was too slow
    ├── LoopDetected          508  MLFLOW_SERVER_URL leads to a proxy instead of to MLflow
    └── InternalError         500  a defect in the proxy

    ClientGone                the client hung up: no response can reach it
    BrokenTransfer            after the first byte: abort, so it never looks complete

app/responses.py converts the framework's refusals (405, say) to a ProxyError with the same status.
The codes are those of MLflow's client (mlflow/protos/databricks.proto).
"""

import errno
from collections.abc import Mapping

#: One header field each: Java's and Apache's HttpClient find Basic only at the start of a field.
CHALLENGES = ('Bearer realm="mlflow"', 'Basic realm="mlflow", charset="UTF-8"')

#: A header field's value, or the values of a repeated field.
Value = str | tuple[str, ...]


class ProxyError(Exception):
    """A refusal or failure with an HTTP response.

    `message` tells the caller what happened and what to do, without internal addresses or
    credentials. `outcome` names the step that refused, for the log and the metrics. `headers` are
    added to the response; a tuple repeats the field. `wants_429`: the request's client retries it
    on 429 only (Route).
    """

    status = 500
    code = "INTERNAL_ERROR"
    outcome = "error"
    wants_429 = False

    def __init__(self, message: str, headers: Mapping[str, Value] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers: dict[str, Value] = dict(headers or {})


class BadRequest(ProxyError):
    status, code, outcome = 400, "BAD_REQUEST", "malformed"


class InvalidName(BadRequest):
    code = "INVALID_PARAMETER_VALUE"


class Unauthenticated(ProxyError):
    """No key or a bad one. The response lists the accepted schemes. A browser gets a page instead
    (app/browser/pages.py): Basic would make it open its own password dialog."""

    status, code, outcome = 401, "UNAUTHENTICATED", "unauthenticated"

    def __init__(self, message: str) -> None:
        super().__init__(message, {"WWW-Authenticate": CHALLENGES})


class SessionEnded(Unauthenticated):
    """No key, and the browser's session has ended or is from another address."""

    outcome = "session_ended"


class FeatureDisabled(ProxyError):
    """The client names a workspace, and MLflow has none. MLflow itself sends 500 with this code,
    which its client retries for minutes; it does not retry this status."""

    status, code, outcome = 400, "FEATURE_DISABLED", "no_workspaces"


class Forbidden(ProxyError):
    status, code, outcome = 403, "PERMISSION_DENIED", "forbidden"


class NoSuchPath(ProxyError):
    status, code, outcome = 404, "ENDPOINT_NOT_FOUND", "not_found"


class NoSuchWorkspace(ProxyError):
    """MLflow's web page leaves a workspace for this code and a message that begins as its own."""

    status, code, outcome = 404, "RESOURCE_DOES_NOT_EXIST", "no_such_workspace"


class RequestTimeout(ProxyError):
    status, code, outcome = 408, "BAD_REQUEST", "client_stalled"


class BodyTooLarge(ProxyError):
    status, code, outcome = 413, "BAD_REQUEST", "too_large"


class RateLimited(ProxyError):
    """A limit is exceeded. `retry_after` is in whole seconds, at least 1."""

    status, code, outcome = 429, "REQUEST_LIMIT_EXCEEDED", "rate_limited"

    def __init__(
        self, message: str, retry_after: int, headers: dict[str, str] | None = None
    ) -> None:
        self.retry_after = max(1, retry_after)
        super().__init__(message, {"Retry-After": str(self.retry_after)} | (headers or {}))


class NotForwarded(ProxyError):
    """MLflow never saw the request, so the client may repeat it after `retry_after` seconds."""

    status, code, outcome = 503, "TEMPORARILY_UNAVAILABLE", "shed"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message, {"Retry-After": str(max(1, retry_after))})


class CircuitOpen(NotForwarded):
    outcome = "circuit_open"


class Overloaded(NotForwarded):
    outcome = "overloaded"


class NoRoomForBody(NotForwarded):
    outcome = "no_room"


class AuthServiceUnavailable(NotForwarded):
    """The default `retry_after` lets MLflow's client, which tries 7 times more, wait for 70 s."""

    outcome = "auth_unavailable"

    def __init__(self, message: str, retry_after: int = 10) -> None:
        super().__init__(message, retry_after)


class UpstreamOverloaded(ProxyError):
    """MLflow received the request and did nothing. `retry_after` is in seconds."""

    status, code, outcome = 503, "TEMPORARILY_UNAVAILABLE", "upstream_overloaded"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message, {"Retry-After": str(max(1, retry_after))})


class UpstreamRefusal(ProxyError):
    status, code, outcome = 502, "TEMPORARILY_UNAVAILABLE", "upstream_refusal"


class UpstreamUnreachable(ProxyError):
    """No connection came about, so nothing was sent. Without a Retry-After, MLflow's client waits
    longer before each of its 7 retries: MLflow may need two minutes to start."""

    status, code, outcome = 502, "TEMPORARILY_UNAVAILABLE", "upstream_unreachable"


class UpstreamReset(ProxyError):
    status, code, outcome = 502, "TEMPORARILY_UNAVAILABLE", "upstream_reset"


class UpstreamTimeout(ProxyError):
    status, code, outcome = 504, "DEADLINE_EXCEEDED", "upstream_timeout"


class LoopDetected(ProxyError):
    status, code, outcome = 508, "INTERNAL_ERROR", "loop"


class InternalError(ProxyError):
    status, code, outcome = 500, "INTERNAL_ERROR", "error"


class ClientGone(Exception):
    """The client hung up, or sent something unreadable, before its request was complete; or it left
    before MLflow answered. Not an OSError, or urllib3 would blame MLflow."""

    outcome = "client_gone"


class BrokenTransfer(ConnectionResetError):
    """MLflow broke off in mid-body. Raised from the response's iterator: the server then drops the
    client's connection without a final chunk, so the transfer cannot look complete."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ECONNRESET, message)
