"""Slow is not dead: what makes a worker ask MLflow, and what opens the circuit."""

from collections.abc import Callable
from contextlib import suppress

import pytest

from app.request.errors import UpstreamReset, UpstreamTimeout
from app.upstream import liveness
from app.upstream.circuit import Circuit
from app.upstream.liveness import Liveness
from tests.upstreams import eventually


class Asked(list[bool | None]):
    """Stands for the question to MLflow: what it will answer, in turn; the last answer stays."""

    def __init__(self, *answers: bool | None) -> None:
        super().__init__(answers)
        self.times = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def __call__(self, timeout: float) -> bool | None:
        self.times += 1
        self.meanwhile()
        return self.pop(0) if len(self) > 1 else self[0]


@pytest.fixture
def circuit() -> Circuit:
    return Circuit("mlflow", 5, 60)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has to wait for long, and the thread does nothing by itself."""
    monkeypatch.setattr(liveness, "QUIET", 0.0)
    monkeypatch.setattr(Liveness, "_start", lambda self: None)


def time_out(alive: Liveness) -> None:
    with suppress(UpstreamTimeout), alive.waiting():
        raise UpstreamTimeout("slow")


def test_nobody_is_asked_while_nobody_waits(circuit: Circuit) -> None:
    asked = Asked(False)
    alive = Liveness(circuit, asked)
    alive.look()
    with alive.waiting():
        pass
    alive.look()
    assert (asked.times, circuit.state) == (0, "closed")


def test_silence_while_a_request_waits_opens_the_circuit(circuit: Circuit) -> None:
    asked = Asked(False)
    alive = Liveness(circuit, asked)
    with alive.waiting():
        alive.look()
    assert (asked.times, circuit.state) == (len(liveness.PROBES), "open")


def test_silence_after_a_time_out_does_too(circuit: Circuit) -> None:
    alive = Liveness(circuit, Asked(False))
    time_out(alive)
    alive.look()
    assert circuit.state == "open"


@pytest.mark.parametrize("answers", [(True,), (False, True), (None,), (False, None)])
def test_one_answer_is_enough_whatever_requests_do(
    circuit: Circuit, answers: tuple[bool | None, ...]
) -> None:
    """Nor does a connection that breaks count as silence: something broke it."""
    alive = Liveness(circuit, Asked(*answers))
    for _ in range(20):
        time_out(alive)
    with alive.waiting():
        alive.look()
    assert circuit.state == "closed"


def test_an_answer_to_anybody_meanwhile_is_enough(circuit: Circuit) -> None:
    asked = Asked(False)
    alive = Liveness(circuit, asked)

    def somebody_is_answered() -> None:
        with alive.waiting():
            pass

    asked.meanwhile = somebody_is_answered
    with alive.waiting():
        alive.look()
    assert (asked.times, circuit.state) == (1, "closed")


def test_a_time_out_beside_answers_asks_nobody(
    circuit: Circuit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "QUIET", 60.0)
    asked = Asked(False)
    alive = Liveness(circuit, asked)
    slow = alive.waiting()
    with suppress(UpstreamTimeout), slow:
        with alive.waiting():
            pass
        raise UpstreamTimeout("slow")
    alive.look()
    assert asked.times == 0


def test_a_failure_is_no_answer(circuit: Circuit) -> None:
    alive = Liveness(circuit, Asked(False))
    with alive.waiting():
        with suppress(UpstreamReset), alive.waiting():
            raise UpstreamReset("broken")
        alive.look()
    assert circuit.state == "open"


def test_an_open_circuit_asks_nobody(circuit: Circuit) -> None:
    asked = Asked(False)
    alive = Liveness(circuit, asked)
    circuit.trip()
    with alive.waiting():
        alive.look()
    assert asked.times == 0


def test_the_thread_goes_on_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(liveness, "INTERVAL", 0.01)
    circuit = Circuit("mlflow", 5, 60)
    asked = Asked(False)
    alive = Liveness(circuit, asked)

    def fails_at_first() -> None:
        if asked.times == 1:
            raise ZeroDivisionError

    asked.meanwhile = fails_at_first
    time_out(alive)
    eventually(lambda: circuit.state == "open", "the circuit's opening")
