"""The benchmarks' arithmetic: medians, ratios, goals; and that the page tells what was measured."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.contestants import DIRECT, PROXY
from benchmarks.growth import allowed
from benchmarks.mlflow_calls import worst
from benchmarks.report import PARTS, Measured
from benchmarks.results import Goal, Results

MACHINE: dict[str, Any] = {"cores": 2, "load_before": 0.1}


def results(**contestants: list[float]) -> Results:
    """One case, one metric, some rounds for each contestant."""
    made = Results()
    for name, values in contestants.items():
        for value in values:
            made.add("case", name, {"ms": value})
    return made


def test_a_ratio_is_that_of_the_medians() -> None:
    made = results(ours=[1, 2, 90], theirs=[4, 4, 4])
    assert made.ratio("case", "ms", "ours", "theirs") == 0.5


@pytest.mark.parametrize("other", [{}, {"theirs": [0.0]}])
def test_there_is_no_ratio_to_nothing(other: dict[str, list[float]]) -> None:
    assert results(ours=[1.0], **other).ratio("case", "ms", "ours", "theirs") is None


def test_errors_are_not_compared_with_answers() -> None:
    made = results(ours=[1.0], theirs=[2.0])
    made.add("case", "theirs", {"failed": 0.02})
    assert made.ratio("case", "ms", "ours", "theirs") is None


def test_what_is_written_for_machines_is_read_again(tmp_path: Path) -> None:
    made = results(ours=[1, 2], theirs=[3])
    made.notes = ["a note"]
    run = {"b": Measured("b", "2026-11-21", 87, False, MACHINE, made)}
    report.write(run, tmp_path / "run.json")
    assert report.read(tmp_path / "run.json") == run


@pytest.mark.parametrize(
    ("sign", "measured", "held"),
    [
        ("≤", 1.0, True),
        ("≤", 1.001, False),
        ("≥", 1.0, True),
        ("≥", 0.999, False),
        ("<", 1.0, False),
        ("<", 0.999, True),
        ("≤", None, None),
    ],
)
def test_a_goal_is_held_or_not_or_unknown(
    sign: str, measured: float | None, held: bool | None
) -> None:
    assert Goal("a goal", sign, 1.0, measured).held is held


def test_the_worst_of_several_is_the_largest() -> None:
    assert worst([("a", 0.5), ("b", None), ("c", 1.5)]) == ("c", 1.5)
    assert worst([("b", None)]) is None


def test_instances_are_bounded_by_the_cores() -> None:
    assert allowed(rps_of_one=1, everything_us=1, instances=3, cores=2) == 3
    assert allowed(rps_of_one=1, everything_us=1e6, instances=3, cores=2) == 2


@pytest.mark.parametrize("part", sorted(PARTS))
def test_what_was_not_measured_reaches_no_goal(part: str) -> None:
    assert not any(goal.held for goal in PARTS[part].goals(Results(), MACHINE))


def test_the_page_tells_what_the_published_run_measured() -> None:
    published = report.read(report.DATA)
    assert sorted(published) == sorted(PARTS), "all four parts"
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.with_tables(page, published) == page
    assert report.PICTURE.read_bytes().startswith(b"\x89PNG")


def test_the_published_run_was_a_full_one_and_faster_through_the_proxy() -> None:
    published = report.read(report.DATA)
    assert not any(part.quick for part in published.values())
    calls = published["a"].results
    case = "experiments/search × 1"
    ratio = calls.ratio(case, "p50_ms", PROXY, DIRECT)
    assert ratio is not None
    assert ratio < 1
