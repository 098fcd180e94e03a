"""The bound on concurrent writes: off until MLflow runs out of connections, then in order."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from app.request.errors import Overloaded
from app.upstream import write_gate
from app.upstream.write_gate import WriteGate
from tests.upstreams import eventually


def test_without_a_full_pool_there_is_no_bound() -> None:
    gate = WriteGate(workers=1, patience=0)
    with ExitStack() as slots:
        for _ in range(100):
            slots.enter_context(gate.slot("a"))
    assert gate.bound is None


@pytest.mark.parametrize(("workers", "bound"), [(1, 12), (2, 6), (5, 2), (12, 2)])
def test_workers_share_the_bound(workers: int, bound: int) -> None:
    gate = WriteGate(workers)
    gate.tighten(time.monotonic())
    assert gate.bound == bound


def test_only_what_was_sent_under_the_bound_says_that_it_is_too_high() -> None:
    gate, before = WriteGate(workers=1), time.monotonic()
    gate.tighten(before)
    gate.tighten(before)
    assert gate.bound == 12
    for bound in (6, 3, 2, 2):
        gate.tighten(time.monotonic())
        assert gate.bound == bound


def test_writes_over_the_bound_wait_in_order_of_arrival() -> None:
    gate = bounded()
    order: list[int] = []
    with ExitStack() as slots:
        for key in ("a", "b"):
            slots.enter_context(gate.slot(key))
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
    gate = WriteGate(workers=3, patience=0.05)
    gate.tighten(time.monotonic())
    assert gate.bound == 4
    with gate.slot("slow"), gate.slot("slow"):
        with pytest.raises(Overloaded), gate.slot("slow"):
            raise AssertionError("a third one of this key")
        with gate.slot("other"):
            assert gate._running == {"slow": 2, "other": 1}


def test_a_write_that_waited_in_vain_was_not_sent_and_may_be_repeated() -> None:
    gate = bounded(patience=0.05)
    with gate.slot("a"), gate.slot("b"):
        with pytest.raises(Overloaded, match="Nothing was sent") as refused, gate.slot("a"):
            raise AssertionError("a slot over the bound")
        assert refused.value.headers == {"Retry-After": "5"}
        assert not gate._queue
    with gate.slot("a"):
        assert gate._running == {"a": 1}


def test_the_bound_is_lifted_when_nobody_had_to_wait_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = bounded()
    with gate.slot("a"):
        assert gate.bound == 2
    monkeypatch.setattr(write_gate, "LIFT_AFTER", 0.0)
    with gate.slot("a"):
        assert gate.bound is None


def bounded(patience: float = 10) -> WriteGate:
    """A gate whose bound is 2."""
    gate = WriteGate(workers=12, patience=patience)
    gate.tighten(time.monotonic())
    return gate


def write(gate: WriteGate, order: list[int], n: int) -> None:
    with gate.slot("a"):
        order.append(n)
        time.sleep(0.02)


def started(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run)
    thread.start()
    return thread
