"""What a drill reports: one row of the table, and the same as JSON."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

COLUMNS = ("drill", "fault", "load", "what the clients saw", "recovery", "held")


@dataclass(frozen=True)
class Row:
    """One result. `recovery` is in seconds from the end of the fault to the first answer that was
    as it should be, None where there is nothing to recover from. `facts` says of each promise, by
    its name, whether it was kept."""

    drill: str
    fault: str
    load: str
    saw: str
    recovery: float | None
    facts: dict[str, bool]
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether every promise was kept."""
        return all(self.facts.values())

    def line(self) -> str:
        """The row in Markdown."""
        recovery = "–" if self.recovery is None else f"{self.recovery:.1f} s"
        broken = "; ".join(name for name, is_kept in self.facts.items() if not is_kept)
        held = f"**NO**: not {broken}" if broken else "yes"
        return (
            "| " + " | ".join((self.drill, self.fault, self.load, self.saw, recovery, held)) + " |"
        )

    def as_json(self) -> dict[str, Any]:
        """The row as an object."""
        return asdict(self) | {"held": self.held}


def kept(*promises: str) -> dict[str, bool]:
    """The facts of a row that held, for a test that names them."""
    return dict.fromkeys(promises, True)


def table(rows: Iterable[Row]) -> str:
    """All rows in Markdown."""
    head = ("| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS))
    return "\n".join((*head, *(row.line() for row in rows)))


def counted(statuses: Iterable[int]) -> str:
    """How often each status came: "980 × 200, 20 × 502"; 0 is a connection that broke."""
    counts = sorted(Counter(statuses).items())
    return ", ".join(f"{count:,} × {status or 'broken off'}" for status, count in counts) or "none"


def median_ms(seconds: Sequence[float]) -> float:
    """The median, in milliseconds; 0 where there is none."""
    return round(statistics.median(seconds) * 1000, 2) if seconds else 0.0


def p99_ms(seconds: Sequence[float]) -> float:
    """What 99% stay under, in milliseconds; 0 where there is none."""
    ordered = sorted(seconds)
    return round(ordered[max(0, -(-len(ordered) * 99 // 100) - 1)] * 1000, 2) if ordered else 0.0
