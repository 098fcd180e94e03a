"""Every metric of the proxy, by name, once. Labels are bounded: never a path, a user or a key."""

from functools import cache
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

#: Upper bounds in seconds: MLflow answers in 2 to 50 ms; transfers take minutes.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)

REQUESTS = Counter(
    "hokusai_proxy_requests_total",
    "Requests by endpoint type, method, status class and outcome.",
    ("kind", "method", "status", "outcome"),
)
DURATION = Histogram(
    "hokusai_proxy_request_seconds",
    "From the request's head to the end of the response.",
    ("kind",),
    buckets=SECONDS,
)
UPSTREAM = Histogram(
    "hokusai_proxy_upstream_seconds",
    "From sending to MLflow's response headers.",
    ("kind",),
    buckets=SECONDS,
)
AUTHENTICATIONS = Counter(
    "hokusai_proxy_authentications_total",
    "Authentications by source of the answer: hit, miss or stale.",
    ("source",),
)
RESPONSE_BYTES = Counter(
    "hokusai_proxy_response_bytes_total", "Bytes of response bodies, by endpoint type.", ("kind",)
)
IN_FLIGHT = Gauge("hokusai_proxy_in_flight", "Requests being served.", multiprocess_mode="livesum")
CIRCUIT_CHANGES = Counter(
    "hokusai_proxy_circuit_changes_total",
    "Changes of a circuit's state, by circuit and new state.",
    ("circuit", "state"),
)
CIRCUIT_OPEN = Gauge(
    "hokusai_proxy_circuit_open",
    "Workers whose circuit is not closed, by circuit.",
    ("circuit",),
    multiprocess_mode="livesum",
)

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


def count_circuit_change(circuit: str, state: str) -> None:
    """A circuit is now closed, open or half-open."""
    CIRCUIT_CHANGES.labels(circuit, state).inc()
    CIRCUIT_OPEN.labels(circuit).set(0 if state == "closed" else 1)


def count_request(
    kind: str,
    method: str,
    status: int,
    outcome: str,
    seconds: float,
    upstream_seconds: float | None,
    bytes_out: int,
) -> None:
    """One request is over; `status` is 0 where nobody was left to answer."""
    known = method if method in METHODS else "other"
    _labelled(REQUESTS, kind, known, f"{status // 100}xx", outcome).inc()
    _labelled(DURATION, kind).observe(seconds)
    _labelled(RESPONSE_BYTES, kind).inc(bytes_out)
    if upstream_seconds is not None:
        _labelled(UPSTREAM, kind).observe(upstream_seconds)


@cache
def _labelled(metric: Any, *labels: str) -> Any:
    """A metric's child, found once: the library looks each up under a lock. Bounded as the labels
    are."""
    return metric.labels(*labels)
