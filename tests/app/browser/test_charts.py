"""Numbers as lines that stay within their drawing."""

import re

import pytest

from app.browser.charts import HEIGHT, WIDTH, WINDOW, Chart, draw
from app.observability.samples import Point

NOW = 1_000_000.0


def points(*rates: float) -> list[Point]:
    count = len(rates)
    return [
        Point(NOW - 10 * (count - 1 - n), rate, min(1.0, rate / 100), rate / 100, rate / 10)
        for n, rate in enumerate(rates)
    ]


def spots(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+),([-\d.]+)", path)]


def test_every_spot_lies_in_the_drawing() -> None:
    for chart in draw(points(0, 3, 700, 0.001, 12), NOW):
        for line in chart.lines:
            assert len(spots(line.path)) == 5
            for x, y in spots(line.path):
                assert 0 <= x <= WIDTH
                assert 0 <= y <= HEIGHT


def test_the_newest_is_at_the_right_edge_and_the_highest_near_the_top() -> None:
    requests = draw(points(1, 50), NOW)[0]
    (_, low), (x, high) = spots(requests.lines[0].path)
    assert x == WIDTH
    assert high == 0
    assert low > high
    assert (requests.top, requests.lines[0].latest) == ("50", "50")


def test_what_is_older_than_the_window_is_not_drawn() -> None:
    old = Point(NOW - WINDOW - 1, 9, 0, 0.1, 0.2)
    assert draw([old], NOW)[0].lines[0].path == ""


def test_nothing_yet_is_drawn_as_nothing_and_said_so() -> None:
    charts = draw([], NOW)
    assert [line.path for chart in charts for line in chart.lines] == [""] * 4
    assert {line.latest for chart in charts for line in chart.lines} == {"–"}


def test_a_quiet_interval_leaves_no_latency_to_draw() -> None:
    quiet = Point(NOW, 0.0, 0.0, None, None)
    times = draw([*points(5), quiet], NOW)[2]
    assert len(spots(times.lines[0].path)) == 1
    assert times.lines[0].latest == "–"


def test_a_quiet_interval_parts_the_line() -> None:
    quiet = Point(NOW - 20, 0.0, 0.0, None, None)
    before, after = points(3, 4, 5, 6, 7)[:2], points(8, 9)
    times, rate = draw([*before, quiet, *after], NOW)[2], draw([*before, quiet, *after], NOW)[0]
    assert times.lines[0].path.count("M") == 2
    assert len(spots(times.lines[0].path)) == 4
    assert rate.lines[0].path.count("M") == 1


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.004, "4 ms"), (0.9996, "1.0 s"), (1.25, "1.2 s"), (9.96, "10 s"), (107, "107 s")],
)
def test_times_are_said_plainly(seconds: float, said: str) -> None:
    point = Point(NOW, 1.0, 0.0, seconds, seconds)
    assert draw([point], NOW)[2].lines[0].latest == said


def test_a_chart_is_told_in_words_too() -> None:
    summary = Chart("Requests", "10", draw(points(4), NOW)[0].lines).summary
    assert summary == "Requests, the last 15 minutes. Now: 4."
