"""Errors on /v1/traces: OTLP's form, statuses that exporters repeat, and no batch lost."""

from collections.abc import Callable

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from devstack.proxy import Proxy
from tests.fault_proxy import FaultProxy
from tests.upstreams import Upstream
from tests.wire import bearer, call

TRACES = "/api/mlflow/v1/traces"
PROTOBUF = "Content-Type: application/x-protobuf"
JSON = "Content-Type: application/json; charset=utf-8"


@pytest.fixture
def cut_off(start_front: Callable[..., Proxy]) -> Proxy:
    """A proxy whose circuit opens with the first request: nothing listens where MLflow should."""
    return start_front(MLFLOW_SERVER_URL="http://127.0.0.1:9", CIRCUIT_FAIL_MAX=1)


def test_an_open_circuit_is_503_with_a_short_wait_in_protobuf(cut_off: Proxy, key: str) -> None:
    unreachable = call(cut_off.url, "POST", TRACES, bearer(key), PROTOBUF, body=b"x")
    assert (unreachable.status, Status.FromString(unreachable.body).code) == (502, 14)

    answer = call(cut_off.url, "POST", TRACES, bearer(key), PROTOBUF, body=b"x")

    assert (answer.status, answer.one("Content-Type")) == (503, "application/x-protobuf")
    assert answer.one("Retry-After") in ("1", "2")
    status = Status.FromString(answer.body)
    assert status.code == 14
    assert str(answer.one("X-Request-ID")) in status.message

    other = call(cut_off.url, "POST", "/api/mlflow/api/2.0/mlflow/traces", bearer(key), body=b"{}")
    assert other.error == (429, "TEMPORARILY_UNAVAILABLE")  # a call of REST that creates


def test_an_error_is_a_status_in_json_where_json_was_sent(front: Proxy) -> None:
    answer = call(front.url, "POST", TRACES, JSON, body=b"{}")
    assert (answer.status, answer.json["code"]) == (401, 16)
    assert answer.json["error_code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("fields", "query", "status", "code"),
    [
        ([], "", 401, 16),
        (["Authorization: Bearer hk_test_unknown"], "", 401, 16),
        ([], "?api_key=x", 400, 3),
    ],
)
def test_every_refusal_has_otlps_form(
    front: Proxy, fields: list[str], query: str, status: int, code: int
) -> None:
    answer = call(front.url, "POST", TRACES + query, PROTOBUF, *fields, body=b"x")
    assert (answer.status, Status.FromString(answer.body).code) == (status, code)


@pytest.mark.parametrize("sent", ["Content-Type: text/plain", "X-Nothing: 1"])
def test_who_sends_neither_form_gets_mlflows(front: Proxy, sent: str) -> None:
    assert call(front.url, "POST", TRACES, sent, body=b"x").error == (401, "UNAUTHENTICATED")


def test_mlflows_own_client_gets_mlflows_form(front: Proxy) -> None:
    agent = "User-Agent: mlflow-python-client/3.17.2"
    answer = call(front.url, "POST", TRACES, PROTOBUF, agent, body=b"x")
    assert answer.error == (401, "UNAUTHENTICATED")


@pytest.mark.slow
def test_an_exporter_loses_no_batch_to_a_circuit_that_closes_again(
    start_front: Callable[..., Proxy], upstream: Upstream, key: str
) -> None:
    """The circuit is open at the first try; OpenTelemetry's own exporter sends until it closes."""
    with FaultProxy(upstream.port) as way:
        front = start_front(MLFLOW_SERVER_URL=way.url, CIRCUIT_FAIL_MAX=1, CIRCUIT_RESET_TIMEOUT=3)
        way.refuse()
        assert call(front.url, "POST", TRACES, bearer(key), PROTOBUF, body=b"x").status == 502
        way.heal()
        exporter = OTLPSpanExporter(
            endpoint=front.url + TRACES, headers={"Authorization": f"Bearer {key}"}, timeout=30
        )
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(exporter))
        with provider.get_tracer("test").start_as_current_span("kept"):
            pass
        provider.shutdown()
    assert "circuit_open" in [line.get("outcome") for line in front.log_lines()]
    sent = [asked.body for asked in upstream.requests if asked.method == b"POST"]
    assert [b"kept" in body for body in sent] == [True]
