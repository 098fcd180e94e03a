"""What was measured, and how it is shown: numbers, goals, and tables that are aligned Markdown."""

import operator
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Decimal places that are stored; more is noise.
DIGITS = 6

COMPARISONS = {"≤": operator.le, "≥": operator.ge, "<": operator.lt}

#: Share of error responses above which a comparison means nothing: errors are cheap.
ERRORS = 0.01


@dataclass
class Results:
    """The measurements of one part, in the form in which they are stored.

    `cases` is case → contestant → metric → {"rounds": values, "median": their median}; `notes` are
    sentences for the reader.
    """

    cases: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, case: str, contestant: str, metrics: Mapping[str, float]) -> None:
        """Store the values of one round."""
        measured = self.cases.setdefault(case, {}).setdefault(contestant, {})
        for metric, value in metrics.items():
            rounds = [*measured.get(metric, {}).get("rounds", []), round(value, DIGITS)]
            measured[metric] = {"rounds": rounds, "median": statistics.median(rounds)}

    def contestants(self, case: str) -> list[str]:
        return list(self.cases.get(case, {}))

    def median(self, case: str, contestant: str, metric: str) -> float | None:
        """The median of the rounds; None where nothing was measured."""
        measured = self.cases.get(case, {}).get(contestant, {})
        return measured[metric]["median"] if metric in measured else None

    def ratio(self, case: str, metric: str, one: str, other: str) -> float | None:
        """One contestant's median ÷ the other's; None where one is missing, zero or full of
        errors."""
        if any((self.median(case, name, "failed") or 0) > ERRORS for name in (one, other)):
            return None
        return divided(self.median(case, one, metric), self.median(case, other, metric))


def divided(one: float | None, other: float | None) -> float | None:
    """One ÷ other; None where one is missing or the other is zero."""
    return None if one is None or not other else one / other


def shown(value: float | None) -> str:
    """Three significant figures, as tables show it; – where there is none."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


@dataclass(frozen=True)
class Goal:
    """`measured` is compared with `target`; None if it could not be measured."""

    what: str
    sign: str
    target: float
    measured: float | None
    remark: str = ""

    @property
    def held(self) -> bool | None:
        """Whether the goal is reached; None if it could not be measured."""
        if self.measured is None:
            return None
        return bool(COMPARISONS[self.sign](self.measured, self.target))

    def row(self) -> Sequence[str]:
        """Its row in the table. Three decimal places: rounding must not decide."""
        what = f"{self.what} ({self.remark})" if self.remark else self.what
        measured = "–" if self.measured is None else f"{self.measured:.3f}"
        mark = {True: "✓", False: "✗", None: "–"}[self.held]
        return what, f"{self.sign} {self.target:g}", measured, mark


def table(caption: str, head: Sequence[str], rows: Mapping[str, Iterable[float | None]]) -> str:
    """A caption, a head, and rows of numbers by their names."""
    return _table(caption, [head, *([name, *map(shown, row)] for name, row in rows.items())])


def of_goals(goals: Iterable[Goal]) -> str:
    """The table of goals: what was measured, and whether each is reached."""
    rows = [("goal", "target", "measured", ""), *(goal.row() for goal in goals)]
    return _table("The goals:", rows)


def _table(caption: str, rows: Sequence[Sequence[str]]) -> str:
    """The first column is aligned left, the others right."""
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *lines = [
        f"| {' | '.join([row[0].ljust(first), *map(str.rjust, row[1:], others)])} |" for row in rows
    ]
    rule = [f":{'-' * (first + 1)}", *(f"{'-' * (width + 1)}:" for width in others)]
    return "\n".join((f"{caption}\n", head, f"|{'|'.join(rule)}|", *lines))
