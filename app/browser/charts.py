"""Small line charts as numbers for an SVG: paths, and the labels of their axes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from app.observability.samples import INTERVAL, KEPT, Point

#: The drawing's own units; it scales with the page.
WIDTH, HEIGHT = 600.0, 140.0

#: Seconds that a chart shows.
WINDOW = INTERVAL * (KEPT - 1)


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its name, its last value as text, and its path, "" without values."""

    name: str
    latest: str
    path: str
    area: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart: its title, the highest value of its axis as text, and its lines."""

    title: str
    top: str
    lines: tuple[Line, ...]

    @property
    def summary(self) -> str:
        """The chart as text, for screen readers."""
        latest = ", ".join(f"{line.name} {line.latest}".strip() for line in self.lines)
        return f"{self.title}, the last {WINDOW / 60:.0f} minutes. Now: {latest}."


Value = Callable[[Point], float | None]


def draw(points: Sequence[Point], now: float) -> tuple[Chart, ...]:
    """The charts of the status page; `now` (epoch seconds) is their right edge."""
    return (
        _chart("Requests a second", points, now, 1.0, _plain, [("", lambda p: p.rate)]),
        _chart("Failed requests", points, now, 0.05, _percent, [("", lambda p: p.failed)]),
        _chart(
            "Time to answer",
            points,
            now,
            0.05,
            _duration,
            [("median", lambda p: p.median), ("95th percentile", lambda p: p.slowest)],
        ),
    )


def _chart(
    title: str,
    points: Sequence[Point],
    now: float,
    least_top: float,
    say: Callable[[float], str],
    lines: Sequence[tuple[str, Value]],
) -> Chart:
    seen = [p for p in points if p.at > now - WINDOW]
    values = [v for _, of in lines for p in seen if (v := of(p)) is not None]
    top = _round_up(max([least_top, *values]))
    return Chart(title, say(top), tuple(_line(name, of, seen, now, top, say) for name, of in lines))


def _line(
    name: str, of: Value, points: Sequence[Point], now: float, top: float, say: Callable[..., str]
) -> Line:
    values = [(WIDTH * (1 - (now - p.at) / WINDOW), of(p)) for p in points]
    parts = [
        [(x, HEIGHT * (1 - value / top)) for x, value in part if value is not None]
        for is_known, part in groupby(values, lambda each: each[1] is not None)
        if is_known
    ]
    areas = [[(part[0][0], HEIGHT), *part, (part[-1][0], HEIGHT)] for part in parts]
    latest = values[-1][1] if values else None
    said = "–" if latest is None else say(latest)
    return Line(name, said, _path(parts), _path(areas))


def _path(parts: Sequence[Sequence[tuple[float, float]]]) -> str:
    """Lines through these points, one for each part; a part of one point is a dot."""
    lines = ("M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in part) for part in parts)
    return " ".join(line if "L" in line else f"{line} h0" for line in lines)


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999)


def _plain(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _percent(value: float) -> str:
    return f"{value * 100:.2g} %" if value < 0.995 else "100 %"


def _duration(seconds: float) -> str:
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
