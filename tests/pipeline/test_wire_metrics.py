"""/metrics of a real gunicorn: what is counted, with several workers and after restarts."""

import os
import re
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics

from devstack.proxy import Proxy
from tests.upstreams import (
    Answer,
    Upstream,
    chunk,
    close,
    eventually,
    refused_port,
    send,
    silence,
    sized,
)
from tests.wire import Response, Wire, bearer, call, request

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
CREATE = "/api/mlflow/api/2.0/mlflow/runs/create"
ARTIFACT = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/weights.bin"
OK = Answer(send(sized(b"{}")))

Start = Callable[..., Proxy]


class Scrape:
    """What /metrics says, read by Prometheus' own parser."""

    def __init__(self, proxy: Proxy) -> None:
        self.families = scraped(proxy)

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all samples with this name that have these labels; 0 without any."""
        wanted, name = labels.items(), f"hokusai_proxy_{name}"
        return sum(
            sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == name and wanted <= sample.labels.items()
        )


def scraped(proxy: Proxy) -> list[Metric]:
    answer = call(proxy.url, "GET", "/metrics")
    if not answer.whole:
        raise ConnectionResetError(answer.end)
    assert answer.status == 200
    return [*parser.text_string_to_metric_families(answer.body.decode())]


def wait_for(proxy: Proxy, expected: float, name: str, **labels: str) -> None:
    """A request is counted when its last byte is out; the client may have it sooner. And a worker
    that is just being stopped may reset the connection of whoever asks."""

    def is_so() -> bool:
        try:
            return Scrape(proxy)(name, **labels) == expected
        except OSError:
            return False

    eventually(is_so, f"{name}{labels} to be {expected}")


@pytest.fixture
def start(start_front: Start, upstream: Upstream) -> Start:
    """A proxy that takes a busy machine for no outage."""
    upstream.answers(OK)
    timeout = {"REDIS_TIMEOUT": 5, "MLFLOW_KEEPALIVE": 60}
    return lambda **settings: start_front(**(timeout | settings))


# --- the format ----------------------------------------------------------------------------------


def test_prometheus_takes_it_and_its_linter_would_find_nothing(
    front: Proxy, upstream: Upstream, key: str
) -> None:
    """The rules are those of `promtool check metrics`."""
    call(front.url, "GET", SEARCH, bearer(key))
    answer = call(front.url, "GET", "/metrics")
    assert (answer.one("Content-Type") or "").startswith("text/plain; version=0.0.4")
    families = scraped(front)
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    for family in families:
        assert family.documentation, "no help text"
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name)
        assert not re.search(r"_(milli|micro|kilo|mega|ms|minutes?|hours?)(_|$)", family.name)
        assert family.type in ("counter", "gauge", "histogram")
        assert family.type not in family.name
        suffixes = {sample.name.removeprefix(family.name) for sample in family.samples}
        assert suffixes <= SUFFIXES[family.type]
        if family.type == "gauge":
            assert not re.search(r"_(total|count|sum|bucket)$", family.name)
        if family.type != "histogram":
            assert not any("le" in sample.labels for sample in family.samples)
        assert not any("pid" in sample.labels for sample in family.samples)


SUFFIXES = {"counter": {"_total"}, "gauge": {""}, "histogram": {"_bucket", "_sum", "_count"}}


def test_openmetrics_is_there_for_whoever_asks_for_it(front: Proxy) -> None:
    accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    answer = call(front.url, "GET", "/metrics", accept)
    assert (answer.one("Content-Type") or "").startswith("application/openmetrics-text")
    text = answer.body.decode()
    assert text.endswith("# EOF\n")
    assert len([*openmetrics.text_string_to_metric_families(text)]) > 10  # type: ignore[no-untyped-call]


def test_everything_known_beforehand_begins_with_a_zero(start: Start) -> None:
    """Else the first of its kind would be no increase."""
    front = start()
    text = call(front.url, "GET", "/metrics").body.decode()
    for sample in (
        'circuit_changes_total{circuit="auth_service",state="half-open"} 0.0',
        'circuit_workers{circuit="mlflow",state="closed"} 1.0',
        'circuit_workers{circuit="mlflow",state="open"} 0.0',
        'authentications_total{result="refused",source="stale"} 0.0',
        'auth_service_answers_total{answer="unavailable"} 0.0',
        'limit_decisions_total{decision="refused",limit="in_flight_of_key"} 0.0',
        'limit_fallbacks_total{limit="key"} 0.0',
        "redis_unavailable 0.0",
        "upstream_retries_total 0.0",
        "worker_starts_total 1.0",
    ):
        assert f"\nhokusai_proxy_{sample}\n" in text


# --- what is counted -----------------------------------------------------------------------------


def test_a_request_on_its_way(start: Start, upstream: Upstream, auth_service: Any) -> None:
    front = start()
    key = auth_service.create_key(limit=2).key

    def ask(*fields: str, body: bytes = b"{}") -> Response:
        return call(front.url, "POST", SEARCH, *fields, body=body)

    assert [ask(bearer(key)).status for _ in range(3)] == [200, 200, 429]
    assert ask(bearer("hk_test_unknown")).status == 401
    assert ask().status == 401
    kind = {"kind": "experiments"}
    wait_for(front, 5, "requests_total", method="POST", **kind)
    seen = Scrape(front)
    for status, outcome, times in (
        ("2xx", "forwarded", 2),
        ("4xx", "rate_limited", 1),
        ("4xx", "unauthenticated", 2),
    ):
        assert seen("requests_total", status=status, outcome=outcome, **kind) == times
    assert seen("request_seconds_count", **kind) == 5
    assert seen("own_seconds_count", **kind) == 5
    assert seen("upstream_seconds_count", **kind) == 2
    assert seen("auth_seconds_count", source="miss") == 1
    assert seen("auth_seconds_count", source="hit") == 2
    assert seen("auth_seconds_count", source="none") == 1, "who has no key is not asked about"
    assert seen("authentications_total", source="miss", result="accepted") == 1
    assert seen("authentications_total", source="hit", result="accepted") == 2
    assert seen("authentications_total", source="miss", result="refused") == 1
    assert seen("auth_service_answers_total", answer="valid") == 1
    assert seen("auth_service_answers_total", answer="invalid") == 1
    assert seen("limit_decisions_total", limit="key", decision="granted") == 2
    assert seen("limit_decisions_total", limit="key", decision="refused") == 1
    assert seen("request_bytes_total", **kind) == 4, "of those that were refused nothing was read"
    assert seen("upstream_connects_total") == 1
    assert seen("upstream_connections") == 1
    assert seen("forwarding") == 0
    assert seen("in_flight") == 1, "this question"


def test_bytes_both_ways(front: Proxy, upstream: Upstream, key: str) -> None:
    before = Scrape(front)
    upstream.answers(Answer(send(sized(bytes(70_000)))))
    for fields, body in (
        ((), bytes(300_000)),
        (("Transfer-Encoding: chunked",), chunk(bytes(100_000)) + b"0\r\n\r\n"),
    ):
        answer = call(front.url, "PUT", ARTIFACT, bearer(key), *fields, body=body)
        assert answer.status == 200
    artifacts = {"kind": "artifacts"}
    grown = before("response_bytes_total", **artifacts) + 140_000
    wait_for(front, grown, "response_bytes_total", **artifacts)
    seen = Scrape(front)("request_bytes_total", **artifacts)
    assert seen - before("request_bytes_total", **artifacts) == 400_000


def test_what_is_refused_before_the_application_sees_it(front: Proxy) -> None:
    labels = {"kind": "own", "method": "other", "outcome": "malformed", "status": "4xx"}
    before = Scrape(front)("requests_total", **labels)
    assert call(front.url, "GET", "/" + "x" * 70_000).status == 414
    wait_for(front, before + 1, "requests_total", **labels)


@pytest.mark.slow
def test_an_outage_of_mlflow(start: Start, upstream: Upstream, key: str) -> None:
    front = start(
        MLFLOW_READ_TIMEOUT=1,
        MLFLOW_ARTIFACT_READ_TIMEOUT=1,
        HEALTH_TIMEOUT=0.1,
        CIRCUIT_RESET_TIMEOUT=3600,
    )
    upstream.answers(Answer(silence()))
    assert call(front.url, "GET", SEARCH, bearer(key)).status == 504
    wait_for(front, 1, "circuit_changes_total", circuit="mlflow", state="open")
    assert call(front.url, "GET", SEARCH, bearer(key)).status == 503
    wait_for(front, 1, "requests_total", outcome="circuit_open")
    seen = Scrape(front)
    assert seen("requests_total", outcome="upstream_timeout", status="5xx") == 1
    assert seen("circuit_changes_total", circuit="mlflow", state="open") == 1
    assert seen("circuit_workers", circuit="mlflow", state="open") == 1
    assert seen("circuit_workers", circuit="mlflow", state="closed") == 0
    assert seen("circuit_workers", circuit="auth_service", state="closed") == 1
    assert seen("upstream_seconds_count", kind="experiments") == 1, "the second was not sent"
    assert seen("upstream_seconds_sum", kind="experiments") >= 1
    assert seen("own_seconds_sum", kind="experiments") < 1, "waiting for MLflow is not its own"
    assert seen("upstream_connections") == 0


def test_a_retry(start: Start, upstream: Upstream, key: str) -> None:
    front = start(MLFLOW_RETRY_DEADLINE=5)
    upstream.answers(Answer(close()), OK)
    assert call(front.url, "GET", SEARCH, bearer(key)).status == 200
    seen = Scrape(front)
    assert seen("upstream_retries_total") == 1
    assert seen("upstream_connects_total") == 2
    assert seen("upstream_connections") == 1


def test_an_outage_of_the_auth_service(start: Start) -> None:
    with refused_port() as port:
        front = start(
            HOKUSAI_AUTH_SERVICE_URL=f"http://127.0.0.1:{port}",
            CIRCUIT_FAIL_MAX=2,
            AUTH_RETRY_INTERVAL=60,
        )
        keys = [f"hk_test_{number}" for number in range(3)]
        assert [call(front.url, "GET", SEARCH, bearer(key)).status for key in keys] == [503] * 3
    wait_for(front, 3, "requests_total", outcome="auth_unavailable", status="5xx")
    seen = Scrape(front)
    assert seen("auth_service_answers_total", answer="unavailable") == 2
    assert seen("auth_service_answers_total", answer="not_asked") == 1
    assert seen("circuit_workers", circuit="auth_service", state="open") == 1


def test_an_outage_of_redis(
    start: Start, start_redis: Callable[[], Any], auth_service: Any
) -> None:
    redis = start_redis()
    front = start(REDIS_URL=redis.url, REDIS_RETRY_INTERVAL=0.05)
    key = auth_service.create_key(limit=1000).key
    assert call(front.url, "GET", SEARCH, bearer(key)).status == 200
    assert Scrape(front)("limit_fallbacks_total") == 0
    redis.stop()

    def is_unavailable() -> bool:
        assert call(front.url, "GET", SEARCH, bearer(key)).status == 200
        return Scrape(front)("redis_unavailable") == 1

    eventually(is_unavailable, "Redis to be left alone")
    seen = Scrape(front)
    assert seen("limit_fallbacks_total", limit="key") > 0
    assert seen("redis_failures_total") > 0
    redis.start()
    wait_for(front, 0, "redis_unavailable")


# --- several workers, and restarts ---------------------------------------------------------------


def workers(proxy: Proxy) -> list[int]:
    return [child.pid for child in psutil.Process(proxy.pid).children()]


@pytest.mark.slow
def test_restarted_workers_are_counted_on_and_shown_no_more(
    start: Start, upstream: Upstream, key: str
) -> None:
    front = start(WEB_CONCURRENCY=2, CIRCUIT_FAIL_MAX=1, CIRCUIT_RESET_TIMEOUT=3600)
    starts = 2
    wait_for(front, starts, "worker_starts_total")
    for ending in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        before = Scrape(front)("requests_total", kind="runs", outcome="forwarded")
        for _ in range(10):
            assert call(front.url, "POST", CREATE, bearer(key), body=b"{}").status == 200
        wait_for(front, before + 10, "requests_total", kind="runs", outcome="forwarded")
        with Wire(front.url) as download:
            upstream.answers(Answer(silence()))
            download.send(request("GET", SEARCH, bearer(key)))
            wait_for(front, 2, "in_flight")
            wait_for(front, 1, "forwarding")
            for pid in workers(front):
                os.kill(pid, ending)
            starts += 2
            wait_for(front, starts, "worker_starts_total")
        upstream.answers(OK)
        wait_for(front, 1, "in_flight")
        wait_for(front, 0, "forwarding")
        wait_for(front, 2, "circuit_workers", circuit="mlflow")
        assert Scrape(front)("requests_total", kind="runs", outcome="forwarded") == before + 10
    assert not [line for line in front.log_lines() if "metrics" in line["logger"]]
    assert "MonkeyPatchWarning" not in front.log.read_text()


@pytest.mark.slow
def test_scrapes_during_restarts_never_see_less(start: Start, upstream: Upstream, key: str) -> None:
    front = start(WEB_CONCURRENCY=2)
    wait_for(front, 2, "worker_starts_total")
    for _ in range(10):
        assert call(front.url, "POST", CREATE, bearer(key), body=b"{}").status == 200
    wait_for(front, 10, "requests_total", kind="runs")
    first, *_ = workers(front)
    os.kill(first, signal.SIGKILL)

    def is_replaced() -> bool:
        seen = Scrape(front)
        assert seen("requests_total", kind="runs") == 10
        return seen("worker_starts_total") == 3

    eventually(is_replaced, "the worker's successor")
