"""A run as a whole: for machines in JSON, for people as text; several runs merged by part.

Each part was measured in one run, side by side, on the machine that it names; another part may be
from another run.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import artifacts, growth, machine, mlflow_calls, own_cost, tables
from benchmarks.goals import GOALS, Goal
from benchmarks.results import Results

#: Of the stored form.
VERSION = 1

TITLES = {
    "a": mlflow_calls.TITLE,
    "b": own_cost.TITLE,
    "c": artifacts.TITLE,
    "d": growth.TITLE,
}


@dataclass(frozen=True)
class Part:
    """One part of a run. `when` is a date, `seconds` how long it took, `quick` whether it was a
    rough one."""

    when: str
    seconds: float
    quick: bool
    machine: Mapping[str, object]
    results: Results

    def as_json(self, name: str) -> dict[str, Any]:
        """For machines, with the goals worked out."""
        told = {"title": TITLES[name], "when": self.when, "seconds": round(self.seconds)}
        told |= {"quick": self.quick, "machine": dict(self.machine)}
        goals = [goal.as_json() for goal in GOALS[name](self.results)]
        return told | {"goals": goals} | self.results.as_json()


Report = dict[str, Part]


def read(file: Path) -> Report:
    """The parts that a file holds; none if there is no file, or one of another version."""
    if not file.exists():
        return {}
    stored = json.loads(file.read_text(encoding="utf-8"))
    if stored.get("version") != VERSION:
        return {}
    return {
        name: Part(
            told["when"],
            told["seconds"],
            told["quick"],
            told["machine"],
            Results.from_json(told),
        )
        for name, told in stored["parts"].items()
    }


def write(report: Report, file: Path) -> None:
    """Writes the parts, in place of what was there."""
    parts = {name: report[name].as_json(name) for name in sorted(report)}
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"version": VERSION, "parts": parts}, indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def goals(report: Report) -> list[Goal]:
    """The goals of all parts that are there."""
    return [goal for name in sorted(report) for goal in GOALS[name](report[name].results)]


def text_of(name: str, part: Part, heading: str = "") -> str:
    """A part's tables, and what is to be known of them."""
    title = TITLES[name]
    lines = [f"{heading}{name}. {title[0].upper()}{title[1:]}", ""]
    for table in tables.TABLES[name](part.results):
        lines += [str(table), ""]
    lines += [f"- {remark}" for remark in remarks(part)]
    return "\n".join(lines)


def remarks(part: Part) -> Iterator[str]:
    """Where and when, what was left out, what failed."""
    rough = "; **a quick run: rough numbers**" if part.quick else ""
    if machine.is_busy(part.machine):
        rough += f"; **the machine was busy (load {part.machine['load_before']}): rough numbers**"
    yield f"{part.when}, {part.seconds:.0f} s; {machine.sentence(part.machine)}{rough}."
    yield from (f"{note[0].upper()}{note[1:]}." for note in part.results.notes)
    for who, why in part.results.skipped.items():
        yield f"Left out: {who}: {why}."
    yield from _failures(part.results)


def _failures(results: Results) -> Iterator[str]:
    """Answers that were errors count as answers; so it has to be said."""
    for case in results.cases():
        for name in results.contestants(case):
            if share := results.median(case, name, "failed"):
                yield f"{case}, {name}: {share:.1%} of the answers were errors."
