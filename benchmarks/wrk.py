"""wrk does the load: one run of it, and what it says."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import tools
from benchmarks.cores import Cores, on_cores

SCRIPT = Path(__file__).with_name("load.lua")

#: Longer than any run; the end comes by SIGINT, since wrk itself knows whole seconds only.
UNTIL_STOPPED = "3600s"


@dataclass(frozen=True)
class Load:
    """What is sent. An `@` in the body grows with each request; `fields` are header lines; with
    `keys`, each request shows the next of so many keys."""

    url: str
    connections: int = 1
    method: str = "GET"
    body: str = ""
    fields: tuple[str, ...] = ()
    keys: int = 0


@dataclass(frozen=True)
class Outcome:
    """What wrk counted. `failed` are answers of 400 and more, time-outs and broken connections."""

    requests: int
    seconds: float
    transferred: int
    failed: int
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    def metrics(self) -> dict[str, float]:
        """What a table wants of it; no times where no request came to its end."""
        if not self.requests:
            return {"rps": 0.0}
        times = {"p50_ms": self.p50_ms, "p99_ms": self.p99_ms}
        return {"rps": self.per_second, "failed": self.failed / self.requests} | times


def run(load: Load, seconds: float, cores: Cores = None) -> Outcome:
    """One run of so many seconds."""
    with running(load, cores) as outcome:
        time.sleep(seconds)
        return outcome()


@contextmanager
def running(load: Load, cores: Cores = None) -> Iterator[Callable[[], Outcome]]:
    """A run that lasts until the outcome is asked for."""
    process = subprocess.Popen(
        on_cores(_command(load), cores), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )

    def outcome() -> Outcome:
        process.send_signal(signal.SIGINT)
        return parse(process.communicate(timeout=60)[0])

    try:
        _wait_until_begun(process)
        yield outcome
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _wait_until_begun(process: subprocess.Popen[str]) -> None:
    """Returns when wrk sends: then it catches SIGINT, which before would end it without a word."""
    folder = Path(f"/proc/{process.pid}")
    while process.poll() is None:
        caught = re.search(r"^SigCgt:\s*(\w+)$", (folder / "status").read_text(), re.MULTILINE)
        is_wrk = (folder / "comm").read_text().strip() == "wrk"
        if is_wrk and caught and int(caught[1], 16) >> (signal.SIGINT - 1) & 1:
            return
        time.sleep(0.002)


def _command(load: Load) -> list[str]:
    options = ["-t", "1", "-c", str(load.connections), "-d", UNTIL_STOPPED, "--timeout", "60s"]
    # Microseconds: no two runs send the same count, and MLflow keeps each (key, step) once.
    first = str(time.time_ns() // 1000)
    sent = [load.method, load.body, str(load.keys), first, *load.fields]
    return [tools.need("wrk"), *options, "-s", str(SCRIPT), load.url, "--", *sent]


def parse(said: str) -> Outcome:
    """Reads what wrk printed; RuntimeError, with its text, where that holds no result."""
    lines = [line for line in said.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"wrk gave no result:\n{said.strip()}")
    told = json.loads(lines[-1])
    return Outcome(
        requests=told["requests"],
        seconds=told["microseconds"] / 1e6,
        transferred=told["bytes"],
        failed=told["failed"],
        p50_ms=told["p50"] / 1000,
        p99_ms=told["p99"] / 1000,
    )
