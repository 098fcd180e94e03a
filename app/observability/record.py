"""Record: the facts of a request for log, audit and metrics, filled by the pipeline.

It only records. For decisions, the pipeline's steps pass each other typed results.
"""

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from app.observability import metrics
from app.observability.metrics import labelled
from app.request.inbound import Inbound
from app.request.principal import Principal
from app.request.route_table import Access, Route

#: Methods that change nothing, on any path.
READING = ("GET", "HEAD", "OPTIONS")

#: Characters of a client's text shown in a log line. A line with two paths of this length, fully
#: escaped, is below 4096 bytes, so writes of several workers to one pipe stay atomic.
LONGEST = 768

_KEY_SHAPED = re.compile(r"hk_[A-Za-z]+_[A-Za-z0-9_\-]+")


@dataclass(slots=True, eq=False)
class Record:
    """One request's facts. Times are monotonic seconds, sizes bytes; None if it did not happen.

    `answered` is the time of the response's head; `status` is 0 if the client had left;
    `attempts` counts the tries at MLflow; `body` is the request's, if it was read completely before
    it was forwarded; `dropped` names the client's header fields that MLflow did not get;
    `workspace` is MLflow's, "" without one; `limit_fields` are response header fields with the
    rest of the limit.
    """

    request_id: str
    method: str
    path: str
    client_ip: str
    started: float = field(default_factory=time.monotonic)
    answered: float | None = None
    inbound: Inbound | None = None
    limit_fields: dict[str, str] = field(default_factory=dict)
    route: Route | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    principal: Principal | None = None
    workspace: str = ""
    auth_source: str | None = None
    auth_seconds: float | None = None
    upstream_seconds: float | None = None
    attempts: int = 0
    body: bytes | None = None
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    outcome: str = "own"
    error_code: str | None = None
    dropped: str | None = None

    def __post_init__(self) -> None:
        self.path = shown(self.path)

    @property
    def kind(self) -> str:
        """The endpoint type: the route's, "unclassified" without one, "own" for proxy paths."""
        if self.route is not None:
            return self.route.kind
        return "unclassified" if self.inbound is not None else "own"

    @property
    def operation(self) -> str | None:
        """MLflow's name for the operation; None for an unclassified route."""
        return self.route.operation if self.route is not None else None

    @property
    def trace_id(self) -> str | None:
        """The request's trace id, if its traceparent is well-formed."""
        traceparent = self.inbound.traceparent if self.inbound is not None else None
        return traceparent[3:35] if traceparent else None

    @property
    def is_write(self) -> bool:
        """Whether it changes something in MLflow, or may: its route is unclassified."""
        if self.method in READING or self.inbound is None:
            return False
        return self.route is None or self.route.access is not Access.READ

    def came(self, size: int) -> None:
        """Count `size` more bytes read of the request's body."""
        self.bytes_in += size

    def tried(self) -> None:
        """Count an attempt to send the request to MLflow."""
        self.attempts += 1

    def line(self, target: str) -> dict[str, Any]:
        """The log line's fields, without query, headers or key; `target` is MLflow's address."""
        inbound, principal, now = self.inbound, self.principal, time.monotonic()
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
            "own_ms": _milliseconds(_own_seconds(self, now)),
            "auth_ms": _milliseconds(self.auth_seconds),
            "upstream_ms": _milliseconds(self.upstream_seconds),
            "attempts": self.attempts or None,
            "auth_source": self.auth_source,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "user_id": principal.user_id if principal else None,
            "key_id": principal.key_id if principal else None,
            "workspace": self.workspace or None,
            "client_ip": self.client_ip,
            "dropped_headers": self.dropped,
        }
        return {name: value for name, value in fields.items() if value is not None}


def count(record: Record, ended: float) -> None:
    """Count a finished request in the metrics; `ended` is a monotonic time."""
    kind = record.kind
    method = record.method if record.method in metrics.METHODS else "other"
    status = f"{record.status // 100}xx"
    labelled(metrics.REQUESTS, kind, method, status, record.outcome).inc()
    labelled(metrics.DURATION, kind).observe(ended - record.started)
    if record.auth_seconds is not None:
        labelled(metrics.AUTH, record.auth_source or "none").observe(record.auth_seconds)
    if record.upstream_seconds is not None:
        labelled(metrics.UPSTREAM, kind).observe(record.upstream_seconds)
    labelled(metrics.OWN, kind).observe(_own_seconds(record, ended))
    if record.bytes_in:
        labelled(metrics.REQUEST_BYTES, kind).inc(record.bytes_in)
    if record.bytes_out:
        labelled(metrics.RESPONSE_BYTES, kind).inc(record.bytes_out)
    if record.dropped:
        metrics.DROPPED_HEADERS.inc()


def _own_seconds(record: Record, until: float) -> float:
    """The proxy's share of the time to the response's head, or to `until` without one."""
    own = (record.answered or until) - record.started
    return max(0.0, own - (record.auth_seconds or 0.0) - (record.upstream_seconds or 0.0))


def shown(text: str, longest: int = LONGEST) -> str:
    """A client's text for a log: keys removed, cut to `longest` characters."""
    if "hk_" in text or "%" in text:
        text = without_keys(text)
    return text if len(text) <= longest else f"{text[:longest]}..."


def without_keys(text: str) -> str:
    """Remove anything that looks like an API key: users paste keys into paths. The whole text is
    removed if a key is percent-encoded, even in part."""
    if any(_KEY_SHAPED.search(decoded) for decoded in _decodings(text)):
        return "[removed, it held an encoded key]"
    return _KEY_SHAPED.sub("hk_[removed]", text)


def _decodings(text: str) -> Iterator[str]:
    """Yield the text decoded once, twice and so on, until nothing changes; at most as often as
    MLflow decodes (10 times, mlflow/utils/uri.py)."""
    for _ in range(10):
        decoded = unquote(text)
        if decoded == text:
            return
        text = decoded
        yield text


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
