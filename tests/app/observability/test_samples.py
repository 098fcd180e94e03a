"""The last minutes out of the metrics: rates, failures, latencies."""

import fcntl
import math
import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from app.observability.metrics_page import AllWorkers
from app.observability.samples import INTERVAL, KEPT, NAME, Samples, count, quantile
from app.state.instance_store import InstanceStore


class Metrics:
    """The two metrics that are looked at, under their own names."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("kind", "method", "status", "outcome")
        self._requests = Counter(
            "hokusai_proxy_requests_total", "requests", labels, registry=self.registry
        )
        self._seconds = Histogram(
            "hokusai_proxy_request_seconds",
            "seconds",
            ("kind",),
            buckets=(0.1, 0.2, 1.0),
            registry=self.registry,
        )

    def served(self, number: int, status: str, seconds: float, kind: str = "runs") -> None:
        self._requests.labels(kind, "GET", status, "forwarded").inc(number)
        for _ in range(number):
            self._seconds.labels(kind).observe(seconds)


def test_what_happened_between_two_samples() -> None:
    metrics, store = Metrics(), InstanceStore.at(None)
    samples = Samples(lambda: metrics.registry, store)
    metrics.served(5, "2xx", 0.05)
    samples.take(0)
    metrics.served(6, "2xx", 0.05)
    metrics.served(1, "5xx", 0.15)
    metrics.served(1, "0xx", 0.15)
    metrics.served(100, "5xx", 5, kind="own")  # health probes and this page
    samples.take(0)
    (point,) = samples.points()
    assert point.rate > 0
    assert point.failed == pytest.approx(2 / 8)
    assert point.median == pytest.approx(0.1 * 4 / 6)
    assert point.slowest == pytest.approx(0.1 + 0.1 * (7.6 - 6) / 2)


def test_while_the_metrics_are_put_in_order_there_is_one_sample_less(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    registry.register(AllWorkers(tmp_path))
    samples = Samples(lambda: registry, InstanceStore.at(None))
    samples.take(0)
    samples.take(0)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        samples.take(0)
    finally:
        os.close(folder)
    assert len(samples.points()) == 1


def test_a_quiet_time_has_no_latency_and_no_failure() -> None:
    metrics = Metrics()
    samples = Samples(lambda: metrics.registry, InstanceStore.at(None))
    samples.take(0)
    samples.take(0)
    (point,) = samples.points()
    assert (point.rate, point.failed, point.median, point.slowest) == (0, 0, None, None)


def test_the_workers_of_an_instance_take_turns(tmp_path: Path) -> None:
    metrics = Metrics()
    workers = [
        Samples(lambda: metrics.registry, InstanceStore.at(tmp_path / "db")) for _ in range(2)
    ]
    for worker in workers:
        worker.take()
    assert [worker.points() for worker in workers] == [[], []], "one sample, not two"


def test_the_ring_is_bounded() -> None:
    metrics, store = Metrics(), InstanceStore.at(None)
    samples = Samples(lambda: metrics.registry, store)
    for _ in range(KEPT + 10):
        samples.take(0)
    assert len(samples.points()) == KEPT - 1
    assert len(store.get_value(NAME) or b"") < 100_000
    assert INTERVAL * (KEPT - 1) == 900


@pytest.mark.parametrize(
    ("part", "buckets", "expected"),
    [
        (0.5, [], None),
        (0.5, [(0.1, 0.0), (1e9, 0.0)], None),
        (0.5, [(0.1, 4.0), (1e9, 4.0)], 0.05),
        (0.5, [(0.1, 0.0), (0.3, 4.0), (1e9, 4.0)], 0.2),
        (0.95, [(0.1, 1.0), (1e9, 100.0)], 0.1),
    ],
)
def test_a_quantile_lies_within_its_bucket(
    part: float, buckets: list[tuple[float, float]], expected: float | None
) -> None:
    found = quantile(part, buckets)
    assert found == expected or (expected is not None and math.isclose(found or 0, expected))


def test_counts_of_other_metrics_are_not_taken() -> None:
    registry = CollectorRegistry()
    Counter("something_else_total", "else", ("kind",), registry=registry).labels("runs").inc(7)
    assert count(0.0, registry.collect()).requests == 0
