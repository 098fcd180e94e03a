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
from pathlib import Path

from benchmarks import machine, report
from benchmarks.bench import QUICK, Bench, Effort, say, seconds_so_far
from benchmarks.report import PARTS, Measured
from devstack.environments import BASIC_AUTH_SERVER, BENCH, MLFLOW_SERVER, ROOT, ensure
from devstack.server import Running, ServerFailed

#: What parts need besides the environments that run the proxy and its peers.
ENVIRONMENTS = {"a": (MLFLOW_SERVER, BASIC_AUTH_SERVER), "c": (MLFLOW_SERVER,)}

#: Failures that end a part but not the others.
FAILURES = (machine.Missing, ServerFailed, RuntimeError, OSError, subprocess.SubprocessError)

LATEST = ROOT / "benchmarks" / "results" / "latest.json"

#: The caller's variables that the servers get: no settings, credentials or proxies.
KEPT = {"HOME", "LANG", "LC_ALL", "PATH", "TERM", "TMPDIR", "TZ"}


def main() -> int:
    """Measure, print, write; return the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it stops the servers, as Ctrl-C
    if options.use:
        measured = report.read(options.use)
        for name in sorted(measured):
            print(f"{measured[name].text()}\n")
    else:
        measured = _measure(options)
        report.write(measured, LATEST)
        report.draw(LATEST)
    if measured:
        print(f"\n{report.goals_and_legend(measured)}", flush=True)
    if options.publish:
        report.publish(measured)
        say("docs/performance.md, .json and .png are refreshed")
    return 0 if options.use or len(measured) == len(options.only) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench ARGS=…",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="a,b", default=",".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="a minute or two, rough numbers")
    parser.add_argument("--publish", action="store_true", help="refresh docs/performance.*")
    parser.add_argument("--use", metavar="FILE", type=Path, help="print these, measure nothing")
    options = parser.parse_args()
    options.only = sorted(set(options.only.split(",")))
    if unknown := [name for name in options.only if name not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}")
    if options.publish and options.quick:
        parser.error("a quick run is too rough to be published")
    return options


def _measure(options: argparse.Namespace) -> report.Report:
    """The parts that could be measured. Why another could not is printed."""
    machine.install_missing(say)
    ensure(BENCH, *(each for name in options.only for each in ENVIRONMENTS.get(name, ())))
    for name in set(os.environ) - KEPT:
        del os.environ[name]
    description = machine.describe()
    say(machine.sentence(description))
    if machine.is_busy(description):
        say(f"the machine is busy (load {description['load_before']}): rough numbers")
    measured: report.Report = {}
    for name in options.only:
        say(f"part {name}: {PARTS[name].TITLE}")
        try:
            measured[name] = _measure_part(name, options.quick, description)
            print(f"\n{measured[name].text()}\n", flush=True)
        except FAILURES as why:
            say(f"part {name} could not be measured: {why}")
    return measured


def _measure_part(name: str, quick: bool, description: machine.Description) -> Measured:
    began, today = seconds_so_far(), datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    with tempfile.TemporaryDirectory(prefix="hokusai-bench-") as folder, Running() as running:
        bench = Bench(QUICK if quick else Effort(), Path(folder), running)
        PARTS[name].measure(bench)
    return Measured(name, today, seconds_so_far() - began, quick, description, bench.results)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
