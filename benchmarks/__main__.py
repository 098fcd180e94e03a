"""`make bench`: the comparisons, each side by side in one run; then the tables and the goals.

    python -m benchmarks                        # all parts, about fifteen minutes
    python -m benchmarks --only b --quick       # some of them, roughly
    python -m benchmarks --publish              # and refresh docs/performance.*

    a  a real MLflow: directly, through this proxy, through its peers
    b  the proxy's own cost, beside its peers
    c  artifacts up and down
    d  growth: streams, keys, instances

Exit status 1 when a part could not be measured; a goal that is missed is not a failure.
"""

import argparse
import datetime
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from benchmarks import (
    artifacts,
    growth,
    machine,
    mlflow_calls,
    own_cost,
    report,
    tables,
    tools,
)
from benchmarks.effort import FULL, QUICK
from benchmarks.publish import draw, publish
from benchmarks.report import Part, Report
from benchmarks.rounds import Bench, Progress
from benchmarks.stage import stage
from devstack.environments import (
    BASIC_AUTH_SERVER,
    BENCH,
    MLFLOW_SERVER,
    ROOT,
    Environment,
    ensure,
    is_whole,
)
from devstack.server import ServerFailed

PARTS: dict[str, Callable[[Bench], None]] = {
    "a": mlflow_calls.measure,
    "b": own_cost.measure,
    "c": artifacts.measure,
    "d": growth.measure,
}

#: What each part needs beside the development environment.
ENVIRONMENTS: dict[str, tuple[Environment, ...]] = {
    "a": (MLFLOW_SERVER, BENCH, BASIC_AUTH_SERVER),
    "b": (BENCH,),
    "c": (MLFLOW_SERVER,),
    "d": (),
}

#: What can go wrong in a part on some machine, and lets the others go on; a defect does not.
FAILURES = (tools.Missing, ServerFailed, RuntimeError, OSError, subprocess.SubprocessError)

LATEST = ROOT / "benchmarks" / "results" / "latest.json"

#: Of the caller's environment, what the servers get: no settings, credentials or proxies of theirs.
KEPT = {"HOME", "LANG", "LC_ALL", "PATH", "TERM", "TMPDIR", "TZ"}


def main() -> int:
    """Measures, tells, writes; returns the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, _end)
    progress = Progress()
    if options.use:
        measured = report.read(options.use)
        for name in sorted(measured):
            print(f"{report.text_of(name, measured[name])}\n")
    else:
        _prepare(options, progress)
        measured = _measured(options, progress)
    _tell(measured)
    if not options.use:
        report.write(report.read(options.results) | measured, options.results)
        if is_whole(BENCH):
            draw(options.results, options.results.with_suffix(".png"))
    if options.publish:
        publish(measured)
        progress.say("docs/performance.md, .json and .png are refreshed")
    return 0 if options.use or len(measured) == len(options.only) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench ARGS=…",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="a,b", type=_parts, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="a minute or two, rough numbers")
    parser.add_argument("--publish", action="store_true", help="refresh docs/performance.*")
    parser.add_argument("--use", metavar="FILE", type=Path, help="print these, measure nothing")
    parser.add_argument("--results", metavar="FILE", type=Path, default=LATEST)
    parser.add_argument(
        "--no-install", action="store_true", help="leave out what is not installed already"
    )
    options = parser.parse_args()
    if options.publish and options.quick:
        parser.error("a quick run is too rough to be published")
    return options


def _parts(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - PARTS.keys():
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(sorted(unknown))}")
    return sorted(set(names))


def _prepare(options: argparse.Namespace, progress: Progress) -> None:
    """Programs and environments; then an environment in which nothing of the caller's counts."""
    if not options.no_install:
        tools.install_missing(progress.say)
        needed = [each for part in options.only for each in ENVIRONMENTS[part]]
        ensure(*dict.fromkeys(needed))
    for name in set(os.environ) - KEPT:
        del os.environ[name]


def _measured(options: argparse.Namespace, progress: Progress) -> Report:
    """The parts that could be measured; why another could not is said."""
    described = machine.describe()
    progress.say(machine.sentence(described))
    if machine.is_busy(described):
        progress.say(f"the machine is busy (load {described['load_before']}): rough numbers")
    measured: Report = {}
    for name in options.only:
        progress.say(f"part {name}: {report.TITLES[name]}")
        try:
            measured[name] = _part(name, options.quick, described, progress)
        except FAILURES as why:
            progress.say(f"part {name} could not be measured: {why}")
            continue
        print(f"\n{report.text_of(name, measured[name])}\n", flush=True)
    return measured


def _part(name: str, quick: bool, described: dict[str, object], progress: Progress) -> Part:
    began = progress.seconds
    with stage(progress.at) as its_stage:
        bench = Bench(QUICK if quick else FULL, its_stage, progress)
        PARTS[name](bench)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    return Part(today, progress.seconds - began, quick, described, bench.results)


def _tell(measured: Report) -> None:
    """The goals of all parts together."""
    if measured:
        print(f"\n{tables.of_goals(report.goals(measured))}\n\n{tables.legend()}", flush=True)


def _end(signum: int, frame: FrameType | None) -> None:
    """SIGTERM ends the servers too, as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
