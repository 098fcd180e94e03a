"""The tables, in Markdown that is aligned, so that it reads well in a terminal too."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks import artifacts, growth, mlflow_calls, own_cost
from benchmarks.contestants import DIRECT, EXPLAINED, PEERS, PROXY
from benchmarks.goals import Goal
from benchmarks.results import Results
from benchmarks.rounds import shown

#: All contestants, in the order of the columns.
ORDER = (DIRECT, PROXY, *PEERS)


@dataclass(frozen=True)
class Table:
    """A caption and rows; the first row is the head."""

    caption: str
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        head, *rest = [_line(row, widths) for row in self.rows]
        rule = "|" + "|".join(
            [f":{'-' * (widths[0] + 1)}"] + [f"{'-' * (w + 1)}:" for w in widths[1:]]
        )
        return "\n".join((f"{self.caption}\n", head, f"{rule}|", *rest))


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(row, widths, strict=True)
    cells = [f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)]
    return f"| {' | '.join(cells)} |"


def of_goals(goals: Iterable[Goal]) -> Table:
    """Each goal, what was measured, and whether it is reached."""
    rows = [("goal", "target", "measured", "")]
    for goal in goals:
        target = f"{goal.sign} {goal.target:g}"
        what = f"{goal.what} ({goal.remark})" if goal.remark else goal.what
        rows.append((what, target, precisely(goal.measured), goal.mark))
    return Table("The goals:", rows)


def precisely(value: float | None) -> str:
    """A ratio, with as many figures as it takes to compare it with its target."""
    return "–" if value is None else f"{value:.3f}"


# --- a -------------------------------------------------------------------------------------------


def of_mlflow(results: Results) -> Iterator[Table]:
    """Times, rates, and the SDK's loop."""
    cases = [case for case in results.cases() if case != mlflow_calls.SDK_LOOP]
    names = _present(results, cases)
    yield _matrix(
        results, "Median time of a call, ms; calls × connections:", cases, "p50_ms", names
    )
    yield _matrix(results, "Requests per second:", cases, "rps", names, higher_is_better=True)
    loops = [mlflow_calls.SDK_LOOP]
    yield _matrix(results, "The SDK's training loop, s:", loops, "seconds", names)


def _matrix(
    results: Results,
    caption: str,
    cases: Sequence[str],
    metric: str,
    names: Sequence[str],
    higher_is_better: bool = False,
) -> Table:
    """A row a case, a column a contestant, and the proxy beside the direct way."""
    rows = [["", *names, "proxy ÷ direct"]]
    for case in cases:
        cells = [shown(results.median(case, name, metric)) for name in names]
        rows.append([case, *cells, shown(results.ratio(case, metric, PROXY, DIRECT))])
    better = "more is better" if higher_is_better else "less is better"
    return Table(f"{caption.removesuffix(':')} ({better}):", rows)


def _present(results: Results, cases: Iterable[str]) -> list[str]:
    measured = {name for case in cases for name in results.contestants(case)}
    return [name for name in ORDER if name in measured]


# --- b -------------------------------------------------------------------------------------------


def of_own_cost(results: Results) -> Iterator[Table]:
    """One row a contestant."""
    alone, busy = own_cost.ALONE, own_cost.BUSY
    columns: list[tuple[str, Callable[[str], str]]] = [
        ("CPU µs a request", lambda name: shown(results.median(busy, name, "cpu_us"))),
        ("÷ this proxy", lambda name: shown(results.ratio(busy, "cpu_us", name, PROXY))),
        ("requests/s, one core", lambda name: shown(results.median(busy, name, "rps"))),
        ("of its core", lambda name: shown(results.median(busy, name, "cores"))),
        ("Redis µs", lambda name: shown(results.median(busy, name, "redis_us"))),
        ("p50 ms, 1 conn.", lambda name: shown(results.median(alone, name, "p50_ms"))),
        ("p99 ms, 1 conn.", lambda name: shown(results.median(alone, name, "p99_ms"))),
        ("p99 ms, 16 conn.", lambda name: shown(results.median(busy, name, "p99_ms"))),
        ("MiB", lambda name: shown(results.median(busy, name, "memory_mib"))),
    ]
    rows = [["one worker, everything on", *(title for title, _ in columns)]]
    for name in _present(results, [busy]):
        rows.append([name, *(cell(name) for _, cell in columns)])
    yield Table("A small request, in front of an upstream that costs nothing:", rows)


# --- c -------------------------------------------------------------------------------------------


def of_artifacts(results: Results) -> Iterator[Table]:
    """One table an upstream."""
    for upstream in (artifacts.MLFLOW, artifacts.NOTHING):
        rows = [["", "direct", "this proxy", "proxy ÷ direct", "MiB more a stream", "MiB at most"]]
        for case in results.cases():
            if case.startswith(f"{upstream}: "):
                rows.append([case.partition(": ")[2], *_transfer(results, case)])
        yield Table(f"Artifacts, MB/s; {upstream}:", rows)


def _transfer(results: Results, case: str) -> Iterator[str]:
    for name in (DIRECT, PROXY):
        yield shown(results.median(case, name, "mb_per_s"))
    yield shown(results.ratio(case, "mb_per_s", PROXY, DIRECT))
    yield shown(results.median(case, PROXY, "growth_mib_each"))
    yield shown(results.median(case, PROXY, "peak_mib"))


# --- d -------------------------------------------------------------------------------------------


def of_growth(results: Results) -> Iterator[Table]:
    """Streams, keys, instances."""
    yield _growth(
        results,
        growth.STREAMS,
        "Open streams, 80 KiB/s each; one worker:",
        {
            "CPU ms a second, each": "cpu_ms_each",
            "MiB more": "memory_mib",
            "each": "memory_mib_each",
        },
    )
    yield _growth(
        results,
        growth.KEYS,
        "Known keys, requests spread over them; one worker:",
        {"CPU µs a request": "cpu_us", "Redis µs": "redis_us", "requests/s": "rps"}
        | {"Redis bytes an entry": "redis_bytes_an_entry"},
    )
    yield _growth(
        results,
        growth.INSTANCES,
        "Instances of one worker, with all that loads them on the same cores:",
        {"requests/s": "rps", "CPU µs a request": "cpu_us", "with all else": "everything_us"},
        "rps",
    )


def _growth(
    results: Results, case: str, caption: str, metrics: dict[str, str], compared: str = ""
) -> Table:
    rows = [[case, *metrics, *(["× one"] if compared else [])]]
    names = sorted(results.contestants(case), key=lambda name: int(name.replace(",", "")))
    for name in names:
        row = [name, *(shown(results.median(case, name, metric)) for metric in metrics.values())]
        if compared:
            row.append(shown(results.ratio(case, compared, name, names[0])))
        rows.append(row)
    return Table(caption, rows)


#: By part.
TABLES: dict[str, Callable[[Results], Iterable[Table]]] = {
    "a": of_mlflow,
    "b": of_own_cost,
    "c": of_artifacts,
    "d": of_growth,
}


def legend() -> str:
    """Who is who."""
    return "\n".join(f"- **{name}**: {what}" for name, what in EXPLAINED.items())
