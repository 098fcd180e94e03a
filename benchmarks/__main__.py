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
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import machine, report
from benchmarks.bench import QUICK, Bench, Effort, Progress
from benchmarks.contestants import legend
from benchmarks.publish import draw, publish
from benchmarks.report import PARTS, Measured, Report
from benchmarks.results import of_goals
from devstack.environments import BASIC_AUTH_SERVER, BENCH, MLFLOW_SERVER, ROOT, ensure
from devstack.server import ServerFailed

#: What parts need beside the environments that run the proxy, and its peers.
ENVIRONMENTS = {"a": (MLFLOW_SERVER, BASIC_AUTH_SERVER), "c": (MLFLOW_SERVER,)}

#: What can go wrong in a part on some machine without ending the others; a defect is not here.
FAILURES = (machine.Missing, ServerFailed, RuntimeError, OSError, subprocess.SubprocessError)

LATEST = ROOT / "benchmarks" / "results" / "latest.json"

#: The caller's variables that the servers get: no settings, credentials or proxies.
KEPT = {"HOME", "LANG", "LC_ALL", "PATH", "TERM", "TMPDIR", "TZ"}


def main() -> int:
    """Measure, print, write; return the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it stops the servers, as Ctrl-C
    progress = Progress()
    if options.use:
        measured = report.read(options.use)
        for name in sorted(measured):
            print(f"{measured[name].text()}\n")
    else:
        machine.install_missing(progress.say)
        ensure(BENCH, *(each for name in options.only for each in ENVIRONMENTS.get(name, ())))
        measured = _measure(options, progress)
        report.write(report.read(LATEST) | measured, LATEST)
        draw(LATEST, LATEST.with_suffix(".png"))
    if measured:
        print(f"\n{of_goals(report.goals(measured))}\n\n{legend()}", flush=True)
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
    options = parser.parse_args()
    if options.publish and options.quick:
        parser.error("a quick run is too rough to be published")
    return options


def _parts(text: str) -> list[str]:
    names = set(text.split(","))
    if unknown := names - PARTS.keys():
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(sorted(unknown))}")
    return sorted(names)


def _measure(options: argparse.Namespace, progress: Progress) -> Report:
    """The parts that could be measured. Why another could not is printed."""
    for name in set(os.environ) - KEPT:
        del os.environ[name]
    description = machine.describe()
    progress.say(machine.sentence(description))
    if machine.is_busy(description):
        progress.say(f"the machine is busy (load {description['load_before']}): rough numbers")
    measured: Report = {}
    for name in options.only:
        progress.say(f"part {name}: {PARTS[name].TITLE}")
        try:
            measured[name] = _measure_part(name, options.quick, description, progress)
        except FAILURES as why:
            progress.say(f"part {name} could not be measured: {why}")
            continue
        print(f"\n{measured[name].text()}\n", flush=True)
    return measured


def _measure_part(
    name: str, quick: bool, description: machine.Description, progress: Progress
) -> Measured:
    began = progress.seconds
    with ExitStack() as ends:
        folder = ends.enter_context(tempfile.TemporaryDirectory(prefix="hokusai-bench-"))
        bench = Bench(QUICK if quick else Effort(), Path(folder), ends, progress)
        PARTS[name].measure(bench)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    seconds = progress.seconds - began
    return Measured(name, today, seconds, quick, description, bench.results)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
