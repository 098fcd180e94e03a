"""`flask circuit`: what lives in the workers' memory is seen from outside, and closed."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.state.circuits import CircuitBoard, Worker, instances
from app.state.instance_database import FILE
from app.state.instance_store import InstanceStore
from app.upstream.circuit import Circuit
from devstack.proxy import Proxy
from tests.app.doctor.conftest import Finished
from tests.fault_proxy import FaultProxy
from tests.upstreams import Upstream, eventually
from tests.wire import bearer, call

Flask = Callable[..., Finished]


# --- of a running proxy --------------------------------------------------------------------------


@pytest.fixture
def faults() -> Iterator[FaultProxy]:
    with Upstream() as fake, FaultProxy(fake.port) as faults:
        yield faults


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "instance"


@pytest.fixture
def proxy_of_two(start_proxy: Callable[..., Proxy], faults: FaultProxy, folder: Path) -> Proxy:
    """Two workers, each of which opens its circuit at the first failure, for an hour."""
    return start_proxy(
        MLFLOW_SERVER_URL=faults.url,
        WEB_CONCURRENCY=2,
        INSTANCE_FOLDER=folder,
        CIRCUIT_FAIL_MAX=1,
        CIRCUIT_RESET_TIMEOUT=3600,
        MLFLOW_RETRY_DEADLINE=0,
    )


def states(flask: Flask, folder: Path) -> list[str]:
    """The state of the circuit to MLflow, in each worker."""
    done = flask("circuit", "show", "--json", INSTANCE_FOLDER=str(folder))
    assert done.status == 0, done.err
    (instance,) = json.loads(done.out)
    return [worker["circuits"]["mlflow"] for worker in instance["workers"]]


@pytest.mark.slow
def test_the_circuits_of_all_workers_are_shown_and_reset(
    flask: Flask,
    flask_process: Flask,
    proxy_of_two: Proxy,
    faults: FaultProxy,
    folder: Path,
    auth_service: Any,
) -> None:
    key = auth_service.create_key(scopes=["read"]).key

    def status() -> int:
        return call(proxy_of_two.url, "GET", "/api/mlflow/version", bearer(key)).status

    def workers() -> list[Worker]:
        return [worker for board in instances([folder]).values() for worker in board.workers()]

    eventually(lambda: len(workers()) == 2, "the word of both workers")
    assert states(flask, folder) == ["closed", "closed"]

    faults.refuse()
    eventually(
        lambda: status() and [w.circuits["mlflow"] for w in workers()] == ["open", "open"],
        "two open circuits",
    )
    faults.heal()
    assert {status() for _ in range(10)} == {503}
    shown = flask("circuit", "show", INSTANCE_FOLDER=str(folder))
    assert shown.out.count("mlflow: open  auth_service: closed") == 2

    done = flask_process("circuit", "reset", "mlflow", "--instance", str(folder))
    assert (done.status, done.err) == (0, "")
    assert f"Closed: mlflow; in 2 workers of {folder}." in done.out
    assert {status() for _ in range(10)} == {200}
    assert states(flask, folder) == ["closed", "closed"]


@pytest.mark.slow
def test_an_instance_is_found_where_it_made_its_folder_itself(
    flask: Flask, start_proxy: Callable[..., Proxy]
) -> None:
    proxy = start_proxy(MLFLOW_SERVER_URL="http://127.0.0.1:9", WEB_CONCURRENCY=1)

    def workers() -> list[int]:
        done = flask("circuit", "show", "--json")
        found = json.loads(done.out) if done.status == 0 else []
        return [worker["pid"] for instance in found for worker in instance["workers"]]

    (worker,) = psutil.Process(proxy.pid).children()
    eventually(lambda: worker.pid in workers(), "the worker's word")


# --- called wrongly ------------------------------------------------------------------------------


def test_no_proxy_here_is_said(flask: Flask, tmp_path: Path) -> None:
    for command in ("show", "reset"):
        done = flask("circuit", command, INSTANCE_FOLDER=str(tmp_path))
        assert (done.status, done.out) == (1, "")
        assert f"No worker of a proxy is found in {tmp_path}" in done.err


def test_an_unknown_circuit_is_refused(flask: Flask) -> None:
    done = flask("circuit", "reset", "redis")
    assert done.status == 2
    assert "'redis' is not one of 'mlflow', 'auth_service'" in done.err


@pytest.mark.slow
def test_a_worker_that_does_not_answer_is_named(flask: Flask, tmp_path: Path) -> None:
    CircuitBoard(InstanceStore.at(tmp_path / FILE), [Circuit("mlflow", 1, 3600)]).look()
    done = flask("circuit", "reset", INSTANCE_FOLDER=str(tmp_path))
    assert done.status == 1
    assert f"No answer from: {os.getpid()}" in done.err
