"""One at a time per subject, in the threads of a process and in the processes of an instance."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.auth.single_flight import SingleFlight
from tests.upstreams import WAIT_LIMIT

ROOT = Path(__file__).parents[3]
KEY_A, KEY_B = "a" * 64, "b" * 64

#: A worker process, in this folder. It needs the one file; the package would bring along Flask.
WORKER = """
import runpy, sys, time
from pathlib import Path

SingleFlight = runpy.run_path("app/auth/single_flight.py")["SingleFlight"]
folder = Path(sys.argv[1])
flights = SingleFlight(folder / "locks")

def hold(subject):
    with flights.lock(subject, 20):
        print("holding", flush=True)
        sys.stdin.readline()

def take_turns(subject, times):
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(times):
        with flights.lock(subject, 20):
            inside = folder / "inside"
            inside.mkdir()      # fails where somebody else is inside
            time.sleep(0.002)
            inside.rmdir()
"""

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def flights(tmp_path: Path) -> SingleFlight:
    return SingleFlight(tmp_path / "locks")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a worker process that runs this line; `told` and `go` talk with it."""
    started = []

    def run(line: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER + line, str(tmp_path)],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def told(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


# --- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False], ids=["with a lock file", "one process"])
def test_threads_take_turns(tmp_path: Path, shared: bool) -> None:
    flights = SingleFlight(tmp_path / "locks" if shared else None)
    inside, most = 0, []

    def work(_: int) -> None:
        nonlocal inside
        with flights.lock(KEY_A, WAIT_LIMIT):
            inside += 1
            most.append(inside)
            time.sleep(0.001)
            inside -= 1

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(work, range(60)))
    assert most == [1] * 60


def test_different_subjects_go_in_parallel(flights: SingleFlight) -> None:
    """Each waits inside for all the others."""
    everybody = threading.Barrier(8)

    def work(number: int) -> None:
        with flights.lock(f"{number}" * 64, WAIT_LIMIT):
            everybody.wait(WAIT_LIMIT)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))


def test_a_turn_that_ends_in_an_error_is_over(flights: SingleFlight) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), flights.lock(KEY_A, 0.1):
            raise ZeroDivisionError
    began = time.monotonic()
    with flights.lock(KEY_A, WAIT_LIMIT):
        assert time.monotonic() - began < WAIT_LIMIT / 2


# --- processes -----------------------------------------------------------------------------------


def test_processes_take_turns(start: Start, flights: SingleFlight, tmp_path: Path) -> None:
    workers = [start(f"take_turns({KEY_A!r}, 25)") for _ in range(3)]
    assert [told(worker) for worker in workers] == ["ready"] * 3
    for worker in workers:
        go(worker)
    for _ in range(25):
        with flights.lock(KEY_A, WAIT_LIMIT):
            (tmp_path / "inside").mkdir()
            time.sleep(0.002)
            (tmp_path / "inside").rmdir()
    assert [worker.wait(WAIT_LIMIT) for worker in workers] == [0, 0, 0]


def test_a_holder_in_another_process_is_waited_for_and_passed_if_it_takes_too_long(
    start: Start, flights: SingleFlight
) -> None:
    """Asking twice beats not asking."""
    holder = start(f"hold({KEY_A!r})")
    assert told(holder) == "holding"
    began = time.monotonic()
    with flights.lock(KEY_A, 0.2):
        waited = time.monotonic() - began
    assert 0.2 <= waited < 2

    began = time.monotonic()
    with flights.lock(KEY_B, WAIT_LIMIT):
        assert time.monotonic() - began < 1, "another subject need not wait"

    threading.Timer(0.1, go, (holder,)).start()
    with flights.lock(KEY_A, WAIT_LIMIT):
        assert time.monotonic() - began < WAIT_LIMIT / 2
    assert holder.wait(WAIT_LIMIT) == 0


def test_a_holder_that_is_killed_frees_the_turn(start: Start, flights: SingleFlight) -> None:
    holder = start(f"hold({KEY_A!r})")
    assert told(holder) == "holding"
    threading.Timer(0.1, holder.send_signal, (signal.SIGKILL,)).start()
    began = time.monotonic()
    with flights.lock(KEY_A, WAIT_LIMIT):
        assert 0.05 < time.monotonic() - began < WAIT_LIMIT / 2


def test_one_that_gave_up_waiting_does_not_free_the_holders_turn(
    start: Start, flights: SingleFlight
) -> None:
    holder = start(f"hold({KEY_A!r})")
    assert told(holder) == "holding"
    with flights.lock(KEY_A, 0.01):
        pass
    began = time.monotonic()
    with flights.lock(KEY_A, 0.2):
        assert time.monotonic() - began >= 0.2, "it is still held"


# --- trouble with the lock file ------------------------------------------------------------------


def test_turns_are_shared_again_after_the_file_was_removed(
    flights: SingleFlight, tmp_path: Path, start: Start
) -> None:
    """By a process that lives on and one that has just started."""
    with flights.lock(KEY_A, 1):
        (tmp_path / "locks").unlink()
    holder = start(f"hold({KEY_A!r})")
    assert told(holder) == "holding"
    began = time.monotonic()
    with flights.lock(KEY_A, 0.3):
        assert time.monotonic() - began >= 0.3, "the other process has the turn"


def test_without_a_lock_file_threads_still_take_turns(tmp_path: Path) -> None:
    (tmp_path / "instance").write_bytes(b"in the way")
    flights, inside = SingleFlight(tmp_path / "instance" / "locks"), []

    def take(_: int) -> None:
        with flights.lock(KEY_A, 20):
            inside.append(1)
            assert len(inside) == 1
            time.sleep(0.001)
            inside.pop()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(take, range(40)))
