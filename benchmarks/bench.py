"""What every part works with: how much to measure, a folder, servers, rounds and progress."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.machine import Description
from benchmarks.processes import MIB
from benchmarks.results import Goal, Results, shown
from devstack.server import Running

_began = time.monotonic()


@dataclass(frozen=True)
class Effort:
    """How much is measured, by default in full. Sizes are in bytes, times in seconds."""

    rounds: int = 3
    seconds: int = 1  # of one run of wrk
    # part a
    connections: tuple[int, ...] = (1, 8, 32)
    steps: int = 200  # of the SDK's loop
    # part b
    own_cost_rounds: int = 4
    own_cost_seconds: int = 2
    # part c
    sizes: tuple[int, ...] = (256 * MIB, 1024 * MIB)
    at_once: tuple[int, ...] = (1, 8)
    streams_at_once: int = 20
    # part d
    streams: tuple[int, ...] = (1, 10, 100, 500)
    keys: tuple[int, ...] = (10, 1_000, 100_000)
    key_seconds: int = 5  # a multiple of the 5 s after which a worker reads Redis again
    instances: tuple[int, ...] = (1, 2, 3)


#: Enough to see that it works; rough numbers.
QUICK = Effort(
    rounds=1,
    connections=(1, 8),
    steps=10,
    own_cost_rounds=1,
    own_cost_seconds=1,
    sizes=(32 * MIB, 64 * MIB),
    at_once=(1, 4),
    streams_at_once=5,
    streams=(1, 10, 50),
    keys=(10, 1_000),
    key_seconds=1,
    instances=(1, 2),
)


@dataclass(frozen=True)
class Bench:
    """`folder` is empty; the servers in `running` end when the part is over."""

    effort: Effort
    folder: Path
    running: Running
    results: Results = field(default_factory=Results)

    def alternate(
        self,
        case: str,
        contestants: Sequence[str],
        rounds: int,
        metric: str,
        measure: Callable[[str], Mapping[str, float]],
    ) -> None:
        """Measure all contestants in turns, so a disturbance of the machine affects them all;
        every other round in reverse order. Then print the medians of one metric."""
        for number in range(rounds):
            for name in contestants if number % 2 == 0 else reversed(contestants):
                say(f"{case}: {name}, round {number + 1} of {rounds}", end="")
                self.results.add(case, name, measure(name))
        medians = [
            f"{name} {shown(self.results.median(case, name, metric))}" for name in contestants
        ]
        say(f"{case}, {metric}: {', '.join(medians)}")


class Part(Protocol):
    """A module that is a part: how it measures, and what it shows. `goals` also gets the
    description of the machine of that run."""

    TITLE: str

    def measure(self, bench: Bench) -> None: ...

    def tables(self, results: Results) -> Iterator[str]: ...

    def goals(self, results: Results, machine: Description) -> Iterator[Goal]: ...


def seconds_so_far() -> float:
    """Seconds since the start of this program."""
    return time.monotonic() - _began


def say(text: str, end: str = "\n") -> None:
    """Print a line to stderr with the time so far. With an empty `end` it is a step: shown on a
    terminal only, until the next line replaces it."""
    terminal = sys.stderr.isatty()
    if end or terminal:
        minutes, seconds = divmod(int(seconds_so_far()), 60)
        clear = "\r\x1b[K" if terminal else ""
        stamp = f"{clear}[{minutes:2d}:{seconds:02d}]"
        print(stamp, text, end=end, file=sys.stderr, flush=True)
