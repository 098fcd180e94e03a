"""wrk sends the load: runs of it, and what it counted."""

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.machine import need

SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True)
class Load:
    """What is sent: a GET, or a POST if there is a body. An `@` in the body becomes a number that
    grows with each request; with `keys`, each request takes the next of so many keys."""

    url: str
    connections: int = 1
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    keys: int = 0


@dataclass(frozen=True)
class Outcome:
    """What wrk counted. `rps` is requests per second; `failed` the share of them that met a
    response of 400 and more, a timeout or a broken connection."""

    requests: int
    rps: float
    failed: float
    p50_ms: float
    p99_ms: float

    def metrics(self) -> dict[str, float]:
        """For the tables; without times where no request was answered."""
        return asdict(self) if self.requests else {"rps": 0.0}


def run(load: Load, seconds: int) -> Outcome:
    """One run to its end."""
    return run_all([load], seconds)


def run_all(loads: Sequence[Load], seconds: int) -> Outcome:
    """Runs side by side to their ends: requests and rates added, of the others the worst."""
    processes = [start(load, seconds) for load in loads]
    outcomes = [_outcome(process) for process in processes]
    return Outcome(
        requests=sum(each.requests for each in outcomes),
        rps=sum(each.rps for each in outcomes),
        failed=max(each.failed for each in outcomes),
        p50_ms=max(each.p50_ms for each in outcomes),
        p99_ms=max(each.p99_ms for each in outcomes),
    )


def start(load: Load, seconds: int) -> subprocess.Popen[str]:
    """Begin a run."""
    # Microseconds: no two runs send the same number, and MLflow keeps each (key, step) once.
    first = str(time.time_ns() // 1000)
    options = ["-t", "1", "-c", str(load.connections), "-d", f"{seconds}s", "--timeout", "60s"]
    fields = [f"{name}: {value}" for name, value in load.headers.items()]
    sent = ["POST" if load.body else "GET", load.body, str(load.keys), first, *fields]
    command = [need("wrk"), *options, "-s", str(SCRIPT), load.url, "--", *sent]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _outcome(process: subprocess.Popen[str]) -> Outcome:
    """The result of a run, at its end; raises RuntimeError with wrk's output if there is none."""
    try:
        text = process.communicate()[0]
    finally:
        process.kill()  # after Ctrl-C
    found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    if not found:
        raise RuntimeError(f"wrk gave no result:\n{text.strip()}")
    return Outcome(**found[-1])
