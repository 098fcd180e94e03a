"""Every metric, by name, once; and what counting one request changes."""

import re
from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from app import metrics

ALL = {
    value._name: value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)
}
#: Labels with few values each: nothing of a request that its sender could choose freely.
LABELS = {"kind", "method", "status", "outcome", "source", "circuit", "state"}


@pytest.mark.parametrize("metric", ALL.values(), ids=ALL.keys())
def test_every_metric_is_named_documented_and_bounded(metric: MetricWrapperBase) -> None:
    assert re.fullmatch(r"hokusai_proxy_[a-z_]+", metric._name)
    assert metric._documentation.endswith(".")
    assert set(metric._labelnames) <= LABELS


@pytest.fixture
def grown() -> Callable[..., float]:
    """`grown(name, **labels)`: by how much a sample has grown since the test began."""
    before = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
    }

    def growth(name: str, **labels: str) -> float:
        now = REGISTRY.get_sample_value(name, labels)
        return (now or 0.0) - before.get((name, tuple(sorted(labels.items()))), 0.0)

    return growth


def test_a_request_is_counted_once_in_each_metric(grown: Callable[..., float]) -> None:
    metrics.count_request("runs", "POST", 201, "forwarded", 0.03, 0.02, 1234)
    labels = {"kind": "runs", "method": "POST", "status": "2xx", "outcome": "forwarded"}
    assert grown("hokusai_proxy_requests_total", **labels) == 1
    assert grown("hokusai_proxy_request_seconds_sum", kind="runs") == pytest.approx(0.03)
    assert grown("hokusai_proxy_request_seconds_bucket", kind="runs", le="0.05") == 1
    assert grown("hokusai_proxy_request_seconds_bucket", kind="runs", le="0.025") == 0
    assert grown("hokusai_proxy_upstream_seconds_count", kind="runs") == 1
    assert grown("hokusai_proxy_response_bytes_total", kind="runs") == 1234


def test_a_request_that_was_not_forwarded_has_no_upstream_time(
    grown: Callable[..., float],
) -> None:
    metrics.count_request("runs", "GET", 401, "unauthenticated", 0.001, None, 0)
    assert grown("hokusai_proxy_request_seconds_count", kind="runs") == 1
    assert grown("hokusai_proxy_upstream_seconds_count", kind="runs") == 0


@pytest.mark.parametrize(
    ("status", "label"),
    [(0, "0xx"), (200, "2xx"), (308, "3xx"), (499, "4xx"), (504, "5xx")],
)
def test_a_status_is_counted_by_its_class(
    grown: Callable[..., float], status: int, label: str
) -> None:
    metrics.count_request("ui", "GET", status, "forwarded", 0.1, 0.1, 0)
    labels = {"kind": "ui", "method": "GET", "status": label, "outcome": "forwarded"}
    assert grown("hokusai_proxy_requests_total", **labels) == 1


@pytest.mark.parametrize("method", ["BREW", "get", "X" * 1000, ""])
def test_a_method_that_a_client_made_up_is_no_label(
    grown: Callable[..., float], method: str
) -> None:
    metrics.count_request("own", method, 405, "malformed", 0.1, None, 0)
    labels = {"kind": "own", "method": "other", "status": "4xx", "outcome": "malformed"}
    assert grown("hokusai_proxy_requests_total", **labels) == 1


def test_a_circuits_changes_are_counted_and_its_state_is_shown(
    grown: Callable[..., float],
) -> None:
    for state in ("open", "half-open", "open", "half-open", "closed"):
        metrics.count_circuit_change("test", state)
        is_open = REGISTRY.get_sample_value("hokusai_proxy_circuit_open", {"circuit": "test"})
        assert is_open == (0 if state == "closed" else 1)
    for state, times in (("open", 2), ("half-open", 2), ("closed", 1)):
        labels = {"circuit": "test", "state": state}
        assert grown("hokusai_proxy_circuit_changes_total", **labels) == times
