"""Named steps, their report and the exit status: what all check programs share.

A step is a function that returns a short detail to show (or None), or raises `Failed` or
`Skipped`. `Steps` times it, prints a line for it, hides the key in every text, and counts.
"""

import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, field
from types import FrameType
from typing import Any, Literal, TextIO

from app.health.faults import fault

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

Status = Literal["passed", "failed", "skipped"]
#: A character and the terminal's code of its colour.
MARKS: dict[Status, tuple[str, str]] = {
    "passed": ("✓", "32"),
    "failed": ("✗", "31"),
    "skipped": ("-", "2"),
}
NAME_WIDTH = 46


@dataclass(eq=False)
class Failed(Exception):
    """A step failed: what happened, what to do about it, the id to look for in the proxy's log, and
    the code of the fault. Absent texts are ""."""

    message: str
    remedy: str = ""
    request_id: str = ""
    fault: str = ""

    @classmethod
    def of(cls, key: str, evidence: str = "", request_id: str = "", **values: object) -> "Failed":
        """A fault of the catalogue, by its key; `evidence` is what the step saw."""
        found = fault(key, **values)
        return cls(f"{found.message} {evidence}".strip(), found.remedy, request_id, found.code)


class Skipped(Exception):
    """A step that does not apply here; its text says why. It does not make the run fail."""


@dataclass(frozen=True)
class Result:
    """One finished step; `ms` is its duration in milliseconds, absent texts are ""."""

    name: str
    status: Status
    ms: float
    detail: str
    remedy: str
    request_id: str
    fault: str


def unexpected(error: Exception) -> Failed:
    """An unforeseen error: its type and its first line."""
    first_line = str(error).strip().split("\n")[0]
    return Failed(f"{type(error).__name__}: {first_line[:300]}", "Report this with its step.")


@dataclass
class Steps:
    """Runs steps one after the other and reports each at once.

    `title` and `facts` (values by label) are the heading. `redact` removes the key from a text.
    `as_json` prints one JSON document at the end and nothing before. `translate` is for exceptions
    that are neither `Failed` nor `Skipped`.
    """

    title: str
    facts: dict[str, str]
    redact: Callable[[str], str]
    as_json: bool = False
    translate: Callable[[Exception], Failed] = unexpected
    out: TextIO = field(default_factory=lambda: sys.stdout)
    interrupted: bool = False
    results: list[Result] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.out, io.TextIOWrapper):
            self.out.reconfigure(errors="replace")  # a terminal without ✓ must not end the run
        self._blocked: set[str] = set()
        self._last_remedy = ""
        self._started = time.perf_counter()
        self._colour = uses_colour(self.out, os.environ)
        lines = [f"  {label:<14}{value}" for label, value in self.facts.items()]
        self._say("\n".join((self.title, *lines, "")))

    def run(
        self,
        name: str,
        check: Callable[[], str | None],
        needs: str | tuple[str, ...] = (),
        always: bool = False,
    ) -> bool:
        """Runs one step; True if it passed. It is skipped if one of the steps that it `needs` did
        not run or failed, and after Ctrl-C unless it runs `always` (cleaning up)."""
        wanted = (needs,) if isinstance(needs, str) else needs
        missing = [step for step in wanted if step in self._blocked]
        if missing or (self.interrupted and not always):
            self._blocked.add(name)
            why = "interrupted" if self.interrupted else f"needs: {missing[0]}"
            return self._record(name, "skipped", 0.0, Failed(why))
        started = time.perf_counter()
        status, found = self._outcome(check)
        if status == "failed":
            self._blocked.add(name)
        ms = round((time.perf_counter() - started) * 1000, 1)
        return self._record(name, status, ms, found)

    def _outcome(self, check: Callable[[], str | None]) -> tuple[Status, Failed]:
        try:
            return "passed", Failed(check() or "")
        except Skipped as reason:
            return "skipped", Failed(str(reason))
        except Failed as failure:
            return "failed", failure
        except KeyboardInterrupt:
            self.interrupted = True
            return "failed", Failed("interrupted")
        except Exception as error:
            return "failed", self.translate(error)

    def finish(self) -> int:
        """Prints the summary (or the JSON document); returns the exit status."""
        took = time.perf_counter() - self._started
        statuses = [result.status for result in self.results]
        counts = {str(status): statuses.count(status) for status in MARKS}
        ok = not (counts["failed"] or self.interrupted)
        if self.as_json:
            facts = {label.lower().replace(" ", "_"): text for label, text in self.facts.items()}
            document: dict[str, Any] = {
                "title": self.title,
                **{name: self.redact(text) for name, text in facts.items()},
                "ok": ok,
                **counts,
                "seconds": round(took, 3),
                "faults": list(self.faults),
                "steps": [asdict(result) for result in self.results],
            }
            self._print(json.dumps(document, indent=2, ensure_ascii=False))
        if self.faults:
            self._say(f"\nfound: {', '.join(self.faults)}")
        summary = [f"{count} {status}" for status, count in counts.items() if count]
        self._say(f"\n{', '.join(summary)} in {took:.1f} s")
        return EXIT_OK if ok else EXIT_FAILED

    @property
    def faults(self) -> dict[str, Result]:
        """What is wrong, by code: for each fault the first step that showed it."""
        found: dict[str, Result] = {}
        for result in self.results:
            if result.fault:
                found.setdefault(result.fault, result)
        return found

    def _record(self, name: str, status: Status, ms: float, found: Failed) -> bool:
        result = Result(name, status, ms, *map(self.redact, astuple(found)))
        self.results.append(result)
        for line in self._lines(result):
            self._say(line)
        return result.status == "passed"

    def _lines(self, result: Result) -> list[str]:
        mark, colour = MARKS[result.status]
        mark = f"\x1b[{colour}m{mark}\x1b[0m" if self._colour else mark
        head = f"  {mark} {result.name:<{NAME_WIDTH}}"
        if result.status == "skipped":
            return [f"{head}{'':>11}  {result.detail}"]
        head += f"{result.ms:>8.1f} ms{f'  {result.fault}' if result.fault else ''}"
        if result.status == "passed":
            self._last_remedy = ""
            return [f"{head}  {result.detail}".rstrip()]
        remedy = "as above" if result.remedy == self._last_remedy else result.remedy
        self._last_remedy = result.remedy
        below = [result.detail, result.remedy and f"→ {remedy}"]
        below.append(result.request_id and f"request id: {result.request_id}")
        return [head, *(f"      {text}" for text in below if text)]

    def _say(self, line: str) -> None:
        if not self.as_json:
            self._print(self.redact(line))

    def _print(self, text: str) -> None:
        try:
            print(text, file=self.out, flush=True)
        except BrokenPipeError:  # `| head` has closed the pipe; cleaning up still has to run
            self.out = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
            os.dup2(self.out.fileno(), 1)


def uses_colour(out: TextIO, environ: Any) -> bool:
    """Colour only on a terminal, and not if NO_COLOR is set (see no-color.org)."""
    return out.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


@contextmanager
def interruptible(steps: Steps) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block and make the run a failed one. After the block, during
    cleaning up, the first signal is only noted; the second one ends that too."""
    to_ignore = 0

    def arrived(_number: int, _frame: FrameType | None) -> None:
        nonlocal to_ignore
        steps.interrupted = True  # remembered even if a library swallows the exception
        if not to_ignore:
            raise KeyboardInterrupt
        to_ignore -= 1

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, arrived)
    with suppress(KeyboardInterrupt):
        yield
    to_ignore = 1
