"""Every metric of the proxy, by name, once. Labels are bounded: never a path, a user or a key.

A request's own metrics are written at its end, by count_request: some twenty writes of a
microsecond each, into memory that the scrape reads. Each worker imports this file once, and starts
with the values whose labels are known beforehand: a rate needs a zero to begin with.
docs/observability.md explains each.
"""

import os
from functools import cache
from itertools import product
from typing import Any, Protocol

from prometheus_client import Counter, Gauge, Histogram, values

from app.observability.metric_file import MetricFile

#: Upper bounds in seconds: MLflow answers in 2 to 50 ms; transfers take minutes. 42 s is just above
#: the time-out for MLflow's answers (40 s), whose requests would count as two minutes else.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 42.0, 120.0)
#: The same for what the proxy itself and the auth service take.
SHORT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
CIRCUITS, STATES = ("mlflow", "auth_service"), ("closed", "open", "half-open")

#: This process's id. Before each write the library asks whether it is in a new process: by a system
#: call, twenty times a request. It may ask here instead; a fork changes the answer.
_process = [os.getpid()]
os.register_at_fork(after_in_child=lambda: _process.__setitem__(0, os.getpid()))
if values.ValueClass is not values.MutexValue:  # several processes, one folder
    # The library looks this name up when a value is made. Its own class maps its files into memory:
    # on a full file system that ends the process.
    values.MmapedDict = MetricFile  # type: ignore[assignment,attr-defined]
    by_process: Any = values.MultiProcessValue
    values.ValueClass = by_process(lambda: _process[0])

# --- requests --------------------------------------------------------------------------------

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
OWN = Histogram(
    "hokusai_proxy_own_seconds",
    "From the request's head to that of the response, without authentication and upstream.",
    ("kind",),
    buckets=SHORT_SECONDS,
)
AUTH = Histogram(
    "hokusai_proxy_auth_seconds",
    "What the authentication of a request took, by source of the answer.",
    ("source",),
    buckets=SHORT_SECONDS,
)
UPSTREAM = Histogram(
    "hokusai_proxy_upstream_seconds",
    "From sending to MLflow's response headers, or to its failure, retries included.",
    ("kind",),
    buckets=SECONDS,
)
REQUEST_BYTES = Counter(
    "hokusai_proxy_request_bytes_total",
    "Bytes of request bodies that were read, by endpoint type.",
    ("kind",),
)
RESPONSE_BYTES = Counter(
    "hokusai_proxy_response_bytes_total", "Bytes of response bodies, by endpoint type.", ("kind",)
)
DROPPED_HEADERS = Counter(
    "hokusai_proxy_dropped_header_requests_total",
    "Requests with a header field that MLflow did not get and that the caller may miss.",
)
IN_FLIGHT = Gauge("hokusai_proxy_in_flight", "Requests being served.", multiprocess_mode="livesum")

# --- authentication --------------------------------------------------------------------------

AUTHENTICATIONS = Counter(
    "hokusai_proxy_authentications_total",
    "Verdicts about keys and sessions, by source (cache hit, miss, stale, session) and result.",
    ("source", "result"),
)
AUTH_ANSWERS = Counter(
    "hokusai_proxy_auth_service_answers_total",
    "Questions to the auth service by answer; not_asked: its circuit was open.",
    ("answer",),
)

# --- limits ----------------------------------------------------------------------------------

LIMIT_DECISIONS = Counter(
    "hokusai_proxy_limit_decisions_total",
    "Decisions of the limiter, by limit.",
    ("limit", "decision"),
)
LIMIT_FALLBACKS = Counter(
    "hokusai_proxy_limit_fallbacks_total",
    "Requests counted by this instance for itself because Redis is away, by limit.",
    ("limit",),
)
FORWARDING = Gauge(
    "hokusai_proxy_forwarding",
    "Requests that have a place among those passed on to MLflow.",
    multiprocess_mode="livesum",
)

WRITE_BOUND = Gauge(
    "hokusai_proxy_write_bound",
    "Writes that go to MLflow at once since its database connections ran out; 0: no bound.",
    multiprocess_mode="livesum",
)
WRITES_WAITING = Gauge(
    "hokusai_proxy_writes_waiting",
    "Writes that wait because of that bound.",
    multiprocess_mode="livesum",
)

# --- MLflow and circuits ---------------------------------------------------------------------

CONNECTIONS = Counter(
    "hokusai_proxy_upstream_connects_total", "Connections to MLflow that were opened."
)
CONNECTIONS_OPEN = Gauge(
    "hokusai_proxy_upstream_connections",
    "Connections to MLflow that are open, in use or idle.",
    multiprocess_mode="livesum",
)
RETRIES = Counter(
    "hokusai_proxy_upstream_retries_total", "Requests that were sent to MLflow once more."
)
CIRCUIT_CHANGES = Counter(
    "hokusai_proxy_circuit_changes_total",
    "Changes of a circuit's state, by circuit and new state.",
    ("circuit", "state"),
)
CIRCUIT_STATE = Gauge(
    "hokusai_proxy_circuit_workers",
    "Workers by the state in which they have a circuit.",
    ("circuit", "state"),
    multiprocess_mode="livesum",
)
# --- workers ---------------------------------------------------------------------------------

WORKER_STARTS = Counter("hokusai_proxy_worker_starts_total", "Workers that were started.")


class Counted(Protocol):
    """What is counted of a request. Times are monotonic seconds or durations in seconds, None for
    what did not happen; `status` is 0 where nobody was left to answer."""

    method: str
    status: int
    outcome: str
    started: float
    answered: float | None
    auth_source: str | None
    auth_seconds: float | None
    upstream_seconds: float | None
    bytes_in: int
    bytes_out: int
    dropped: str | None

    @property
    def kind(self) -> str:
        """The endpoint type."""


def count_request(request: Counted, ended: float) -> None:
    """One request is over, at the monotonic time `ended`."""
    method = request.method if request.method in METHODS else "other"
    status = f"{request.status // 100}xx"
    duration, own, upstream, bytes_in, bytes_out = _of_kind(request.kind)
    labelled(REQUESTS, request.kind, method, status, request.outcome).inc()
    duration.observe(ended - request.started)
    rest = (request.answered or ended) - request.started
    if request.auth_seconds is not None:
        rest -= request.auth_seconds
        labelled(AUTH, request.auth_source or "none").observe(request.auth_seconds)
    if request.upstream_seconds is not None:
        rest -= request.upstream_seconds
        upstream.observe(request.upstream_seconds)
    own.observe(max(0.0, rest))
    if request.bytes_in:
        bytes_in.inc(request.bytes_in)
    if request.bytes_out:
        bytes_out.inc(request.bytes_out)
    if request.dropped:
        DROPPED_HEADERS.inc()


def count_refused_head(status: int) -> None:
    """A request that the server refused by itself, before it came to the application."""
    labelled(REQUESTS, "own", "other", f"{status // 100}xx", "malformed").inc()


def count_authentication(source: str, accepted: bool) -> None:
    """A verdict about a key: out of the cache ("hit"), fresh ("miss") or "stale"; or about a
    browser's "session"."""
    labelled(AUTHENTICATIONS, source, "accepted" if accepted else "refused").inc()


def count_auth_answer(answer: str) -> None:
    """What the auth service said: valid, invalid, throttled or unavailable; or not_asked."""
    labelled(AUTH_ANSWERS, answer).inc()


def count_limit(limit: str, granted: bool) -> None:
    """A decision of a limit: "key", "session", "address", "in_flight_of_key", "in_flight" or
    "writes"."""
    labelled(LIMIT_DECISIONS, limit, "granted" if granted else "refused").inc()


def count_fallback(limit: str) -> None:
    """A count was made here, not in Redis: that of a "key", a "session" or an "address"."""
    labelled(LIMIT_FALLBACKS, limit).inc()


def count_connection(opened: bool) -> None:
    """A connection to MLflow was opened, or else closed."""
    if opened:
        CONNECTIONS.inc()
    CONNECTIONS_OPEN.inc(1 if opened else -1)


def count_circuit_change(circuit: str, state: str) -> None:
    """A circuit is now closed, open or half-open."""
    labelled(CIRCUIT_CHANGES, circuit, state).inc()
    show_circuit(circuit, state)


def show_circuit(circuit: str, state: str) -> None:
    """The state of a circuit, without counting a change."""
    for known in STATES:
        labelled(CIRCUIT_STATE, circuit, known).set(known == state)


@cache
def labelled(metric: Any, *labels: str) -> Any:
    """A metric's child, found once: the library looks each up under a lock. Bounded as the labels
    are."""
    return metric.labels(*labels)


@cache
def _of_kind(kind: str) -> tuple[Any, ...]:
    """What count_request needs for an endpoint type, by one look."""
    metrics = (DURATION, OWN, UPSTREAM, REQUEST_BYTES, RESPONSE_BYTES)
    return tuple(metric.labels(kind) for metric in metrics)


def _begin() -> None:
    """This worker's first values."""
    WORKER_STARTS.inc()
    for circuit in CIRCUITS:
        show_circuit(circuit, "closed")
    known: tuple[tuple[Any, tuple[tuple[str, ...], ...]], ...] = (
        (CIRCUIT_CHANGES, (CIRCUITS, STATES)),
        (AUTHENTICATIONS, (("hit", "miss", "stale", "session"), ("accepted", "refused"))),
        (AUTH_ANSWERS, (("valid", "invalid", "throttled", "unavailable", "not_asked"),)),
        (LIMIT_DECISIONS, (("key", "session"), ("granted", "refused"))),
        (LIMIT_DECISIONS, (("address", "in_flight_of_key", "in_flight", "writes"), ("refused",))),
        (LIMIT_FALLBACKS, (("key", "session", "address"),)),
    )
    for metric, labels in known:
        for combination in product(*labels):
            labelled(metric, *combination)


_begin()
