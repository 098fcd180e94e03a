"""Results that workers share: asked once, never waited for longer than the bound."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from app.health import results
from app.health.diagnosis import DEGRADED, HEALTHY, UNHEALTHY, Finding
from app.health.faults import fault
from app.health.results import Question, SharedResults
from app.state.instance_store import InstanceStore
from tests.upstreams import eventually

LONG = 60.0
WELL = Finding(HEALTHY, "all is well")
SILENCE = "nobody answers"


class Part:
    """Something that is asked; `count` is how often. While `frozen` it gives no answer."""

    def __init__(self) -> None:
        self.count = 0
        self.says = WELL
        self.thawed = threading.Event()
        self.thawed.set()
        self._guard = threading.Lock()

    def ask(self) -> Finding:
        """One question."""
        with self._guard:
            self.count += 1
        assert self.thawed.wait(LONG)
        return self.says


@pytest.fixture
def part() -> Iterator[Part]:
    """A part that is well; whoever still asks it at the end gets his answer."""
    made = Part()
    yield made
    made.thawed.set()
    asking = [thread for thread in threading.enumerate() if thread.name.startswith("ask-")]
    for thread in asking:
        thread.join(LONG)


Worker = Callable[..., SharedResults]


def broken() -> Finding:
    """A check with a defect."""
    raise TypeError("a defect")


@pytest.fixture
def worker(tmp_path: Path, part: Part) -> Worker:
    """One of the workers of an instance, as far as health goes."""

    def make(ttl: float = LONG, timeout: float = LONG) -> SharedResults:
        store = InstanceStore.at(tmp_path / "shared.db")
        questions = {
            "part": Question(part.ask, SILENCE),
            "other": Question(lambda: WELL, SILENCE),
            "broken": Question(broken, SILENCE),
        }
        return SharedResults(store, questions, ttl=ttl, timeout=timeout)

    return make


def test_probes_of_all_workers_ask_once(worker: Worker, part: Part) -> None:
    workers = [worker() for _ in range(4)]
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda n: workers[n % 4].of("part")["part"], range(200)))
    assert {check.message for check in found} == {WELL.message}
    assert part.count == 1


def test_it_is_asked_again_when_the_result_is_too_old(worker: Worker, part: Part) -> None:
    one, other = worker(ttl=0.05), worker(ttl=0.05)
    assert one.of("part")["part"].status == HEALTHY
    part.says = Finding(UNHEALTHY, "gone")
    eventually(lambda: other.of("part")["part"].message == "gone", "the news in one worker")
    eventually(lambda: one.of("part")["part"].message == "gone", "the news in the other one")


def test_a_part_that_hangs_makes_the_answer_no_later_than_the_bound(
    worker: Worker, part: Part
) -> None:
    part.thawed.clear()
    began = time.monotonic()
    found = worker(timeout=0.2).of("part", "other")
    assert 0.2 < time.monotonic() - began < 5
    assert (found["part"].status, found["part"].message) == (UNHEALTHY, SILENCE)
    assert found["other"].status == HEALTHY


def test_while_one_probe_asks_the_others_are_told_the_last_result(
    worker: Worker, part: Part
) -> None:
    one, other = worker(ttl=LONG), worker(ttl=0.0)
    assert one.of("part")["part"].status == HEALTHY
    part.thawed.clear()
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(other.of, "part")
        eventually(lambda: part.count == 2, "the question")
        for _ in range(100):
            assert other.of("part")["part"].status == HEALTHY
        assert not asking.done()
        part.thawed.set()
        assert asking.result(LONG)["part"].status == HEALTHY
    assert part.count == 2


def test_what_hung_is_found_well_again(worker: Worker, part: Part) -> None:
    asked = worker(ttl=0.05, timeout=0.1)
    part.thawed.clear()
    for _ in range(results.MOST_HANGING + 2):
        assert asked.of("part")["part"].status == UNHEALTHY
    assert part.count <= results.MOST_HANGING
    part.thawed.set()
    eventually(lambda: asked.of("part")["part"].status == HEALTHY, "the recovery")


def test_a_check_that_itself_fails_is_a_failed_check(worker: Worker) -> None:
    found = worker().of("broken")["broken"]
    assert (found.status, found.message) == (UNHEALTHY, str(fault("check.failed")))


def test_an_answer_that_took_most_of_its_time_is_not_healthy(tmp_path: Path) -> None:
    taken = threading.Event()

    def slowly() -> Finding:
        taken.wait(0.3)
        return WELL

    questions = {"part": Question(slowly, SILENCE)}
    found = SharedResults(InstanceStore.at(tmp_path / "db"), questions, ttl=LONG, timeout=0.35).of(
        "part"
    )["part"]
    assert found.status in (DEGRADED, UNHEALTHY)
    assert found.message in (str(fault("check.slow", message=WELL.message)), SILENCE)


def test_without_a_file_a_worker_is_alone_and_answers(part: Part) -> None:
    alone = SharedResults(
        InstanceStore.at(None), {"part": Question(part.ask, SILENCE)}, ttl=LONG, timeout=LONG
    )
    assert alone.of("part") == alone.of("part")
    assert part.count == 1


def test_each_change_is_logged_once(
    worker: Worker, part: Part, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = worker(ttl=0.0), worker(ttl=0.0)

    def finds(asked: SharedResults, says: Finding) -> bool:
        return asked.of("part")["part"].message == says.message

    with caplog.at_level("INFO", "hokusai.health"):
        for says in (WELL, Finding(UNHEALTHY, "gone", "10.0.0.1"), WELL):
            part.says = says
            for asked in (one, other):
                eventually(partial(finds, asked, says), "it")
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [("WARNING", "part: gone"), ("INFO", "part: all is well")]
    assert vars(caplog.records[0])["fields"] == {
        "check": "part",
        "status": UNHEALTHY,
        "was": HEALTHY,
        "detail": "10.0.0.1",
    }


# --- one after the other -------------------------------------------------------------------------


def test_questions_of_a_line_are_asked_in_order_and_not_at_once(tmp_path: Path) -> None:
    under_way: list[str] = []
    order: list[str] = []

    def question(name: str) -> Question:
        def ask() -> Finding:
            assert under_way == []
            under_way.append(name)
            order.append(name)
            threading.Event().wait(0.02)
            under_way.remove(name)
            return WELL

        return Question(ask, SILENCE, line="mlflow")

    questions = {name: question(name) for name in "abcd"}
    found = SharedResults(InstanceStore.at(tmp_path / "db"), questions, ttl=LONG, timeout=LONG).of(
        *"abcd"
    )
    assert {check.message for check in found.values()} == {WELL.message}
    assert order == list("abcd")


def test_whose_turn_does_not_come_in_time_is_not_called_silent(tmp_path: Path, part: Part) -> None:
    questions = {
        "first": Question(part.ask, SILENCE, line="mlflow"),
        "second": Question(lambda: WELL, SILENCE, line="mlflow"),
    }
    asked = SharedResults(InstanceStore.at(tmp_path / "db"), questions, ttl=LONG, timeout=0.1)
    part.thawed.clear()
    found = asked.of("first", "second")
    assert (found["first"].status, found["first"].message) == (UNHEALTHY, SILENCE)
    assert (found["second"].status, found["second"].message) == (DEGRADED, results.WAITING.message)
    part.thawed.set()
    eventually(lambda: asked.of("second")["second"].status == HEALTHY, "its turn")
