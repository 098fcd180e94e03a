"""The circuits of several workers, told in one store: worker processes, and who looks at them."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.state.circuits import CircuitBoard, instances
from app.state.instance_database import FILE
from app.state.instance_store import InstanceStore
from app.upstream.circuit import Circuit
from tests.upstreams import eventually

ROOT = Path(__file__).parents[3]

#: Another worker, in the folder of its argument; its circuit to MLflow is open.
WORKER = """
import sys
from pathlib import Path
from tests.app.state.test_circuits import opened, worker
board, circuits = worker(Path(sys.argv[1]))
opened(circuits["mlflow"])
print("opened", flush=True)
sys.stdin.readline()
board.start()
sys.stdin.readline()
"""


class Failure(Exception):
    """Of a dependency."""


def opened(circuit: Circuit) -> None:
    with pytest.raises(Failure), circuit.attempt((Failure,)):
        raise Failure


def worker(folder: Path) -> tuple[CircuitBoard, dict[str, Circuit]]:
    """A worker's board, and its circuits, built as create_app does."""

    def on_change(name: str, state: str) -> None:
        board.note(name, state)

    circuits = {name: Circuit(name, 1, 3600, on_change) for name in ("mlflow", "auth_service")}
    board = CircuitBoard(InstanceStore.at(folder / FILE), circuits.values())
    return board, circuits


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another worker, which looks once a second after it got a line."""
    command, pipe = [sys.executable, "-c", WORKER, str(tmp_path)], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "opened\n"
        yield process
        process.kill()


@pytest.mark.slow
def test_a_change_is_seen_by_the_others_at_once_and_ends_with_its_worker(
    other: subprocess.Popen[str], tmp_path: Path
) -> None:
    board, circuits = worker(tmp_path)
    assert board.not_closed(circuits["mlflow"]) == {str(other.pid): "open"}
    assert board.not_closed(circuits["auth_service"]) == {}
    other.kill()
    other.wait()
    assert board.not_closed(circuits["mlflow"]) == {}
    assert board.workers() == []


@pytest.mark.slow
def test_a_frozen_worker_is_known_and_does_what_it_was_asked_for_when_it_wakes(
    other: subprocess.Popen[str], tmp_path: Path
) -> None:
    (board,) = instances([tmp_path]).values()
    assert [told.alive for told in board.workers()] == [True]
    other.send_signal(signal.SIGSTOP)
    assert other.stdin
    print(file=other.stdin, flush=True)
    eventually(lambda: [told.alive for told in board.workers()] == [False], "its silence")
    assert board.reset(["mlflow"])
    assert board.late() == [other.pid]
    other.send_signal(signal.SIGCONT)
    eventually(lambda: board.late() == [], "the reset")
    eventually(lambda: board.workers()[0].alive, "its word")
    assert board.workers()[0].circuits == {"mlflow": "closed", "auth_service": "closed"}


def test_a_reset_is_done_once_by_the_workers_of_its_time_for_the_circuits_it_names(
    other: subprocess.Popen[str], tmp_path: Path
) -> None:
    board, circuits = worker(tmp_path)
    assert board.reset(["mlflow"])  # of the other one: this one is not yet there
    for circuit in circuits.values():
        opened(circuit)
    assert board.reset(["auth_service"])
    assert board.late() == sorted([os.getpid(), other.pid])
    board.look()
    assert board.late() == [other.pid]
    told = {worker.pid: worker.circuits for worker in board.workers()}[os.getpid()]
    assert told == {"mlflow": "open", "auth_service": "closed"}
    assert [circuit.state for circuit in circuits.values()] == ["open", "closed"]
    opened(circuits["auth_service"])
    board.look()
    assert circuits["auth_service"].state == "open"


def test_a_store_that_is_locked_or_gone_harms_no_worker_and_is_complained_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board, circuits = worker(tmp_path)
    board.look()
    with closing(sqlite3.connect(tmp_path / FILE)) as elsewhere:
        elsewhere.execute("begin immediate")
        opened(circuits["mlflow"])
        assert list(board.not_closed(circuits["mlflow"]).values()) == ["open"]
        assert not board.reset(["mlflow"])
    assert sum("cannot use the instance's store" in message for message in caplog.messages) == 1
    shutil.rmtree(tmp_path)
    opened(circuits["auth_service"])
    board.look()
    assert list(board.not_closed(circuits["auth_service"]).values()) == ["open"]


def test_only_folders_with_a_worker_are_instances_and_looking_makes_none(tmp_path: Path) -> None:
    one, empty = tmp_path / "one", tmp_path / "empty"
    for folder in (one, empty):
        folder.mkdir()
        InstanceStore.at(folder / FILE).get_value("name")
    worker(one)[0].look()
    assert list(instances([one, empty, tmp_path])) == [one]
    assert not (tmp_path / FILE).exists()
