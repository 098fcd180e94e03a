"""A slow MLflow is not a dead one: the drill, smaller; and the long waits of artifacts."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from app.upstream.connection import BEYOND_WRITES, SURE
from devstack.mlflow import MLflow
from tests.drills import slow
from tests.drills.report import kept
from tests.drills.stage import Stage
from tests.upstreams import (
    OK,
    WAIT_LIMIT,
    Answer,
    Received,
    Upstream,
    eventually,
    pause,
    send,
    silence,
    sized,
)
from tests.wire import Wire, bearer, call, request

FILES = "/api/mlflow/api/2.0/mlflow-artifacts"
SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"

#: Seconds, each far apart from the next.
SHORT, COPY = 0.3, 2.0


@pytest.fixture
def own_mlflow(mlflow_python: Path, tmp_path: Path) -> Iterator[MLflow]:
    """A real MLflow for this test alone: whoever shared it would get no answer for 30 s."""
    server = MLflow(tmp_path)
    server.start()
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.kill()


@pytest.mark.slow
def test_more_writers_than_mlflows_database_takes_close_it_for_nobody(
    stage: Stage, own_mlflow: MLflow
) -> None:
    """Long enough for MLflow's own 30 s to end once."""
    row = slow.drill(replace(stage, mlflow=lambda: own_mlflow), seconds=40)
    print(row.line())
    assert row.facts == kept(
        "the proxy refuses nobody",
        "readers are answered",
        "writers fail only where MLflow gave up",
    ), row


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", f"{FILES}/artifacts/model.bin"),
        ("HEAD", f"{FILES}/artifacts/model.bin"),
        ("PUT", f"{FILES}/artifacts/model.bin"),
        ("DELETE", f"{FILES}/artifacts/run"),
        ("POST", f"{FILES}/mpu/complete/model.bin"),
        ("GET", "/api/mlflow/get-artifact?path=a&run_id=1"),
        ("POST", "/api/mlflow/ajax-api/2.0/mlflow/upload-artifact?run_id=1"),
    ],
)
def test_mlflow_may_copy_for_longer_than_any_other_limit(
    stage: Stage, fake: Upstream, key: str, method: str, target: str
) -> None:
    """Longer than the time-outs of other routes, between bytes, and of clients that are silent."""
    proxy = stage.proxy(
        MLFLOW_SERVER_URL=fake.url,
        MLFLOW_READ_TIMEOUT=SHORT,
        MLFLOW_ARTIFACT_READ_TIMEOUT=SHORT,
        HEALTH_TIMEOUT=SHORT,
        CLIENT_IDLE_TIMEOUT=1,
    )

    def copies(asked: Received) -> Answer:
        is_file = b"artifact" in asked.target
        return Answer(pause(COPY), *OK.steps) if is_file else OK

    fake.answers_by(copies)
    body = b"x" * 100_000 if method in ("PUT", "POST") else b""
    assert call(proxy.url, method, target, bearer(key), body=body).status == 200
    assert call(proxy.url, "GET", SEARCH, bearer(key)).status == 200


@pytest.mark.slow
@pytest.mark.parametrize("size", [1_000_000, 40_000_000])
def test_an_upload_may_wait_for_the_copies_of_others(
    stage: Stage, fake: Upstream, key: str, size: int
) -> None:
    """MLflow 3.17 reads nothing of it while all of its few threads copy files to S3. The larger one
    exceeds the buffers of the connection; for the other one, Linux has a limit of its own."""
    proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url, MLFLOW_ARTIFACT_READ_TIMEOUT=SHORT)
    waits = Answer(pause(SHORT + BEYOND_WRITES + COPY), *OK.steps, early=True)
    fake.answers_by(lambda asked: waits if asked.method == b"PUT" else OK)
    target = f"{FILES}/artifacts/model.bin"
    assert call(proxy.url, "PUT", target, bearer(key), body=b"x" * size).status == 200
    fake.wait_for(lambda: any(asked.length == size for asked in fake.requests), "its last byte")


@pytest.mark.slow
def test_a_client_that_leaves_during_a_copy_holds_no_place(
    stage: Stage, fake: Upstream, key: str
) -> None:
    """MLflow's client gives up after 120 s and tries again; a stalled object store would fill the
    key's places, and refuse its REST calls, which MLflow serves."""
    proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url, MAX_IN_FLIGHT_PER_KEY=3)
    fake.answers_by(lambda asked: Answer(silence()) if b"artifacts" in asked.target else OK)
    put = request("PUT", f"{FILES}/artifacts/model.bin", bearer(key), body=b"x" * 100_000)
    with ExitStack() as leaving:
        for _ in range(3):
            leaving.enter_context(Wire(proxy.url)).send(put)
        fake.wait_for(lambda: [asked.end for asked in fake.requests] == ["whole"] * 3, "uploads")
    assert call(proxy.url, "GET", SEARCH, bearer(key)).status == 503
    eventually(
        lambda: call(proxy.url, "GET", SEARCH, bearer(key)).status == 200,
        "a free place",
        SURE + WAIT_LIMIT,
    )


@pytest.mark.slow
def test_a_copy_that_is_too_slow_is_504_and_closes_mlflow_for_nobody(
    stage: Stage, fake: Upstream, key: str
) -> None:
    proxy = stage.proxy(
        MLFLOW_SERVER_URL=fake.url, MLFLOW_ARTIFACT_COPY_TIMEOUT=SHORT, CIRCUIT_FAIL_MAX=1
    )
    fake.answers_by(lambda asked: Answer(pause(COPY)) if b"artifacts" in asked.target else OK)
    for _ in range(3):
        answer = call(proxy.url, "GET", f"{FILES}/artifacts/model.bin", bearer(key))
        assert answer.error == (504, "DEADLINE_EXCEEDED")
    assert "0.3 s" in answer.json["message"]
    eventually(lambda: any(a.target == b"/health" for a in fake.requests), "the question")
    assert call(proxy.url, "GET", SEARCH, bearer(key)).status == 200


@pytest.mark.slow
def test_an_overloaded_mlflow_takes_no_instance_out_of_the_load_balancer(
    stage: Stage, fake: Upstream, key: str
) -> None:
    """Its database has no connection left for anybody, for up to 30 s; /health needs none."""
    proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url, HEALTH_TIMEOUT=SHORT, HEALTH_CACHE_TTL=0.5)
    served = send(sized(b'{"experiments": []}', 200, ("Server", "uvicorn")))
    fake.answers(Answer(served))
    assert call(proxy.url, "GET", SEARCH, bearer(key)).status == 200
    full = Answer(silence())
    fake.answers_by(lambda asked: Answer(served) if asked.target == b"/health" else full)
    time.sleep(5)
    eventually(lambda: call(proxy.url, "GET", "/ready").json["degraded"], "the finding")
    answer = call(proxy.url, "GET", "/ready")
    assert (answer.status, answer.json["missing"]) == (200, [])
    assert "experiments_api: MLflow is busy" in answer.json["degraded"][0]


@pytest.mark.slow
def test_nor_does_one_too_busy_for_health_before_it_counts_as_frozen(
    stage: Stage, fake: Upstream, key: str
) -> None:
    """Its event loop is busy: it serves a request, and /health is late. So the circuit is patient,
    and as patient is /ready."""
    proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url, HEALTH_TIMEOUT=SHORT, HEALTH_CACHE_TTL=0.1)
    served = Answer(send(sized(b'{"experiments": []}', 200, ("Server", "uvicorn"))))
    fake.answers_by(lambda asked: Answer(silence()) if asked.target == b"/health" else served)
    assert call(proxy.url, "GET", SEARCH, bearer(key)).status == 200
    answer = call(proxy.url, "GET", "/ready")
    assert (answer.status, answer.json["missing"]) == (200, [])
    assert "connectivity: MLflow is busy" in answer.json["degraded"][0]
    eventually(lambda: call(proxy.url, "GET", "/ready").status == 503, "the end of timeout")
