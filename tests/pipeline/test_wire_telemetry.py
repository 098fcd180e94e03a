"""Traces for OpenTelemetry: a span a request, between the caller's and MLflow's."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from devstack.proxy import Proxy
from tests.otlp import Collector, attributes
from tests.upstreams import (
    Answer,
    Upstream,
    chunk,
    chunked,
    close,
    eventually,
    head,
    refused_port,
    send,
    sized,
    until,
)
from tests.wire import Wire, bearer, call, request

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
CREATE = "/api/mlflow/api/2.0/mlflow/runs/create"
ARTIFACT = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/1/a.bin"
TRACE_ID, CALLERS_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"traceparent: 00-{TRACE_ID}-{CALLERS_SPAN}-01"
QUICK = {"OTEL_ENABLED": "true", "OTEL_BSP_SCHEDULE_DELAY": "50"}

Start = Callable[..., Proxy]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as started:
        yield started


@pytest.fixture(scope="module")
def traced(collector: Collector, start_front: Start) -> Proxy:
    """A proxy that reports to the collector."""
    return start_front(**QUICK, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)


def span_of(collector: Collector, request_id: str | None) -> Span:
    """The one span of a request."""

    def found() -> list[Span]:
        return [
            span
            for span in collector.spans
            if attributes(span).get("hokusai.request_id") == request_id
        ]

    eventually(found, "the span")
    (span,) = found()
    return span


def test_a_span_stands_between_the_callers_and_mlflows(
    traced: Proxy, collector: Collector, upstream: Upstream, key: str
) -> None:
    fields = (bearer(key), TRACEPARENT, "tracestate: vendor=1")
    answer = call(traced.url, "POST", CREATE, *fields, body=b"{}")
    span = span_of(collector, answer.one("X-Request-ID"))
    assert span.trace_id.hex() == TRACE_ID
    assert span.parent_span_id.hex() == CALLERS_SPAN
    (asked,) = upstream.requests
    assert asked.one("traceparent") == f"00-{TRACE_ID}-{span.span_id.hex()}-01"
    assert asked.one("tracestate") == "vendor=1"


def test_without_a_caller_that_traces_a_trace_begins_here_and_the_log_has_its_id(
    traced: Proxy, collector: Collector, upstream: Upstream, key: str
) -> None:
    answer = call(traced.url, "GET", SEARCH, bearer(key))
    own = answer.one("X-Request-ID")
    span = span_of(collector, own)
    assert span.parent_span_id == b""
    lines: list[dict[str, Any]] = []

    def are_there() -> bool:
        lines[:] = [line for line in traced.log_lines() if line.get("request_id") == own]
        return bool(lines)

    eventually(are_there, "its line in the log")
    assert lines[-1]["trace_id"] == span.trace_id.hex()
    (asked,) = upstream.requests
    traceparent = asked.one("traceparent") or ""
    assert traceparent.startswith(f"00-{span.trace_id.hex()}-{span.span_id.hex()}-")


def test_a_span_says_what_was_asked_by_whom_and_how_it_went(
    traced: Proxy, collector: Collector, upstream: Upstream, auth_service: Any
) -> None:
    made = auth_service.create_key(user="ann")
    upstream.answers(Answer(send(sized(b"{}", 404))))
    answer = call(traced.url, "POST", f"{CREATE}?a=b", bearer(made.key), body=b"{}")
    own = answer.one("X-Request-ID")
    span = span_of(collector, own)
    assert span.name == "POST {api}/2.0/mlflow/runs/create"
    assert span.kind == Span.SPAN_KIND_SERVER
    assert attributes(span) == {
        "http.method": "POST",
        "http.scheme": "http",
        "http.server_name": "hokusai-mlflow-proxy",
        "http.target": CREATE,
        "http.flavor": "1.1",
        "http.status_code": 404,
        "http.route": "{api}/2.0/mlflow/runs/create",
        "hokusai.operation": "CreateRun",
        "hokusai.kind": "runs",
        "hokusai.outcome": "forwarded",
        "hokusai.request_id": own,
        "hokusai.user_id": "ann",
        "hokusai.key_id": made.key_id,
    }
    sender = attributes(collector.resources[-1])
    assert sender["service.name"] == "hokusai-mlflow-proxy"


def test_a_span_lasts_until_the_last_byte(
    traced: Proxy, collector: Collector, upstream: Upstream, key: str
) -> None:
    enough = threading.Event()
    begin = head(200, ("Transfer-Encoding", "chunked")) + chunk(b"first")
    upstream.answers(Answer(send(begin), until(enough), send(chunk(b"last") + b"0\r\n\r\n")))
    with Wire(traced.url) as wire:
        wire.send(request("GET", ARTIFACT, bearer(key), "X-Request-ID: long-stream"))
        wire.read_head()
        assert wire.read_chunk() == b"first"
        here = time.time_ns()
        enough.set()
        assert wire.read_chunked() == (b"last", True)
    span = span_of(collector, "long-stream")
    assert span.start_time_unix_nano < here < span.end_time_unix_nano


def test_an_answer_that_broke_off_is_an_error(
    traced: Proxy, collector: Collector, upstream: Upstream, key: str
) -> None:
    upstream.answers(Answer(send(chunked(b"first", last=False)), close()))
    answer = call(traced.url, "GET", ARTIFACT, bearer(key), "X-Request-ID: broken-stream")
    assert not answer.whole
    assert span_of(collector, "broken-stream").status.code == Status.STATUS_CODE_ERROR


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_answer_without_a_reason_phrase_gets_through(
    traced: Proxy, collector: Collector, upstream: Upstream, key: str, method: str
) -> None:
    upstream.answers(Answer(send(b"HTTP/1.1 204\r\n\r\n")))
    answer = call(traced.url, method, SEARCH, bearer(key))
    assert (answer.status, answer.whole) == (204, True)
    assert attributes(span_of(collector, answer.one("X-Request-ID")))["http.status_code"] == 204


def test_connections_to_mlflow_are_reused_and_places_freed_all_the_same(
    start_front: Start, collector: Collector, upstream: Upstream, key: str
) -> None:
    front = start_front(**QUICK, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, MAX_IN_FLIGHT_PER_KEY=1)
    with Wire(front.url) as wire:
        for method in ("GET", "POST") * 5:
            assert wire.ask(request(method, SEARCH, bearer(key))).status == 200
        assert upstream.connections == 1
        for _ in range(3):
            assert wire.ask(request("HEAD", SEARCH, bearer(key))).status == 200


def test_a_caller_may_say_that_a_trace_is_not_to_be_kept(
    traced: Proxy, collector: Collector, upstream: Upstream, key: str
) -> None:
    unsampled = f"traceparent: 00-{TRACE_ID}-{CALLERS_SPAN}-00"
    call(traced.url, "GET", SEARCH, bearer(key), unsampled, "X-Request-ID: not-sampled")
    call(traced.url, "GET", SEARCH, bearer(key), "X-Request-ID: sampled-later")
    span_of(collector, "sampled-later")
    ids = [attributes(span).get("hokusai.request_id") for span in collector.spans]
    assert "not-sampled" not in ids
    assert (upstream.requests[0].one("traceparent") or "")[3:35] == TRACE_ID


@pytest.mark.slow
def test_spans_are_not_lost_when_a_worker_stops(
    start_front: Start, collector: Collector, upstream: Upstream, key: str
) -> None:
    """The batch would wait for a minute; whoever stops sends what it has."""
    slow = {"OTEL_ENABLED": "true", "OTEL_BSP_SCHEDULE_DELAY": "60000"}
    front = start_front(**slow, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    call(front.url, "GET", SEARCH, bearer(key), "X-Request-ID: before-the-stop")
    front.stop()
    assert span_of(collector, "before-the-stop")


@pytest.mark.slow
def test_a_collector_that_is_away_delays_nobody(
    start_front: Start, upstream: Upstream, key: str
) -> None:
    with refused_port() as port:
        front = start_front(**QUICK, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}")
        for _ in range(50):
            assert call(front.url, "GET", SEARCH, bearer(key)).status == 200
        eventually(
            lambda: [line for line in front.log_lines() if "opentelemetry" in line["logger"]],
            "a line that says so",
        )
        assert call(front.url, "GET", SEARCH, bearer(key)).status == 200
        began = time.monotonic()
        front.stop(grace=30)
        assert time.monotonic() - began < 20, "it was killed in the end"


def test_it_is_off_by_default(front: Proxy, upstream: Upstream, key: str) -> None:
    call(front.url, "GET", SEARCH, bearer(key), TRACEPARENT)
    assert upstream.requests[0].one("traceparent") == TRACEPARENT.removeprefix("traceparent: ")
