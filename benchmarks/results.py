"""What was measured: values by case, contestant and metric, one for each round."""

import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

#: Numbers after the point that are kept; more is noise.
DIGITS = 6


#: Share of errors among the answers from which a comparison means nothing.
ERRORS = 0.01


class Results:
    """The values of one part. `skipped` tells what was left out, and why; `notes` what to know."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, dict[str, list[float]]]] = {}
        self.skipped: dict[str, str] = {}
        self.notes: list[str] = []

    def add(self, case: str, contestant: str, metrics: Mapping[str, float]) -> None:
        """One round's values."""
        of_contestant = self._values.setdefault(case, {}).setdefault(contestant, {})
        for metric, value in metrics.items():
            of_contestant.setdefault(metric, []).append(round(value, DIGITS))

    def cases(self) -> Iterator[str]:
        """All cases, in the order in which they were measured."""
        yield from self._values

    def contestants(self, case: str) -> list[str]:
        """Who was measured in a case."""
        return list(self._values.get(case, {}))

    def values(self, case: str, contestant: str, metric: str) -> list[float]:
        """The value of each round; none where nothing was measured."""
        return self._values.get(case, {}).get(contestant, {}).get(metric, [])

    def median(self, case: str, contestant: str, metric: str) -> float | None:
        """The median of the rounds; None where nothing was measured."""
        values = self.values(case, contestant, metric)
        return statistics.median(values) if values else None

    def ratio(self, case: str, metric: str, one: str, other: str) -> float | None:
        """One contestant's median ÷ the other's; None where one of them is missing or zero, or
        answered with errors, which cost less than answers."""
        if any((self.median(case, name, "failed") or 0) > ERRORS for name in (one, other)):
            return None
        return divided(self.median(case, one, metric), self.median(case, other, metric))

    def as_json(self) -> dict[str, Any]:
        """All of it, for machines: each metric with its rounds and their median."""
        cases = {
            case: {
                contestant: {
                    metric: {"rounds": values, "median": statistics.median(values)}
                    for metric, values in metrics.items()
                }
                for contestant, metrics in contestants.items()
            }
            for case, contestants in self._values.items()
        }
        return {"skipped": self.skipped, "notes": self.notes, "cases": cases}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Results":
        """What `as_json` wrote."""
        results = cls()
        results.skipped, results.notes = dict(stored["skipped"]), list(stored["notes"])
        for case, contestants in stored["cases"].items():
            for contestant, metrics in contestants.items():
                of_contestant = results._values.setdefault(case, {}).setdefault(contestant, {})
                of_contestant |= {name: list(told["rounds"]) for name, told in metrics.items()}
        return results


def divided(one: float | None, other: float | None) -> float | None:
    """One ÷ other; None where one of them is missing, or the other zero."""
    return None if one is None or not other else one / other


def worst(ratios: Iterable[tuple[str, float | None]]) -> tuple[str, float] | None:
    """The largest of the named ratios that are there, with its name."""
    known = [(name, ratio) for name, ratio in ratios if ratio is not None]
    return max(known, key=lambda pair: pair[1]) if known else None
