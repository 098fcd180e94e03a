"""Every metric of the proxy, defined once. Labels are bounded: never a path, a user or a key.

A request's own metrics are written at its end, by count in record.py: about twenty writes of a
microsecond each. Each worker imports this file once and sets all values with known labels: a rate
needs an initial zero. docs/observability.md explains each metric.
"""

from collections.abc import Iterable
from functools import cache
from itertools import product
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, values

from app.observability.metric_file import MetricFile

#: Upper bounds in seconds: MLflow responds in 2 to 50 ms; transfers take minutes. 42 s is just
#: above MLflow's response timeout (40 s); without it, a timed-out request would count as 2 minutes.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 42.0, 120.0)
#: Upper bounds in seconds for the proxy itself and the auth service.
SHORT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
CIRCUITS, STATES = ("mlflow", "auth_service"), ("closed", "open", "half-open")
LISTENER_STATES = ("subscribed", "refused", "unavailable", "off")

if values.ValueClass is not values.MutexValue:  # several processes, one folder
    # The library looks this name up when it creates a value. Its own class maps files into memory:
    # a full file system then kills the process.
    values.MmapedDict = MetricFile  # type: ignore[assignment,attr-defined]


def _counter(name: str, labels: str, text: str) -> Counter:
    return Counter(f"hokusai_proxy_{name}", text, labels.split())


def _gauge(name: str, labels: str, text: str) -> Gauge:
    """A gauge summed over the live workers."""
    return Gauge(f"hokusai_proxy_{name}", text, labels.split(), multiprocess_mode="livesum")


def _histogram(name: str, label: str, text: str, buckets: tuple[float, ...]) -> Histogram:
    return Histogram(f"hokusai_proxy_{name}", text, (label,), buckets=buckets)


# --- requests --------------------------------------------------------------------------------

REQUESTS = _counter(
    "requests_total",
    "kind method status outcome",
    "Requests by endpoint type, method, status class and outcome.",
)
DURATION = _histogram(
    "request_seconds", "kind", "From the request's head to the end of the response.", SECONDS
)
OWN = _histogram(
    "own_seconds",
    "kind",
    "From the request's head to that of the response, without authentication and upstream.",
    SHORT_SECONDS,
)
AUTH = _histogram(
    "auth_seconds", "source", "Authentication of a request, by source of its result.", SHORT_SECONDS
)
UPSTREAM = _histogram(
    "upstream_seconds",
    "kind",
    "From sending to MLflow's response headers, or to its failure, retries included.",
    SECONDS,
)
REQUEST_BYTES = _counter("request_bytes_total", "kind", "Bytes read of request bodies.")
RESPONSE_BYTES = _counter("response_bytes_total", "kind", "Bytes of response bodies.")
DROPPED_HEADERS = _counter(
    "dropped_header_requests_total",
    "",
    "Requests with a header field that was not forwarded and that the caller may need.",
)
IN_FLIGHT = _gauge("in_flight", "", "Requests being served.")

# --- clients ---------------------------------------------------------------------------------

DROPPED = _counter(
    "clients_dropped_total", "reason", "Connections ended because of a stalled or slow client."
)
BUFFERED_BYTES = _gauge("buffered_bytes", "", "Bytes of chunked request bodies in buffers.")
BUFFER_REFUSALS = _counter(
    "buffer_refusals_total", "reason", "Chunked request bodies that could not be buffered."
)
ADDRESS_FALLBACKS = _counter(
    "address_fallbacks_total",
    "reason",
    "Requests counted for the address of the proxy in front: X-Forwarded-For is unusable.",
)

# --- authentication and limits ---------------------------------------------------------------

AUTHENTICATIONS = _counter(
    "authentications_total",
    "source result",
    "Decisions about keys and sessions, by source (cache hit, miss, stale, session).",
)
AUTH_RESULTS = ("valid", "invalid", "throttled", "unavailable", "not_asked", "not_offered")
AUTH_ANSWERS = _counter(
    "auth_service_answers_total",
    "answer",
    "Calls of the auth service by response; not_asked: its circuit was open; not_offered: it looks "
    "up no keys.",
)
LIMIT_DECISIONS = _counter("limit_decisions_total", "limit decision", "Decisions of the limiter.")
LIMIT_FALLBACKS = _counter(
    "limit_fallbacks_total",
    "limit",
    "Requests counted by this instance while Redis is unavailable.",
)

# --- MLflow and circuits ---------------------------------------------------------------------

FORWARDING = _gauge("forwarding", "", "Requests being forwarded to MLflow.")
WRITE_BOUND = _gauge(
    "write_bound",
    "",
    "Writes sent to MLflow at once since its database connections ran out; 0: no bound.",
)
WRITES_WAITING = _gauge("writes_waiting", "", "Writes that wait because of that bound.")
CONNECTIONS = _counter("upstream_connects_total", "", "Connections opened to MLflow.")
CONNECTIONS_OPEN = _gauge("upstream_connections", "", "Open connections to MLflow, idle or not.")
RETRIES = _counter("upstream_retries_total", "", "Requests sent to MLflow again.")
CIRCUIT_CHANGES = _counter(
    "circuit_changes_total", "circuit state", "Changes of a circuit's state, by the new state."
)
CIRCUIT_STATE = _gauge("circuit_workers", "circuit state", "Workers by the state of their circuit.")

# --- Redis, names, workers -------------------------------------------------------------------

REDIS_UNAVAILABLE = _gauge(
    "redis_unavailable", "", "Workers that do not use Redis because it failed."
)
REDIS_FAILURES = _counter(
    "redis_failures_total", "", "Commands to which Redis did not respond, or that it refused."
)
REDIS_REFUSED = _gauge(
    "redis_refused",
    "right",
    "Workers to which Redis denies a command, a key pattern, or the channel.",
)
LISTENERS = _gauge(
    "revocation_listeners", "state", "Workers by the state of their subscription to revocations."
)
NAMES_FAILING = _gauge(
    "names_failing", "", "Host names whose lookups fail, each counted by every affected worker."
)
WORKER_STARTS = _counter("worker_starts_total", "", "Workers that were started.")
INSTANCE_DEGRADED = _gauge(
    "instance_degraded", "", "Workers that cannot properly use a folder of their instance."
)

#: What Redis has denied so far. The channel, denied most often, is exported from the start.
_refused = {"hokusai:auth:revoked"}


def count_refused_head(status: int) -> None:
    """Count a request that the server refused before the application got it."""
    labelled(REQUESTS, "own", "other", f"{status // 100}xx", "malformed").inc()


def count_authentication(source: str, accepted: bool) -> None:
    """Count a decision about a key, cached ("hit"), fresh ("miss") or "stale", or about a browser
    "session"."""
    labelled(AUTHENTICATIONS, source, "accepted" if accepted else "refused").inc()


def count_auth_answer(answer: str) -> None:
    """`answer`: valid, invalid, throttled, unavailable, not_asked or not_offered."""
    labelled(AUTH_ANSWERS, answer).inc()


def count_limit(limit: str, granted: bool) -> None:
    """`limit`: key, session, address, in_flight_of_key, in_flight or writes."""
    labelled(LIMIT_DECISIONS, limit, "granted" if granted else "refused").inc()


def count_fallback(limit: str) -> None:
    """Count a request counted here, not in Redis. `limit`: key, session or address."""
    labelled(LIMIT_FALLBACKS, limit).inc()


def count_connection(opened: bool) -> None:
    """Count a connection to MLflow as opened or closed."""
    if opened:
        CONNECTIONS.inc()
    CONNECTIONS_OPEN.inc(1 if opened else -1)


def count_circuit_change(circuit: str, state: str) -> None:
    """`state`: closed, open or half-open."""
    labelled(CIRCUIT_CHANGES, circuit, state).inc()
    show_circuit(circuit, state)


def show_circuit(circuit: str, state: str) -> None:
    """Set the state of a circuit, without counting a change."""
    for known in STATES:
        labelled(CIRCUIT_STATE, circuit, known).set(known == state)


def count_dropped(reason: str) -> None:
    """`reason`: slow_head, took_nothing (stopped reading), or no_room (evicted)."""
    labelled(DROPPED, reason).inc()


def count_buffer_refusal(reason: str) -> None:
    """`reason`: the limit that was full: total (the worker), key or disk."""
    labelled(BUFFER_REFUSALS, reason).inc()


def count_address_fallback(reason: str) -> None:
    """`reason`: missing or unusable, about the X-Forwarded-For entry."""
    labelled(ADDRESS_FALLBACKS, reason).inc()


def show_instance(is_well: bool) -> None:
    """Set whether this worker can use the instance's folders properly."""
    INSTANCE_DEGRADED.set(0 if is_well else 1)


def show_redis_refusals(rights: Iterable[str]) -> None:
    """Set the rights that Redis denies this worker now."""
    now = frozenset(rights)
    for right in _refused | now:
        labelled(REDIS_REFUSED, right).set(right in now)
    _refused.update(now)


def show_listener(state: str) -> None:
    """`state`: subscribed, refused, unavailable, or off (memory://)."""
    for known in LISTENER_STATES:
        labelled(LISTENERS, known).set(known == state)


@cache
def labelled(metric: Any, *labels: str) -> Any:
    """A metric's child, cached: the library looks each up under a lock."""
    return metric.labels(*labels)


def _begin() -> None:
    """Set this worker's initial values."""
    WORKER_STARTS.inc()
    show_redis_refusals(())
    for circuit in CIRCUITS:
        show_circuit(circuit, "closed")
    known: tuple[tuple[Any, tuple[tuple[str, ...], ...]], ...] = (
        (CIRCUIT_CHANGES, (CIRCUITS, STATES)),
        (AUTHENTICATIONS, (("hit", "miss", "stale", "session"), ("accepted", "refused"))),
        (AUTH_ANSWERS, (AUTH_RESULTS,)),
        (LIMIT_DECISIONS, (("key", "session"), ("granted", "refused"))),
        (LIMIT_DECISIONS, (("address", "in_flight_of_key", "in_flight", "writes"), ("refused",))),
        (LIMIT_FALLBACKS, (("key", "session", "address"),)),
        (DROPPED, (("slow_head", "took_nothing", "no_room"),)),
        (BUFFER_REFUSALS, (("total", "key", "disk"),)),
        (ADDRESS_FALLBACKS, (("missing", "unusable"),)),
    )
    for metric, labels in known:
        for combination in product(*labels):
            labelled(metric, *combination)


_begin()
