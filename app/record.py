"""Record: what is known of a request for its one log line and its metrics, filled on the way.

Nothing here steers the request; the walk's steps hand each other typed results for that.
"""

import re
import time
from typing import Any
from urllib.parse import unquote

from app.principal import Principal
from app.route_table import Route

_KEY_SHAPED = re.compile(r"hk_[A-Za-z]+_[A-Za-z0-9_\-]+")


class Record:
    """One request's facts. Times are monotonic seconds, sizes bytes."""

    __slots__ = (
        "answered",
        "auth_seconds",
        "auth_source",
        "bytes_in",
        "bytes_out",
        "client_ip",
        "error_code",
        "method",
        "outcome",
        "path",
        "principal",
        "request_id",
        "route",
        "started",
        "status",
        "traceparent",
        "upstream_path",
        "upstream_seconds",
        "walked",
    )

    def __init__(self, request_id: str, method: str, path: str, client_ip: str) -> None:
        self.started = time.monotonic()
        self.answered: float | None = None
        self.request_id = request_id
        self.method = method
        self.path = without_keys(path)
        self.client_ip = client_ip
        self.walked = False
        self.traceparent: str | None = None
        self.upstream_path: str | None = None
        self.route: Route | None = None
        self.principal: Principal | None = None
        self.auth_source: str | None = None
        self.auth_seconds: float | None = None
        self.upstream_seconds: float | None = None
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.outcome = "own"
        self.error_code: str | None = None

    @property
    def kind(self) -> str:
        """The endpoint type: the route's, "unclassified" for the walk's others, "own" for ours."""
        if self.route is not None:
            return self.route.kind
        return "unclassified" if self.walked else "own"

    def came(self, size: int) -> None:
        """So many bytes more of the request's body were read."""
        self.bytes_in += size

    def line(self, target: str) -> dict[str, Any]:
        """The log line's fields; `target` is MLflow's address. No query, no header, no key."""
        principal, now = self.principal, time.monotonic()
        fields = {
            "request_id": self.request_id,
            "trace_id": self.traceparent.split("-")[1] if self.traceparent else None,
            "method": self.method,
            "path": self.path,
            "upstream_path": without_keys(self.upstream_path) if self.upstream_path else None,
            "target": target if self.upstream_seconds is not None else None,
            "kind": self.kind,
            "status": self.status,
            "outcome": self.outcome,
            "error_code": self.error_code,
            "duration_ms": _milliseconds(now - self.started),
            "auth_ms": _milliseconds(self.auth_seconds),
            "upstream_ms": _milliseconds(self.upstream_seconds),
            "auth": self.auth_source,
            "bytes_out": self.bytes_out,
            "user_id": principal.user_id if principal else None,
            "key_id": principal.key_id if principal else None,
            "client_ip": self.client_ip,
        }
        return {name: value for name, value in fields.items() if value is not None}


def without_keys(text: str) -> str:
    """The text with whatever looks like an API key cut out: people paste keys into paths."""
    if "hk_" in text:
        text = _KEY_SHAPED.sub("hk_[removed]", text)
    hidden = "%" in text and _KEY_SHAPED.search(unquote(text))
    return "[removed, it held an encoded key]" if hidden else text


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
