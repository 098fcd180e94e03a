"""The bound on concurrent writes: off until MLflow runs out of connections, then in order."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from app.request.errors import ClientGone, Overloaded
from app.upstream import write_gate
from app.upstream.write_gate import WRITE_TIMEOUT, NotAdmitted, WriteGate
from tests.upstreams import eventually


def test_without_a_full_pool_there_is_no_bound() -> None:
    gate = WriteGate(workers=1)
    with ExitStack() as turns:
        for _ in range(100):
            take(turns, gate, "a", timeout=0)
    assert gate.bound is None


@pytest.mark.parametrize(("workers", "bound"), [(1, 12), (2, 6), (5, 2), (12, 2)])
def test_workers_share_the_bound(workers: int, bound: int) -> None:
    gate = WriteGate(workers)
    gate.tighten(time.monotonic(), had_slot=True)
    assert gate.bound == bound


def test_only_what_was_sent_under_the_bound_says_that_it_is_too_high() -> None:
    gate, before = WriteGate(workers=1), time.monotonic()
    gate.tighten(before, had_slot=True)
    gate.tighten(before, had_slot=True)
    assert gate.bound == 12
    for bound in (6, 3, 2, 2):
        gate.tighten(time.monotonic(), had_slot=True)
        assert gate.bound == bound


def test_a_read_sets_the_bound_and_never_narrows_it() -> None:
    gate = WriteGate(workers=1)
    for _ in range(3):
        gate.tighten(time.monotonic(), had_slot=False)
    assert gate.bound == 12


def test_writes_over_the_bound_wait_in_order_of_arrival() -> None:
    gate = bounded()
    order: list[int] = []
    with ExitStack() as turns:
        for key in ("a", "b"):
            take(turns, gate, key)
        threads = []
        for n in range(5):
            threads.append(started(lambda n=n: write(gate, order, n)))  # type: ignore[misc]
            eventually(lambda n=n: len(gate._queue) == n + 1, "its place in the queue")  # type: ignore[misc]
        assert order == []
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]
    assert not gate._running


def test_one_key_gets_half_of_the_bound() -> None:
    gate = WriteGate(workers=3)
    gate.tighten(time.monotonic(), had_slot=True)
    assert gate.bound == 4
    with ExitStack() as turns:
        take(turns, gate, "slow")
        take(turns, gate, "slow")
        with pytest.raises(Overloaded):
            take(turns, gate, "slow", timeout=0.05)
        take(turns, gate, "other")
        assert gate._running == {"slow": 2, "other": 1}


def test_a_write_that_waited_in_vain_did_nothing_and_may_be_repeated() -> None:
    gate = bounded()
    with ExitStack() as turns:
        take(turns, gate, "a")
        take(turns, gate, "b")
        with pytest.raises(Overloaded, match="Nothing was done") as refused:
            take(turns, gate, "a", timeout=0.05)
        assert refused.value.headers == {"Retry-After": "5"}
        assert not gate._queue
    with ExitStack() as turns:
        take(turns, gate, "a")
        assert gate._running == {"a": 1}
    assert not gate._running


def test_a_turn_is_taken_once_and_only_when_it_is_wanted() -> None:
    gate = bounded()
    with gate.slot("a"):
        assert not gate._running
    with gate.slot("a") as slot:
        slot.acquire()
        slot.acquire()
        assert gate._running == {"a": 1}
    assert not gate._running


def test_the_bound_is_lifted_when_nobody_had_to_wait_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = bounded()
    with ExitStack() as turns:
        take(turns, gate, "a")
        assert gate.bound == 2
    monkeypatch.setattr(write_gate, "LIFT_AFTER", 0.0)
    with ExitStack() as turns:
        take(turns, gate, "a")
        assert gate.bound is None


def test_the_bound_rises_again_while_writes_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a short overload would slow busy writers down for ever."""
    gate = WriteGate(workers=4)  # a bound of 3
    for _ in range(3):
        gate.tighten(time.monotonic(), had_slot=True)
    assert gate.bound == 2
    monkeypatch.setattr(write_gate, "LIFT_AFTER", 0.2)
    bounds = []
    for _ in range(5):
        time.sleep(0.15)
        gate._last_wait = time.monotonic()
        with ExitStack() as turns:
            take(turns, gate, "a")
            bounds.append(gate.bound)
    assert bounds == [2, 3, 3, 3, 3], "up to where it began, and one step at a time"


def test_who_left_holds_neither_a_turn_nor_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_gate, "LOOK", 0.05)
    gate = bounded()
    with ExitStack() as turns:
        take(turns, gate, "a")
        take(turns, gate, "b")
        began = time.monotonic()
        with pytest.raises(ClientGone), gate.slot("a") as slot:
            slot.acquire(lambda: time.monotonic() > began + 0.2)
        assert time.monotonic() - began < WRITE_TIMEOUT / 2
        assert not gate._queue
    left: list[bool] = []
    with ExitStack() as turns:
        take(turns, gate, "a")

        def leaves() -> None:
            with pytest.raises(ClientGone), gate.slot("a") as slot:
                slot.acquire(lambda: bool(left))

        monkeypatch.setattr(write_gate, "LOOK", WRITE_TIMEOUT)
        thread = started(leaves)
        eventually(lambda: len(gate._queue) == 1, "its place in the queue")
        left.append(True)
    thread.join()
    assert not gate._running, "the turn that it got is given back"


def test_whoever_waits_when_the_circuit_opens_is_turned_away() -> None:
    gate, seen = bounded(), []

    def waits() -> None:
        with pytest.raises(NotAdmitted) as why, gate.slot("a") as slot:
            slot.acquire()
        seen.append(why.type)

    with ExitStack() as hanging:
        take(hanging, gate, "a")
        take(hanging, gate, "b")
        thread = started(waits)
        eventually(lambda: len(gate._queue) == 1, "its place in the queue")
        gate.empty()
        thread.join()
        assert seen == [NotAdmitted]
        with ExitStack() as turns:  # what still hangs takes nobody's turn
            take(turns, gate, "a", timeout=0)
            take(turns, gate, "b", timeout=0)
            with pytest.raises(Overloaded):
                take(turns, gate, "a", timeout=0)
            hanging.close()
            with pytest.raises(Overloaded):
                take(turns, gate, "b", timeout=0)
    assert not gate._running


def take(turns: ExitStack, gate: WriteGate, key: str, timeout: float = WRITE_TIMEOUT) -> None:
    """Waits for a turn, which lasts as long as the stack."""
    turns.enter_context(gate.slot(key, timeout)).acquire()


def bounded() -> WriteGate:
    """A gate whose bound is 2."""
    gate = WriteGate(workers=12)
    gate.tighten(time.monotonic(), had_slot=True)
    return gate


def write(gate: WriteGate, order: list[int], n: int) -> None:
    with gate.slot("a") as slot:
        slot.acquire()
        order.append(n)
        time.sleep(0.02)


def started(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run)
    thread.start()
    return thread
