"""Metrics of what the proxy works with: clients' connections, Redis, names, folders.

Those of requests, keys, limits, MLflow and workers are in metrics.py.
"""

from collections.abc import Iterable

from prometheus_client import Counter, Gauge

from app.observability.metric_file import MetricFile
from app.observability.metrics import labelled

LISTENER_STATES = ("hearing", "refused", "away", "off")

#: What Redis has refused so far; the channel, which is refused most, is shown from the start.
_refused = {"hokusai:auth:revoked"}

# --- clients ---------------------------------------------------------------------------------

DROPPED = Counter(
    "hokusai_proxy_clients_dropped_total",
    "Connections that were ended because of a stalled or slow client, by reason.",
    ("reason",),
)
BUFFERED_BYTES = Gauge(
    "hokusai_proxy_buffered_bytes",
    "Bytes of chunked request bodies that are put aside.",
    multiprocess_mode="livesum",
)
BUFFER_REFUSALS = Counter(
    "hokusai_proxy_buffer_refusals_total",
    "Chunked request bodies that could not be put aside, by reason.",
    ("reason",),
)
ADDRESS_FALLBACKS = Counter(
    "hokusai_proxy_address_fallbacks_total",
    "Requests counted for the address of the proxy in front, by what is wrong with "
    "X-Forwarded-For.",
    ("reason",),
)

# --- Redis and names -------------------------------------------------------------------------

REDIS_AWAY = Gauge(
    "hokusai_proxy_redis_away",
    "Workers that leave Redis alone because it failed.",
    multiprocess_mode="livesum",
)
REDIS_FAILURES = Counter(
    "hokusai_proxy_redis_failures_total", "Commands that Redis did not answer, or refused."
)
NAMES_FAILING = Gauge(
    "hokusai_proxy_names_failing",
    "Host names whose look-ups fail, each counted by every worker that noticed.",
    multiprocess_mode="livesum",
)
REDIS_REFUSED = Gauge(
    "hokusai_proxy_redis_refused",
    "Workers to which Redis refuses a command, a pattern of keys, or the channel.",
    ("right",),
    multiprocess_mode="livesum",
)
LISTENERS = Gauge(
    "hokusai_proxy_revocation_listeners",
    "Workers by whether they hear revocations.",
    ("state",),
    multiprocess_mode="livesum",
)

# --- the instance ----------------------------------------------------------------------------

INSTANCE_DEGRADED = Gauge(
    "hokusai_proxy_instance_degraded",
    "Workers that cannot use a folder of their instance as they should.",
    multiprocess_mode="livesum",
)


def count_dropped(reason: str) -> None:
    """A connection was ended: the head was too slow ("slow_head"), the client "took_nothing" of an
    answer, or others needed the room ("no_room")."""
    labelled(DROPPED, reason).inc()


def count_buffer_refusal(reason: str) -> None:
    """A chunked body found no room: in the worker ("total"), for its "key", or on the "disk"."""
    labelled(BUFFER_REFUSALS, reason).inc()


def count_address_fallback(reason: str) -> None:
    """The client's address is not known: its X-Forwarded-For entry is "missing" or "unusable"."""
    labelled(ADDRESS_FALLBACKS, reason).inc()


def refresh_files() -> list[str]:
    """Writes what this worker's files lack: they were removed, or there was no room. Returns what
    is still wrong with them."""
    MetricFile.refresh_all()
    return MetricFile.troubles()


def show_instance(is_well: bool) -> None:
    """Whether this worker can use the instance's folders as it should."""
    INSTANCE_DEGRADED.set(0 if is_well else 1)


def show_redis_refusals(rights: Iterable[str]) -> None:
    """What Redis refuses to this worker now."""
    now = frozenset(rights)
    for right in _refused | now:
        labelled(REDIS_REFUSED, right).set(right in now)
    _refused.update(now)


def show_listener(state: str) -> None:
    """Whether this worker hears revocations: hearing, refused, away, or off (memory://)."""
    for known in LISTENER_STATES:
        labelled(LISTENERS, known).set(known == state)


def _begin() -> None:
    """This worker's first values."""
    show_redis_refusals(())
    known = (
        (DROPPED, ("slow_head", "took_nothing", "no_room")),
        (BUFFER_REFUSALS, ("total", "key", "disk")),
        (ADDRESS_FALLBACKS, ("missing", "unusable")),
    )
    for metric, reasons in known:
        for reason in reasons:
            labelled(metric, reason)


_begin()
