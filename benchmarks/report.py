"""A run as a whole: as JSON for machines, as text for people; several runs merged by part.

Each part was measured in one run, side by side, on the machine that it names; another part may be
from another run.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import artifacts, growth, machine, mlflow_calls, own_cost
from benchmarks.bench import Part
from benchmarks.machine import Description
from benchmarks.results import Goal, Results

#: Of the stored form.
VERSION = 1

PARTS: dict[str, Part] = {
    "a": mlflow_calls,
    "b": own_cost,
    "c": artifacts,
    "d": growth,
}


@dataclass(frozen=True)
class Measured:
    """What was measured of a part: when (a date), for how long, and whether roughly."""

    name: str
    when: str
    seconds: float
    quick: bool
    machine: Description
    results: Results

    @property
    def part(self) -> Part:
        """Which part."""
        return PARTS[self.name]

    @property
    def goals(self) -> list[Goal]:
        """The goals of the part, by these results."""
        return list(self.part.goals(self.results, self.machine))

    def as_json(self) -> dict[str, Any]:
        """The stored form, with the goals worked out."""
        about = {"title": self.part.TITLE, "when": self.when, "seconds": round(self.seconds)}
        about |= {"quick": self.quick, "machine": dict(self.machine)}
        goals = [asdict(goal) | {"held": goal.held} for goal in self.goals]
        return about | {"goals": goals} | asdict(self.results)

    def text(self) -> str:
        """The tables, and what a reader must know about them."""
        title = f"{self.name}. {self.part.TITLE[0].upper()}{self.part.TITLE[1:]}"
        remarks = "\n".join(f"- {remark}" for remark in self._remarks())
        return "\n\n".join((title, *self.part.tables(self.results), remarks))

    def _remarks(self) -> Iterator[str]:
        """Where and when, what was left out, what failed."""
        rough = "; **a quick run: rough numbers**" if self.quick else ""
        if machine.is_busy(self.machine):
            load = self.machine["load_before"]
            rough += f"; **the machine was busy (load {load}): rough numbers**"
        yield f"{self.when}, {self.seconds:.0f} s; {machine.sentence(self.machine)}{rough}."
        yield from (f"{note[0].upper()}{note[1:]}." for note in self.results.notes)
        yield from (f"Left out: {who}: {why}." for who, why in self.results.skipped.items())
        for case in self.results.cases:
            for name in self.results.contestants(case):
                if share := self.results.median(case, name, "failed"):
                    yield f"{case}, {name}: {share:.1%} of the responses were errors."


Report = dict[str, Measured]


def read(file: Path) -> Report:
    """The parts that a file holds; none if there is no file, or one of another version."""
    stored = json.loads(file.read_text("utf-8")) if file.exists() else {}
    if stored.get("version") != VERSION:
        return {}
    report = {}
    for name, kept in stored["parts"].items():
        about = {field: kept[field] for field in ("when", "seconds", "quick", "machine")}
        results = Results(kept["skipped"], kept["notes"], kept["cases"])
        report[name] = Measured(name, **about, results=results)
    return report


def write(report: Report, file: Path) -> None:
    """Write the parts, in place of what was there."""
    parts = {name: report[name].as_json() for name in sorted(report)}
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"version": VERSION, "parts": parts}, indent=1, ensure_ascii=False)
    file.write_text(text + "\n", "utf-8")


def goals(report: Report) -> list[Goal]:
    """The goals of all parts that are there."""
    return [goal for name in sorted(report) for goal in report[name].goals]
