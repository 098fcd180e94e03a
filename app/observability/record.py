"""Record: what is known of a request for log, audit and metrics, filled on the way.

Nothing here steers the request; the pipeline's steps hand each other typed results for that.
"""

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from app.request.inbound import Inbound
from app.request.principal import Principal
from app.request.route_table import Access, Route

#: Methods that ask for no change, whatever the path.
READING = ("GET", "HEAD", "OPTIONS")

#: Characters of a client's text that a line shows. Two paths of this length, all of it escaped,
#: stay below 4096 bytes with the rest of the line: so much several workers can write to one pipe
#: without mixing their lines.
LONGEST = 768

_KEY_SHAPED = re.compile(r"hk_[A-Za-z]+_[A-Za-z0-9_\-]+")


class Record:
    """One request's facts. Times are monotonic seconds, sizes bytes.

    `answered` is when the head of the answer was there; `attempts` is how often the request was
    tried at MLflow; `body` is the request's, where it was read whole before it went on; `dropped`
    names the client's header fields that MLflow did not get; `limit_fields` are header fields that
    tell the caller what is left of his limit.
    """

    __slots__ = (
        "answered",
        "attempts",
        "auth_seconds",
        "auth_source",
        "body",
        "bytes_in",
        "bytes_out",
        "client_ip",
        "dropped",
        "error_code",
        "inbound",
        "limit_fields",
        "method",
        "outcome",
        "parameters",
        "path",
        "principal",
        "request_id",
        "route",
        "started",
        "status",
        "upstream_seconds",
    )

    def __init__(self, request_id: str, method: str, path: str, client_ip: str) -> None:
        self.started = time.monotonic()
        self.answered: float | None = None
        self.request_id = request_id
        self.method = method
        self.path = shown(path)
        self.client_ip = client_ip
        self.inbound: Inbound | None = None
        self.limit_fields: dict[str, str] = {}
        self.route: Route | None = None
        self.parameters: Mapping[str, str] = {}
        self.principal: Principal | None = None
        self.auth_source: str | None = None
        self.auth_seconds: float | None = None
        self.upstream_seconds: float | None = None
        self.attempts = 0
        self.body: bytes | None = None
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.outcome = "own"
        self.error_code: str | None = None
        self.dropped: str | None = None

    @property
    def kind(self) -> str:
        """The endpoint type: the route's, "unclassified" without one, "own" for our paths."""
        if self.route is not None:
            return self.route.kind
        return "unclassified" if self.inbound is not None else "own"

    @property
    def operation(self) -> str | None:
        """MLflow's name for what was asked; None for a route that nobody has classified."""
        return self.route.operation if self.route is not None else None

    @property
    def trace_id(self) -> str | None:
        """The trace that the request belongs to, if its traceparent is well-formed."""
        traceparent = self.inbound.traceparent if self.inbound is not None else None
        return traceparent[3:35] if traceparent else None

    @property
    def is_write(self) -> bool:
        """Whether it asks MLflow to change something, or may: nobody has classified its route."""
        if self.method in READING or self.inbound is None:
            return False
        return self.route is None or self.route.access is not Access.READ

    def came(self, size: int) -> None:
        """So many bytes more of the request's body were read."""
        self.bytes_in += size

    def tried(self) -> None:
        """MLflow is asked, or asked once more."""
        self.attempts += 1

    def line(self, target: str) -> dict[str, Any]:
        """The log line's fields; `target` is MLflow's address. No query, no header, no key."""
        inbound, principal, now = self.inbound, self.principal, time.monotonic()
        own = (self.answered or now) - self.started
        own -= (self.auth_seconds or 0.0) + (self.upstream_seconds or 0.0)
        fields = {
            "request_id": self.request_id,
            "trace_id": self.trace_id,
            "method": self.method,
            "path": self.path,
            "upstream_path": shown(inbound.path) if inbound else None,
            "target": target if self.attempts else None,
            "kind": self.kind,
            "operation": self.operation,
            "status": self.status,
            "outcome": self.outcome,
            "error_code": self.error_code,
            "duration_ms": _milliseconds(now - self.started),
            "own_ms": _milliseconds(max(0.0, own)),
            "auth_ms": _milliseconds(self.auth_seconds),
            "upstream_ms": _milliseconds(self.upstream_seconds),
            "attempts": self.attempts or None,
            "auth_source": self.auth_source,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "user_id": principal.user_id if principal else None,
            "key_id": principal.key_id if principal else None,
            "client_ip": self.client_ip,
            "dropped_headers": self.dropped,
        }
        return {name: value for name, value in fields.items() if value is not None}


def shown(text: str, longest: int = LONGEST) -> str:
    """What a client wrote, as a log may show it: no key in it, and not without end."""
    if "hk_" in text or "%" in text:
        text = without_keys(text)
    return text if len(text) <= longest else f"{text[:longest]}..."


def without_keys(text: str) -> str:
    """The text with whatever looks like an API key cut out: people paste keys into paths. Where one
    is percent-encoded, in part even, nothing of the text is left."""
    if any(_KEY_SHAPED.search(decoded) for decoded in _decodings(text)):
        return "[removed, it held an encoded key]"
    return _KEY_SHAPED.sub("hk_[removed]", text)


def _decodings(text: str) -> Iterator[str]:
    """The text decoded once, twice and so on, until nothing changes; at most as often as MLflow
    decodes (10 times, mlflow/utils/uri.py)."""
    for _ in range(10):
        decoded = unquote(text)
        if decoded == text:
            return
        text = decoded
        yield text


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
