"""Traces: made with MLflow's SDK and with plain OpenTelemetry, found, changed and deleted."""

from typing import Any

import mlflow
import pytest
import requests
from mlflow.entities import SpanType
from mlflow.exceptions import MlflowException
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

#: MLflow's tag for where the spans are; in an artifact if `GET /version` was not understood.
SPANS_LOCATION = "mlflow.trace.spansLocation"


@pytest.fixture
def traced(client: Any, experiment: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An experiment that traces go to, each sent before the traced call returns."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    mlflow.set_experiment(experiment_id=experiment)
    return experiment


def one_trace(question: str = "naïve 模型, 100% a+b?") -> str:
    """Trace a call with a call in it; the trace's id."""

    @mlflow.trace(span_type=SpanType.RETRIEVER)
    def fetch(what: str) -> list[str]:
        return [what, what]

    with mlflow.start_span("answer", span_type=SpanType.CHAIN) as span:
        span.set_inputs({"question": question})
        span.set_attribute("depth", 2)
        span.set_outputs({"found": fetch(question)})
        return str(span.trace_id)


def test_a_trace_is_kept_with_its_spans(client: Any, traced: str) -> None:
    trace = client.get_trace(one_trace())
    assert trace.info.state == "OK"
    assert trace.info.tags[SPANS_LOCATION] == "TRACKING_STORE"
    outer, inner = sorted(trace.data.spans, key=lambda span: span.start_time_ns)
    assert (outer.name, inner.name, inner.parent_id) == ("answer", "fetch", outer.span_id)
    assert outer.inputs == {"question": "naïve 模型, 100% a+b?"}
    assert outer.get_attribute("depth") == 2
    assert inner.outputs == ["naïve 模型, 100% a+b?"] * 2


def test_a_trace_that_is_sent_in_the_background_arrives(client: Any, experiment: str) -> None:
    mlflow.set_experiment(experiment_id=experiment)
    trace_id = one_trace()
    mlflow.flush_trace_async_logging()
    assert client.get_trace(trace_id).info.tags[SPANS_LOCATION] == "TRACKING_STORE"


def test_an_error_in_a_traced_call_is_kept(client: Any, traced: str) -> None:
    with pytest.raises(ZeroDivisionError), mlflow.start_span("wrong") as span:
        _ = 1 / 0
    trace = client.get_trace(span.trace_id)
    assert trace.info.state == "ERROR"
    assert trace.data.spans[0].events[0].name == "exception"


def test_traces_are_searched_in_pages(client: Any, traced: str) -> None:
    made = {one_trace(f"question {number}") for number in range(5)}
    found, token, pages = set(), None, 0
    while pages == 0 or token:
        page = client.search_traces(locations=[traced], max_results=2, page_token=token)
        found |= {trace.info.trace_id for trace in page}
        assert all(len(trace.data.spans) == 2 for trace in page)
        token, pages = page.token, pages + 1
    assert (found, pages) == (made, 3)


def test_traces_are_searched_by_tag_and_changed(client: Any, traced: str) -> None:
    chosen, _ = one_trace(), one_trace()
    client.set_trace_tag(chosen, "decision", "it's 100% a+b")
    client.set_trace_tag(chosen, "wrong", "x")
    client.delete_trace_tag(chosen, "wrong")
    found = client.search_traces(
        locations=[traced], filter_string="""tag.decision = "it's 100% a+b" """
    )
    assert [trace.info.trace_id for trace in found] == [chosen]
    assert "wrong" not in found[0].info.tags


def test_a_trace_is_assessed(client: Any, traced: str) -> None:
    trace_id = one_trace()
    feedback = mlflow.log_feedback(trace_id=trace_id, name="good", value=True, rationale="a & b")
    mlflow.log_expectation(trace_id=trace_id, name="answer", value={"a": 1})
    kept = {entry.name: entry.value for entry in client.get_trace(trace_id).info.assessments}
    assert kept == {"good": True, "answer": {"a": 1}}
    assert feedback.assessment_id is not None
    mlflow.delete_assessment(trace_id, feedback.assessment_id)
    assert [entry.name for entry in client.get_trace(trace_id).info.assessments] == ["answer"]


def test_traces_are_deleted(client: Any, traced: str) -> None:
    gone, kept = one_trace(), one_trace()
    assert client.delete_traces(traced, trace_ids=[gone]) == 1
    assert [trace.info.trace_id for trace in client.search_traces(locations=[traced])] == [kept]
    with pytest.raises(MlflowException, match="not found"):
        client.get_trace(gone)


@pytest.mark.parametrize("compression", Compression)
def test_opentelemetry_exports_its_spans_to_an_experiment(
    client: Any, experiment: str, tracking_uri: str, writer: str, compression: Compression
) -> None:
    exporter = OTLPSpanExporter(
        f"{tracking_uri}/v1/traces",
        headers={"x-mlflow-experiment-id": experiment, "Authorization": f"Bearer {writer}"},
        compression=compression,
    )
    provider = TracerProvider(resource=Resource({"service.name": "bakery"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("outer"), tracer.start_as_current_span("inner") as span:
        span.set_attribute("flour", "naïve 模型")
    provider.shutdown()

    (trace,) = client.search_traces(locations=[experiment])
    spans = {span.name: span for span in trace.data.spans}
    assert spans.keys() == {"outer", "inner"}
    assert spans["inner"].parent_id == spans["outer"].span_id
    assert spans["inner"].get_attribute("flour") == "naïve 模型"


def test_the_version_is_answered_plainly(tracking_uri: str, writer: str) -> None:
    """Within the 3 s that the SDK waits for it, or it silently exports no spans."""
    answer = requests.get(
        f"{tracking_uri}/version", headers={"Authorization": f"Bearer {writer}"}, timeout=3
    )
    assert (answer.status_code, answer.text) == (200, mlflow.__version__)
    assert answer.history == []
