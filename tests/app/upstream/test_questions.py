"""The proxy's own questions to MLflow: through the circuit, repeated, and failing closed."""

from dataclasses import replace
from typing import Any

import pytest

from app.request.errors import (
    BadRequest,
    CircuitOpen,
    LoopDetected,
    NoSuchWorkspace,
    NotForwarded,
    ProxyError,
    UpstreamOverloaded,
    UpstreamRefusal,
    UpstreamReset,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.upstream.circuit import Circuit
from app.upstream.forwarding import Upstream as Client
from app.upstream.questions import Questions
from config import Settings
from tests.app.samples import permit
from tests.upstreams import Answer, Upstream, eventually, reset, send, silence, sized

GONE = b'{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"Workspace \'a\' not found"}'
NO_RUN = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run not found"}'
FULL = b'{"error_code": "BAD_REQUEST", "message": "QueuePool limit of size 5 overflow 10 reached"}'
IN_A = replace(permit(), workspace="a")
IN_TEAM_A = replace(IN_A, workspace="team-a")


def questions(url: str) -> Questions:
    settings = Settings(mlflow_server_url=url, mlflow_retry_deadline=1.0, mlflow_read_timeout=5.0)
    return Questions(Client(settings, Circuit("mlflow", 3, 30.0)), settings)


def test_a_question_has_the_workspace_and_its_document() -> None:
    with Upstream() as fake:
        fake.answers(Answer(send(sized(b'{"traces": []}'))))
        asking = questions(fake.url)
        assert asking.ask("/search?a=b", IN_TEAM_A, {"n": 1}) == {"traces": []}
        assert asking.ask("/get") == {"traces": []}
        first, second = fake.requests
    assert first.line == b"POST /search?a=b HTTP/1.1"
    assert first.body == b'{"n":1}'
    assert first.all("X-MLFLOW-WORKSPACE") == ["team-a"]
    assert first.all("X-Hokusai-User-Id") == ["ann"], "whose permissions count, with a signature"
    assert b"\r\nContent-Type: application/json\r\n" in first.head
    assert second.line == b"GET /get HTTP/1.1"
    assert b"workspace" not in second.head.lower()


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (404, NO_RUN, None),
        (404, GONE, NoSuchWorkspace),
        (400, FULL, UpstreamOverloaded),
        (400, NO_RUN, BadRequest),
        (401, b"{}", UpstreamRefusal),
        (508, b"{}", LoopDetected),
        (500, b"{}", NotForwarded),
        (200, b"<html>", NotForwarded),
        (200, b"[]", NotForwarded),
    ],
)
def test_what_is_no_answer_fails(
    status: int, body: bytes, outcome: type[ProxyError] | None
) -> None:
    with Upstream() as fake:
        fake.answers(Answer(send(sized(body, status=status))))
        if outcome is None:
            assert questions(fake.url).ask("/get", IN_A) is None
        else:
            with pytest.raises(outcome):
                questions(fake.url).ask("/get", IN_A)


def test_a_reset_is_repeated() -> None:
    with Upstream() as fake:
        fake.answers(Answer(reset()), Answer(send(sized(b"{}"))))
        assert questions(fake.url).ask("/get") == {}
        fake.answers(Answer(reset()))
        with pytest.raises(UpstreamReset):
            questions(fake.url).ask("/get")


def test_failed_connects_open_the_circuit() -> None:
    asking: Any = questions("http://127.0.0.1:9")
    asking._retries._deadline = 0.0
    for _ in range(3):
        with pytest.raises(UpstreamUnreachable):
            asking.ask("/get")
    with pytest.raises(CircuitOpen):
        asking.ask("/get")


def test_silence_opens_the_circuit() -> None:
    with Upstream() as fake:
        fake.answers(Answer(silence()))
        settings = Settings(
            mlflow_server_url=fake.url, mlflow_read_timeout=0.2, health_timeout=0.05
        )
        circuit = Circuit("mlflow", 3, 30.0)
        with pytest.raises(UpstreamTimeout):
            Questions(Client(settings, circuit), settings).ask("/get")
        eventually(lambda: circuit.state == "open", "the opening")
