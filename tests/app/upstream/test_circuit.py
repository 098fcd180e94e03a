"""The circuit: opens after failures in a row, lets one call probe, and keeps nobody waiting."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from app.upstream.circuit import DURING_PROBE, Circuit, Open
from tests.upstreams import WAIT_LIMIT, eventually

FAIL_MAX = 3


class Down(Exception):
    """The dependency does not answer."""


class Neutral(Exception):
    """Says nothing about the dependency: a client that hung up."""


class Changes(list[str]):
    """The states that the circuit told, in order."""

    def __call__(self, name: str, state: str) -> None:
        assert name == "mlflow"
        self.append(state)


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
def circuit(changes: Changes) -> Circuit:
    """Stays open for longer than any test takes."""
    return Circuit("mlflow", FAIL_MAX, 60, changes)


@pytest.fixture
def quick(changes: Changes) -> Circuit:
    """Lets a probe through after a moment."""
    return Circuit("mlflow", FAIL_MAX, 0.05, changes)


def call(circuit: Circuit, raising: type[BaseException] | None = None) -> None:
    with circuit.attempt((Down,)):
        if raising is not None:
            raise raising


def fail(circuit: Circuit, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(Down):
            call(circuit, Down)


def trip(circuit: Circuit) -> Circuit:
    """Opens the circuit; a quick one will take a probe by now."""
    fail(circuit, FAIL_MAX)
    assert circuit.state == "open"
    time.sleep(0.06)
    return circuit


def together(number: int, action: Callable[[int], None]) -> list[BaseException | None]:
    """What `action` raised in each of so many threads that start at the same moment."""
    start = threading.Barrier(number)

    def run(index: int) -> BaseException | None:
        start.wait(WAIT_LIMIT)
        try:
            action(index)
        except BaseException as raised:
            return raised
        return None

    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(run, range(number)))


class Held(threading.Thread):
    """A call that is under way until its `.release()`."""

    def __init__(self, circuit: Circuit, raising: type[Exception] | None = None) -> None:
        super().__init__()
        self.circuit, self.raising = circuit, raising
        self.inside, self.go = threading.Event(), threading.Event()

    def begin(self) -> None:
        self.start()
        assert self.inside.wait(WAIT_LIMIT)

    def run(self) -> None:
        with suppress(Down, Neutral), self.circuit.attempt((Down,)):
            self.inside.set()
            self.go.wait(WAIT_LIMIT)
            if self.raising is not None:
                raise self.raising

    def release(self) -> None:
        self.go.set()
        self.join(WAIT_LIMIT)


@pytest.fixture
def held() -> Iterator[Callable[..., Held]]:
    """`held(circuit, raising)`: a call that is under way until its `.release()`."""
    threads: list[Held] = []

    def hold(circuit: Circuit, raising: type[Exception] | None = None) -> Held:
        thread = Held(circuit, raising)
        threads.append(thread)
        thread.begin()
        return thread

    yield hold
    for thread in threads:
        thread.release()


# --- closed --------------------------------------------------------------------------------------


def test_it_opens_after_so_many_failures_in_a_row(circuit: Circuit, changes: Changes) -> None:
    fail(circuit, FAIL_MAX - 1)
    assert (circuit.state, changes) == ("closed", [])
    fail(circuit)
    assert (circuit.state, changes) == ("open", ["open"])


def test_a_success_between_begins_the_count_anew(circuit: Circuit) -> None:
    for _ in range(3):
        fail(circuit, FAIL_MAX - 1)
        call(circuit)
    assert circuit.state == "closed"


@pytest.mark.parametrize("raised", [Neutral, GeneratorExit, KeyboardInterrupt])
def test_an_exception_that_says_nothing_counts_for_nothing(
    circuit: Circuit, raised: type[BaseException]
) -> None:
    """Neither as a failure nor as a success: the failures before it stay counted."""
    fail(circuit, FAIL_MAX - 1)
    for _ in range(10):
        with pytest.raises(raised):
            call(circuit, raised)
    assert circuit.state == "closed"
    fail(circuit)
    assert circuit.state == "open"


def test_a_childs_failure_is_one_of_its_parents(circuit: Circuit) -> None:
    class StillDown(Down):
        pass

    for _ in range(FAIL_MAX):
        with pytest.raises(StillDown):
            call(circuit, StillDown)
    assert circuit.state == "open"


def test_calls_in_parallel_are_not_serialised(circuit: Circuit) -> None:
    """Each waits inside for all the others, so none may have to wait for one to end."""
    everybody = threading.Barrier(16)

    def action(index: int) -> None:
        with circuit.attempt((Down,)):
            everybody.wait(WAIT_LIMIT)

    assert together(16, action) == [None] * 16


@pytest.mark.parametrize("fail_max", [1, 3, 16])
def test_failures_at_the_same_moment_open_it_once(fail_max: int) -> None:
    for _ in range(10):
        changes = Changes()
        circuit = Circuit("mlflow", fail_max, 60, changes)
        everybody = threading.Barrier(16)

        def action(index: int, circuit: Circuit = circuit, wait: Any = everybody.wait) -> None:
            with circuit.attempt((Down,)):
                wait(WAIT_LIMIT)
                raise Down

        assert {type(raised) for raised in together(16, action)} == {Down}
        assert (circuit.state, changes) == ("open", ["open"])


# --- open ----------------------------------------------------------------------------------------


def test_an_open_circuit_makes_no_call_and_says_when_to_come_back(circuit: Circuit) -> None:
    trip(circuit)
    with pytest.raises(Open) as caught:
        call(circuit, AssertionError)
    assert caught.value.retry_after in (59, 60)


def test_retry_after_is_at_least_one_second(quick: Circuit) -> None:
    fail(quick, FAIL_MAX)
    with pytest.raises(Open) as caught:
        call(quick, AssertionError)
    assert caught.value.retry_after == 1


def test_a_refused_call_tells_nobody_anything(circuit: Circuit, changes: Changes) -> None:
    trip(circuit)
    for _ in range(FAIL_MAX * 2):
        with pytest.raises(Open):
            call(circuit)
    assert (circuit.state, changes) == ("open", ["open"])


def test_reset_closes_it(circuit: Circuit, changes: Changes) -> None:
    trip(circuit).reset()
    call(circuit)
    assert (circuit.state, changes) == ("closed", ["open", "closed"])


# --- half-open -----------------------------------------------------------------------------------


def test_one_of_many_threads_probes(quick: Circuit, changes: Changes) -> None:
    trip(quick)
    inside, waits, refused = [], [], threading.Semaphore(0)

    def action(index: int) -> None:
        try:
            with quick.attempt((Down,)):
                inside.append(index)
                for _ in range(15):
                    assert refused.acquire(timeout=WAIT_LIMIT)
        except Open as refusal:
            waits.append(refusal.retry_after)
            refused.release()

    assert together(16, action) == [None] * 16
    assert len(inside) == 1
    assert waits == [DURING_PROBE] * 15
    assert changes == ["open", "half-open", "closed"]


def test_a_probe_that_succeeds_closes_it(quick: Circuit, changes: Changes) -> None:
    call(trip(quick))
    assert (quick.state, changes) == ("closed", ["open", "half-open", "closed"])
    fail(quick, FAIL_MAX - 1)
    assert quick.state == "closed", "old failures are forgotten"


def test_a_probe_that_fails_opens_it_for_the_whole_time_again(changes: Changes) -> None:
    circuit = Circuit("mlflow", 1, 0.3, changes)
    fail(circuit)
    time.sleep(0.31)
    fail(circuit)
    with pytest.raises(Open):
        call(circuit)
    assert changes == ["open", "half-open", "open"]
    time.sleep(0.31)
    call(circuit)
    assert changes == ["open", "half-open", "open", "half-open", "closed"]


def test_a_probe_that_says_nothing_lets_the_next_one_probe(
    quick: Circuit, changes: Changes
) -> None:
    trip(quick)
    for _ in range(3):
        with pytest.raises(Neutral):
            call(quick, Neutral)
    assert quick.state == "half-open"
    call(quick)
    assert (quick.state, changes) == ("closed", ["open", "half-open", "closed"])


# --- late results --------------------------------------------------------------------------------


@pytest.mark.parametrize("raising", [None, Down, Neutral])
def test_an_old_call_that_ends_while_it_is_open_changes_nothing(
    quick: Circuit, changes: Changes, held: Callable[..., Held], raising: object
) -> None:
    old = held(quick, raising)
    trip(quick)
    old.release()
    assert (quick.state, changes) == ("open", ["open"])


@pytest.mark.parametrize("raising", [None, Down, Neutral])
def test_an_old_call_that_ends_during_the_probe_changes_nothing(
    quick: Circuit, changes: Changes, held: Callable[..., Held], raising: object
) -> None:
    old = held(quick, raising)
    probe = held(trip(quick))
    old.release()
    assert (quick.state, changes) == ("half-open", ["open", "half-open"])
    probe.release()
    eventually(lambda: quick.state == "closed", "the probe's success")


def test_old_calls_that_fail_after_it_closed_again_do_not_open_it(
    quick: Circuit, changes: Changes, held: Callable[..., Held]
) -> None:
    """Transfers that began before an outage time out long after it."""
    old = [held(quick, Down) for _ in range(FAIL_MAX)]
    call(trip(quick))
    for each in old:
        each.release()
    assert (quick.state, changes) == ("closed", ["open", "half-open", "closed"])


def test_an_old_calls_success_does_not_forgive_new_failures(
    quick: Circuit, held: Callable[..., Held]
) -> None:
    old = held(quick)
    call(trip(quick))
    fail(quick, FAIL_MAX - 1)
    old.release()
    fail(quick)
    assert quick.state == "open"


# --- beside the calls ----------------------------------------------------------------------------


def test_it_can_be_opened_from_beside_once(circuit: Circuit, changes: Changes) -> None:
    circuit.trip()
    circuit.trip()
    with pytest.raises(Open):
        call(circuit)
    assert (circuit.state, changes) == ("open", ["open"])


def attempt(circuit: Circuit, is_there: Callable[[], bool | None]) -> None:
    with circuit.attempt((Down,), is_there):
        pass


def test_a_probe_beside_the_calls_decides(quick: Circuit, changes: Changes) -> None:
    trip(quick)
    for found, state in ((None, "half-open"), (False, "open")):
        with pytest.raises(Open) as caught:
            attempt(quick, lambda found=found: found)  # type: ignore[misc]
        assert (quick.state, caught.value.retry_after) == (state, 1)
    time.sleep(0.06)
    attempt(quick, lambda: True)
    assert changes == ["open", "half-open", "open", "half-open", "closed"]


def test_the_call_behind_a_good_probe_is_an_ordinary_one(quick: Circuit) -> None:
    trip(quick)
    with pytest.raises(Down), quick.attempt((Down,), lambda: True):
        raise Down
    assert quick.state == "closed"
    fail(quick, FAIL_MAX - 1)
    assert quick.state == "open"


def test_a_probe_that_raises_lets_the_next_one_probe(quick: Circuit) -> None:
    trip(quick)

    def raises() -> bool:
        raise Neutral

    with pytest.raises(Neutral):
        attempt(quick, raises)
    attempt(quick, lambda: True)
    assert quick.state == "closed"


def test_others_are_refused_while_a_probe_is_under_way(quick: Circuit) -> None:
    trip(quick)
    inside, go_on = threading.Event(), threading.Event()

    def is_there() -> bool:
        inside.set()
        return go_on.wait(WAIT_LIMIT)

    with ThreadPoolExecutor(1) as threads:
        probing = threads.submit(attempt, quick, is_there)
        assert inside.wait(WAIT_LIMIT)
        with pytest.raises(Open):
            attempt(quick, lambda: True)
        go_on.set()
        probing.result(WAIT_LIMIT)
    assert quick.state == "closed"


def test_what_hears_of_a_change_cannot_prevent_it() -> None:
    """pybreaker 1.4.1 stays in its old state where a listener raises, and passes that on."""

    def raises(name: str, state: str) -> None:
        raise OSError("no space left on device")

    circuit = Circuit("mlflow", FAIL_MAX, 0.05, raises)
    trip(circuit)
    attempt(circuit, lambda: True)
    assert circuit.state == "closed"
    circuit.trip()
    assert circuit.state == "open"
    circuit.reset()
    assert circuit.state == "closed"
