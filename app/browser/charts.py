"""Small line charts as numbers for an SVG: paths, and the labels of their axes."""

import math
from collections.abc import Callable, Mapping, Sequence
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


Values = Sequence[float | None]


def draw(points: Sequence[Point], now: float) -> tuple[Chart, ...]:
    """The charts of the status page; `now` (epoch seconds) is their right edge."""
    seen = [point for point in points if point.at > now - WINDOW]
    xs = [WIDTH * (1 - (now - point.at) / WINDOW) for point in seen]
    times = {"median": [p.median for p in seen], "95th percentile": [p.slowest for p in seen]}
    return (
        _chart("Requests a second", xs, {"": [p.rate for p in seen]}, 1.0, _plain),
        _chart("Failed requests", xs, {"": [p.failed for p in seen]}, 0.05, _percent),
        _chart("Time to answer", xs, times, 0.05, _duration),
    )


def _chart(
    title: str,
    xs: Sequence[float],
    lines: Mapping[str, Values],
    least_top: float,
    say: Callable[[float], str],
) -> Chart:
    known = [value for values in lines.values() for value in values if value is not None]
    top = _round_up(max([least_top, *known]))
    drawn = tuple(_line(name, xs, values, top, say) for name, values in lines.items())
    return Chart(title, say(top), drawn)


def _line(
    name: str, xs: Sequence[float], values: Values, top: float, say: Callable[[float], str]
) -> Line:
    points = zip(xs, values, strict=True)
    parts = [
        [(x, HEIGHT * (1 - value / top)) for x, value in part if value is not None]
        for is_known, part in groupby(points, lambda point: point[1] is not None)
        if is_known
    ]
    areas = [[(part[0][0], HEIGHT), *part, (part[-1][0], HEIGHT)] for part in parts]
    latest = values[-1] if values else None
    return Line(name, "–" if latest is None else say(latest), _path(parts), _path(areas))


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
