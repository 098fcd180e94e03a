"""The rounds: contestants take turns, so that what disturbs the machine disturbs all of them."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from benchmarks.effort import Effort
from benchmarks.results import Results
from benchmarks.stage import Stage

#: Seconds between two lines where there is no terminal whose last line could be replaced.
QUIET = 10.0


class Named(Protocol):
    """Anything that has a name in the tables."""

    @property
    def name(self) -> str:
        """The contestant's name."""


C = TypeVar("C", bound=Named)


class Progress:
    """Tells on stderr what is going on: the present step in one line that is replaced."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._said = 0.0
        self._terminal = sys.stderr.isatty()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def at(self, step: str) -> None:
        """What is being done now."""
        if self._terminal:
            print(f"\r\x1b[K{self._stamp()} {step}", end="", file=sys.stderr, flush=True)
        elif self.seconds - self._said > QUIET:
            self.say(step)

    def say(self, line: str) -> None:
        """Something that stays."""
        self._said = self.seconds
        start = "\r\x1b[K" if self._terminal else ""
        print(f"{start}{self._stamp()} {line}", file=sys.stderr, flush=True)

    def _stamp(self) -> str:
        minutes, seconds = divmod(int(self.seconds), 60)
        return f"[{minutes:2d}:{seconds:02d}]"


@dataclass
class Bench:
    """What a part works with."""

    effort: Effort
    stage: Stage
    progress: Progress
    results: Results = field(default_factory=Results)

    def alternate(
        self,
        case: str,
        contestants: Sequence[C],
        rounds: int,
        measure: Callable[[C], Mapping[str, float]],
    ) -> None:
        """Measures all contestants so often, every other round in reverse order."""
        for number in range(rounds):
            for contestant in contestants if number % 2 == 0 else contestants[::-1]:
                self.progress.at(f"{case}: {contestant.name}, round {number + 1} of {rounds}")
                self.results.add(case, contestant.name, measure(contestant))

    def report(self, case: str, metric: str, unit: str) -> None:
        """Says the medians of a case that is done."""
        medians = [
            f"{name} {shown(self.results.median(case, name, metric))}"
            for name in self.results.contestants(case)
        ]
        self.progress.say(f"{case}: {', '.join(medians)} {unit}")


def shown(value: float | None) -> str:
    """A number with three figures, as tables show it; – where there is none."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
