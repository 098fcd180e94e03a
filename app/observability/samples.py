"""Samples of the metrics for the status page: a ring buffer of the last minutes.

One worker of an instance samples every INTERVAL. The ring is in the instance's store, so any worker
can draw it. It holds counts, no request data, and ends with the instance.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import orjson
from prometheus_client import CollectorRegistry

from app.observability.periodic import Periodic
from app.request.errors import Overloaded

NAME = "status:samples"

#: Seconds between samples, and the number kept: 15 minutes.
INTERVAL, KEPT = 10.0, 91

REQUESTS, SECONDS = "hokusai_proxy_requests", "hokusai_proxy_request_seconds"


class Store(Protocol):
    """The subset of state/instance_store.py used here."""

    def get_value(self, name: str) -> bytes | None:
        """The value; None if there is none."""

    def set_value(self, name: str, value: bytes, seconds: float) -> bool:
        """Keep a value for `seconds`; False if that failed."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Cumulative counts of requests to MLflow. `errors` ended in 5xx or without a response.
    `buckets` are (upper bound in seconds, requests up to it); the last bound is infinite."""

    at: float
    requests: float
    errors: float
    buckets: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Point:
    """The interval between two samples: requests per second, the fraction that failed (0 to 1),
    and latencies in seconds, None without a request. `slowest` is the 95th percentile."""

    at: float
    rate: float
    failed: float
    median: float | None
    slowest: float | None


class Samples:
    """The ring buffer. `registry` returns the metrics of all workers."""

    def __init__(self, registry: Callable[[], CollectorRegistry], store: Store) -> None:
        self._registry = registry
        self._store = store

    def start(self) -> None:
        """Sample until the process ends."""
        Periodic(name="samples", interval=INTERVAL, action=self.take).start()

    def points(self) -> list[Point]:
        """The intervals of the last minutes up to now, oldest first."""
        self.take(INTERVAL / 2)
        ring = self._ring()
        return [_between(a, b) for a, b in pairwise(ring) if b.at > a.at]

    def take(self, at_least: float = INTERVAL) -> None:
        """Add a sample, unless the last one is younger than `at_least` seconds or the metrics are
        locked: a missing sample is harmless."""
        ring, now = self._ring(), time.time()
        if ring and now - ring[-1].at < at_least:
            return
        try:
            ring = [*ring, count(now, self._registry().collect())][-KEPT:]
        except Overloaded:
            return
        rows = [(s.at, s.requests, s.errors, s.buckets) for s in ring]
        self._store.set_value(NAME, orjson.dumps(rows), KEPT * INTERVAL)

    def _ring(self) -> list[Sample]:
        stored = self._store.get_value(NAME)
        rows = orjson.loads(stored) if stored else []
        return [Sample(at, n, bad, tuple(map(tuple, buckets))) for at, n, bad, buckets in rows]


def count(now: float, families: Iterable[Any]) -> Sample:
    """Sample these metrics, without the proxy's own paths (health, the status page)."""
    requests = errors = 0.0
    buckets: dict[float, float] = {}
    for family in families:
        if family.name not in (REQUESTS, SECONDS):
            continue
        for sample in family.samples:
            if sample.labels.get("kind") == "own":
                continue
            if sample.name == f"{REQUESTS}_total":
                requests += sample.value
                errors += sample.value if sample.labels["status"] in ("5xx", "0xx") else 0
            elif sample.name == f"{SECONDS}_bucket":
                bound = min(float(sample.labels["le"]), 1e9)  # JSON has no infinity
                buckets[bound] = buckets.get(bound, 0.0) + sample.value
    return Sample(now, requests, errors, tuple(sorted(buckets.items())))


def _between(before: Sample, after: Sample) -> Point:
    made = max(0.0, after.requests - before.requests)
    known = dict(before.buckets)
    grown = [(bound, total - known.get(bound, 0.0)) for bound, total in after.buckets]
    return Point(
        after.at,
        made / (after.at - before.at),
        min(1.0, max(0.0, after.errors - before.errors) / made) if made else 0.0,
        quantile(0.5, grown),
        quantile(0.95, grown),
    )


def quantile(part: float, buckets: list[tuple[float, float]]) -> float | None:
    """The latency in seconds below which a fraction `part` of the requests stayed, interpolated
    within a bucket. None without requests; at most the last finite bound."""
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    lower = passed = 0.0
    for bound, upto in buckets:
        if upto >= part * total:
            if bound >= 1e9:
                return lower
            return lower + (bound - lower) * (part * total - passed) / (upto - passed)
        lower, passed = bound, upto
    return lower
