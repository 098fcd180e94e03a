"""What every part works with: how much to measure, a folder, servers, rounds and progress."""

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from benchmarks.machine import Description, on_cores
from benchmarks.processes import MIB
from benchmarks.results import Goal, Results, shown
from devstack.server import Server

C = TypeVar("C")


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
    key_seconds: int = 5  # a multiple of the 5 s after which a worker looks into Redis again
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


class Progress:
    """Lines on stderr; on a terminal the present step too, in a last line that is replaced."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._clear = "\r\x1b[K" if sys.stderr.isatty() else ""

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def at(self, step: str) -> None:
        """Show the present step, on a terminal."""
        if self._clear:
            self._print(step, end="")

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._print(line, end="\n")

    def _print(self, text: str, end: str) -> None:
        minutes, seconds = divmod(int(self.seconds), 60)
        stamp = f"{self._clear}[{minutes:2d}:{seconds:02d}]"
        print(stamp, text, end=end, file=sys.stderr, flush=True)


@dataclass
class Bench:
    """`folder` is empty; `ends` runs when the part is over, and stops its servers."""

    effort: Effort
    folder: Path
    ends: ExitStack
    progress: Progress
    results: Results = field(default_factory=Results)

    def start(self, *servers: Server, cores: Collection[int] | None = None) -> None:
        """Start servers side by side, on these cores, and wait until all are ready."""
        with on_cores(cores):
            for server in servers:
                server.start()
                self.ends.callback(server.stop)
        for server in servers:
            server.wait_until_ready()

    def alternate(
        self,
        case: str,
        contestants: Mapping[str, C],
        rounds: int,
        measure: Callable[[C], Mapping[str, float]],
    ) -> None:
        """Measure all contestants in turns, so that what disturbs the machine disturbs them all;
        every other round in reverse order."""
        for number in range(rounds):
            order = list(contestants.items())
            for name, contestant in order if number % 2 == 0 else reversed(order):
                self.progress.at(f"{case}: {name}, round {number + 1} of {rounds}")
                self.results.add(case, name, measure(contestant))

    def report(self, case: str, metric: str, unit: str) -> None:
        """Print the medians of a case that is done."""
        medians = [
            f"{name} {shown(self.results.median(case, name, metric))}"
            for name in self.results.contestants(case)
        ]
        self.progress.say(f"{case}: {', '.join(medians)} {unit}")


class Part(Protocol):
    """A module that is a part: how it measures, and what it shows. `goals` looks at the machine of
    that run too."""

    TITLE: str

    def measure(self, bench: Bench) -> None: ...

    def tables(self, results: Results) -> Iterator[str]: ...

    def goals(self, results: Results, machine: Description) -> Iterator[Goal]: ...
