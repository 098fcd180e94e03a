"""wrk sends the load: runs of it, and what it counted."""

import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    """What wrk counted. `failed` are responses of 400 and more, timeouts, broken connections."""

    requests: int
    seconds: float
    failed: int
    p50_ms: float
    p99_ms: float

    def metrics(self) -> dict[str, float]:
        """For the tables; without times where no request was answered."""
        if not self.requests:
            return {"rps": 0.0}
        times = {"p50_ms": self.p50_ms, "p99_ms": self.p99_ms}
        return {"rps": self.requests / self.seconds, "failed": self.failed / self.requests} | times


def run(load: Load, seconds: int) -> Outcome:
    """One run to its end."""
    return outcome(start(load, seconds))


def start(load: Load, seconds: int) -> subprocess.Popen[str]:
    """Begin a run."""
    # Microseconds: no two runs send the same number, and MLflow keeps each (key, step) once.
    first = str(time.time_ns() // 1000)
    options = ["-t", "1", "-c", str(load.connections), "-d", f"{seconds}s", "--timeout", "60s"]
    fields = [f"{name}: {value}" for name, value in load.headers.items()]
    sent = ["POST" if load.body else "GET", load.body, str(load.keys), first, *fields]
    command = [need("wrk"), *options, "-s", str(SCRIPT), load.url, "--", *sent]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def outcome(process: subprocess.Popen[str]) -> Outcome:
    """The result of a run, at its end; raises RuntimeError with wrk's output if there is none."""
    try:
        text = process.communicate()[0]
    finally:
        process.kill()  # after Ctrl-C
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"wrk gave no result:\n{text.strip()}")
    counted = json.loads(lines[-1])
    return Outcome(
        requests=counted["requests"],
        seconds=counted["microseconds"] / 1e6,
        failed=counted["failed"],
        p50_ms=counted["p50"] / 1000,
        p99_ms=counted["p99"] / 1000,
    )
