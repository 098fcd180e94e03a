"""Every metric, by name, once; and what counting one request changes."""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY, Gauge
from prometheus_client.metrics import MetricWrapperBase

from app.observability import metrics, record
from app.request.route_table import KINDS
from config import Settings

ALL = {
    value._name: value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)
}
GAUGES = {name: metric for name, metric in ALL.items() if isinstance(metric, Gauge)}
#: Labels with few values each: nothing of a request that its sender could choose freely.
LABELS = set("kind method status outcome source result answer limit decision reason".split())
LABELS |= {"circuit", "state", "right"}


@pytest.mark.parametrize("metric", ALL.values(), ids=ALL.keys())
def test_every_metric_is_named_documented_and_bounded(metric: MetricWrapperBase) -> None:
    assert re.fullmatch(r"hokusai_proxy_[a-z_]+", metric._name)
    assert metric._documentation.endswith(".")
    assert set(metric._labelnames) <= LABELS


@pytest.mark.parametrize("gauge", GAUGES.values(), ids=GAUGES.keys())
def test_every_gauge_ends_with_its_worker(gauge: Gauge) -> None:
    assert gauge._multiprocess_mode == "livesum"


def test_a_time_out_counts_as_little_more_than_it_took() -> None:
    """MLflow's answers have MLFLOW_READ_TIMEOUT; there is a bound just above."""
    above = min(bound for bound in metrics.SECONDS if bound > Settings().mlflow_read_timeout)
    assert above <= 1.1 * Settings().mlflow_read_timeout


def test_the_endpoint_types_are_few_and_named_after_what_users_know() -> None:
    assert {"experiments", "runs", "model-registry", "artifacts", "traces", "ui"} <= KINDS
    assert len(KINDS) < 25
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)?", kind) for kind in KINDS)


@pytest.fixture
def grown() -> Callable[..., float]:
    """`grown(name, **labels)`: by how much a sample has grown since the test began."""
    before = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
    }

    def growth(name: str, **labels: str) -> float:
        now = REGISTRY.get_sample_value(f"hokusai_proxy_{name}", labels)
        key = (f"hokusai_proxy_{name}", tuple(sorted(labels.items())))
        return (now or 0.0) - before.get(key, 0.0)

    return growth


def request(**changes: Any) -> Any:
    """A request that took 100 ms to its answer: 5 for its key, 80 at MLflow."""
    facts = {
        "kind": "runs",
        "method": "POST",
        "status": 201,
        "outcome": "forwarded",
        "started": 1000.0,
        "answered": 1000.1,
        "auth_source": "hit",
        "auth_seconds": 0.005,
        "upstream_seconds": 0.08,
        "bytes_in": 77,
        "bytes_out": 1234,
        "dropped": None,
    }
    return SimpleNamespace(**(facts | changes))


def test_a_request_is_counted_once_in_each_metric(grown: Callable[..., float]) -> None:
    record.count(request(), 1000.3)
    labels = {"kind": "runs", "method": "POST", "status": "2xx", "outcome": "forwarded"}
    assert grown("requests_total", **labels) == 1
    assert grown("request_seconds_sum", kind="runs") == pytest.approx(0.3)
    assert grown("request_seconds_bucket", kind="runs", le="0.5") == 1
    assert grown("request_seconds_bucket", kind="runs", le="0.25") == 0
    assert grown("upstream_seconds_sum", kind="runs") == pytest.approx(0.08)
    assert grown("auth_seconds_sum", source="hit") == pytest.approx(0.005)
    assert grown("own_seconds_count", kind="runs") == 1
    assert grown("request_bytes_total", kind="runs") == 77
    assert grown("response_bytes_total", kind="runs") == 1234


def test_requests_that_lost_a_header_field_are_counted(grown: Callable[..., float]) -> None:
    record.count(request(dropped="X-User"), 1000.3)
    record.count(request(), 1000.3)
    assert grown("dropped_header_requests_total") == 1


def test_own_time_is_what_is_left_until_the_answer(grown: Callable[..., float]) -> None:
    """Not the time in which a client takes its download."""
    record.count(request(), 1060.0)
    assert grown("own_seconds_sum", kind="runs") == pytest.approx(0.015)


def test_a_request_that_nobody_waited_for_has_its_own_time_until_its_end(
    grown: Callable[..., float],
) -> None:
    gone = request(answered=None, status=0, outcome="client_gone", upstream_seconds=None)
    record.count(gone, 1000.045)
    assert grown("own_seconds_sum", kind="runs") == pytest.approx(0.04)


def test_a_request_that_was_not_forwarded_has_no_upstream_time(
    grown: Callable[..., float],
) -> None:
    refused = request(outcome="unauthenticated", auth_source=None, upstream_seconds=None)
    record.count(refused, 1000.1)
    assert grown("request_seconds_count", kind="runs") == 1
    assert grown("upstream_seconds_count", kind="runs") == 0
    assert grown("auth_seconds_count", source="none") == 1


def test_a_request_without_a_key_has_no_authentication(grown: Callable[..., float]) -> None:
    record.count(request(kind="own", auth_source=None, auth_seconds=None), 1000.1)
    for source in ("hit", "miss", "stale", "none"):
        assert grown("auth_seconds_count", source=source) == 0


@pytest.mark.parametrize(
    ("status", "label"),
    [(0, "0xx"), (200, "2xx"), (308, "3xx"), (499, "4xx"), (504, "5xx")],
)
def test_a_status_is_counted_by_its_class(
    grown: Callable[..., float], status: int, label: str
) -> None:
    record.count(request(kind="ui", status=status, method="GET"), 1000.1)
    labels = {"kind": "ui", "method": "GET", "status": label, "outcome": "forwarded"}
    assert grown("requests_total", **labels) == 1


@pytest.mark.parametrize("method", ["BREW", "get", "X" * 1000, ""])
def test_a_method_that_a_client_made_up_is_no_label(
    grown: Callable[..., float], method: str
) -> None:
    record.count(request(method=method, status=405, outcome="malformed"), 1000.1)
    labels = {"kind": "runs", "method": "other", "status": "4xx", "outcome": "malformed"}
    assert grown("requests_total", **labels) == 1


def test_a_circuits_changes_are_counted_and_its_state_is_shown(
    grown: Callable[..., float],
) -> None:
    for state in ("open", "half-open", "open", "half-open", "closed"):
        metrics.count_circuit_change("test", state)
        for known in metrics.STATES:
            labels = {"circuit": "test", "state": known}
            shown = REGISTRY.get_sample_value("hokusai_proxy_circuit_workers", labels)
            assert shown == (1 if known == state else 0)
    for state, times in (("open", 2), ("half-open", 2), ("closed", 1)):
        assert grown("circuit_changes_total", circuit="test", state=state) == times
