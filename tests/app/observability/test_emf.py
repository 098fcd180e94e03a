"""The embedded metric format: what a line says, and that the specification allows it.

The lines are those of a real gunicorn, as they stand in its log.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.upstreams import Answer, Upstream, eventually, send, silence, sized
from tests.wire import bearer, call

API = "/api/mlflow/api/2.0/mlflow"
OK = Answer(send(sized(b"{}")))

Start = Callable[..., Proxy]


@pytest.fixture(scope="module")
def fake() -> Iterator[Upstream]:
    with Upstream() as fake:
        yield fake


@pytest.fixture
def start(
    tmp_path: Path, fake: Upstream, auth_service: Any, redis_url: str
) -> Iterator[Callable[..., Proxy]]:
    """Start a proxy with METRICS_EMF; by default it writes when it ends, and not before."""
    started: list[Proxy] = []
    fake.forget()
    settings = {
        "MLFLOW_SERVER_URL": fake.url,
        "HOKUSAI_AUTH_SERVICE_URL": auth_service.url,
        "REDIS_URL": redis_url,
        "REDIS_TIMEOUT": "5",
        "WEB_CONCURRENCY": "1",
        "GRACEFUL_TIMEOUT": "2",
        "METRICS_EMF": "true",
        "METRICS_EMF_INTERVAL": "3600",
    }

    def start(**changes: object) -> Proxy:
        own = settings | {name: str(value) for name, value in changes.items()}
        proxy = Proxy(tmp_path / f"proxy-{len(started)}", own, ready="/health")
        started.append(proxy)
        proxy.start()
        proxy.wait_until_ready()
        return proxy

    yield start
    for proxy in started:
        proxy.kill()
    fake.drop_connections()


@pytest.fixture
def key(auth_service: Any) -> str:
    return str(auth_service.create_key(scopes=["admin"]).key)


def emf_lines(proxy: Proxy) -> list[dict[str, Any]]:
    """The lines of the log that are in the format, each checked against its specification."""
    text = proxy.log.read_text()
    whole = text[: text.rfind("\n") + 1].splitlines()
    lines = [json.loads(line) for line in whole if line.startswith('{"_aws"')]
    for line in lines:
        check(line)
    return lines


def total(lines: list[dict[str, Any]], name: str, kind: str | None = None) -> float:
    """The sum of a metric over the lines of an endpoint type, or those of the service."""
    values: list[float] = [line[name] for line in lines if line.get("EndpointType") == kind]
    return sum(values)


# --- the specification ---------------------------------------------------------------------------

UNITS = {"Count", "Milliseconds"}  # of the 27 that CloudWatch knows, those that are used here


def check(line: dict[str, Any]) -> None:
    """What "Specification: Embedded metric format" in the CloudWatch user guide demands."""
    assert len(json.dumps(line)) < 256 * 1024
    meta = line["_aws"]
    assert set(meta) == {"Timestamp", "CloudWatchMetrics"}
    assert isinstance(meta["Timestamp"], int)
    assert abs(meta["Timestamp"] / 1000 - time.time()) < 600, "milliseconds, not seconds"
    for directive in meta["CloudWatchMetrics"]:
        assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
        assert re.fullmatch(r"[^:].{0,254}", directive["Namespace"])
        assert not directive["Namespace"].startswith("AWS/")
        assert directive["Dimensions"]
        for dimensions in directive["Dimensions"]:
            assert len(dimensions) <= 30
            assert len(dimensions) == len(set(dimensions))
            for dimension in dimensions:
                assert re.fullmatch(r"[^:\s][\x20-\x7e]{0,249}", dimension)
                assert isinstance(line[dimension], str), "a target member, and it is a string"
                assert 1 <= len(line[dimension]) <= 1024
        assert 1 <= len(directive["Metrics"]) <= 100
        names = [metric["Name"] for metric in directive["Metrics"]]
        assert len(names) == len(set(names))
        for metric in directive["Metrics"]:
            assert set(metric) <= {"Name", "Unit", "StorageResolution"}
            assert 1 <= len(metric["Name"]) <= 1024
            assert metric["Unit"] in UNITS
            check_value(line[metric["Name"]])


def check_value(value: Any) -> None:
    """A number; or a distribution in the form in which Amazon's agent writes histograms."""
    if isinstance(value, int | float):
        assert 0 <= value < 2**360
        return
    assert set(value) == {"Values", "Counts", "Min", "Max", "Count", "Sum"}
    assert 1 <= len(value["Values"]) == len(value["Counts"]) <= 100
    assert value["Values"] == sorted(set(value["Values"]))
    assert all(count > 0 for count in value["Counts"])
    assert value["Count"] == sum(value["Counts"])
    assert (value["Min"], value["Max"]) == (value["Values"][0], value["Values"][-1])
    assert 0 <= value["Sum"] < 2**360


# --- what the lines say --------------------------------------------------------------------------


@pytest.mark.slow
def test_what_was_counted_is_written_at_the_end(start: Start, fake: Upstream, key: str) -> None:
    proxy = start(METRICS_EMF_NAMESPACE="Hokusai/Test", METRICS_EMF_SERVICE="proxy-of-a-test")
    fake.answers(OK)
    for _ in range(3):
        assert call(proxy.url, "GET", f"{API}/experiments/search", bearer(key)).status == 200
    assert call(proxy.url, "POST", f"{API}/runs/create", body=b"{}").status == 401
    assert call(proxy.url, "GET", "/nothing/of/ours").status == 404
    assert emf_lines(proxy) == []
    proxy.stop()

    experiments, runs, service = lines = emf_lines(proxy)
    assert (experiments["EndpointType"], runs["EndpointType"]) == ("experiments", "runs")
    for line, dimensions in (
        (experiments, ["Service", "EndpointType"]),
        (runs, ["Service", "EndpointType"]),
        (service, ["Service"]),
    ):
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert directive["Namespace"] == "Hokusai/Test"
        assert directive["Dimensions"] == [dimensions]
        assert line["Service"] == "proxy-of-a-test"
    assert (experiments["Requests"], experiments["Errors4xx"]) == (3, 0)
    assert (runs["Requests"], runs["Errors4xx"]) == (1, 1)
    assert (service["Requests"], service["Errors4xx"], service["Errors5xx"]) == (4, 1, 0)
    assert (service["CircuitOpen"], service["AuthCircuitOpen"]) == (0, 0)
    assert experiments["DurationMs"]["Count"] == 3
    assert service["DurationMs"]["Count"] == 4
    logged = [line for line in requests_logged(proxy) if line["kind"] != "own"]
    at_most = sum(line["duration_ms"] for line in logged)  # worked out a moment later
    at_least = sum(line.get("upstream_ms", 0) for line in logged)
    assert at_least < service["DurationMs"]["Sum"] <= at_most + 0.1
    assert len(lines) == 3


def requests_logged(proxy: Proxy) -> list[dict[str, Any]]:
    return [line for line in proxy.log_lines() if line.get("logger") == "hokusai.access"]


@pytest.mark.slow
def test_each_interval_has_its_own_lines(start: Start, fake: Upstream, key: str) -> None:
    proxy = start(METRICS_EMF_INTERVAL=1)
    fake.answers(OK)

    def nothing_came() -> bool:
        """The service's line comes also then, so that no alarm lacks data."""
        return [line["Requests"] for line in emf_lines(proxy)][-2:] == [0, 0]

    for so_far in (5, 10):
        for _ in range(5):
            assert call(proxy.url, "GET", f"{API}/experiments/search", bearer(key)).status == 200
        wait_for(proxy, so_far)
        eventually(nothing_came, "two lines of the service with no requests")
    proxy.stop()
    lines = emf_lines(proxy)
    assert total(lines, "Requests") == total(lines, "Requests", "experiments") == 10
    durations = [line["DurationMs"]["Count"] for line in lines if line.get("EndpointType")]
    assert sum(durations) == 10
    assert all("DurationMs" not in line for line in lines if not line["Requests"])


def wait_for(proxy: Proxy, requests: int) -> None:
    eventually(lambda: total(emf_lines(proxy), "Requests") == requests, f"{requests} in the lines")


def test_an_outage_of_mlflow(start: Start, fake: Upstream, key: str) -> None:
    proxy = start(
        MLFLOW_READ_TIMEOUT=0.3,
        MLFLOW_ARTIFACT_READ_TIMEOUT=0.3,
        HEALTH_TIMEOUT=0.1,
        CIRCUIT_RESET_TIMEOUT=3600,
    )
    fake.answers(Answer(silence()))
    search = f"{API}/experiments/search"
    assert call(proxy.url, "GET", search, bearer(key)).status == 504
    eventually(lambda: "circuit to mlflow is now open" in proxy.log.read_text(), "the opening")
    assert call(proxy.url, "GET", search, bearer(key)).status == 503
    proxy.stop()
    kind, service = emf_lines(proxy)
    assert (kind["Requests"], kind["Errors5xx"]) == (2, 2)
    assert (kind["Upstream502"], kind["Upstream504"], kind["Shed"]) == (0, 1, 1)
    assert (service["CircuitOpen"], service["AuthCircuitOpen"]) == (1, 0)
    assert kind["DurationMs"]["Max"] > 100


@pytest.mark.slow
def test_every_worker_writes_its_own(start: Start, fake: Upstream, key: str) -> None:
    proxy = start(WEB_CONCURRENCY=2, METRICS_EMF_INTERVAL=1)
    fake.answers(OK)
    for _ in range(20):
        assert call(proxy.url, "GET", f"{API}/experiments/search", bearer(key)).status == 200
    eventually(lambda: len({line["Worker"] for line in emf_lines(proxy)}) == 2, "both workers")
    proxy.stop()
    assert total(emf_lines(proxy), "Requests") == 20


def test_the_lines_are_json_also_where_the_log_is_for_human_eyes(start: Start) -> None:
    proxy = start(LOG_FORMAT="text", LOG_LEVEL="ERROR")
    proxy.stop()
    (service,) = emf_lines(proxy)
    assert service["Requests"] == 0


def test_nothing_is_written_by_default(start: Start, fake: Upstream, key: str) -> None:
    proxy = start(METRICS_EMF="false", METRICS_EMF_INTERVAL=1)
    fake.answers(OK)
    assert call(proxy.url, "GET", f"{API}/experiments/search", bearer(key)).status == 200
    proxy.stop()
    assert emf_lines(proxy) == []


def test_no_key_and_no_path_is_in_them(start: Start, fake: Upstream, key: str) -> None:
    proxy = start()
    fake.answers(OK)
    assert call(proxy.url, "GET", f"{API}/somebodys/secret?a=b", bearer(key)).status == 200
    assert call(proxy.url, "GET", f"{API}/experiments/{key}", bearer(key)).status == 400
    proxy.stop()
    written = repr(emf_lines(proxy))
    assert "unclassified" in written
    assert "hk_" not in written
    assert "secret" not in written
