"""Part c: artifacts up and down, one and several at a time; and the memory that they take.

Once with a real MLflow, whose artifact routes set the pace, and once with an upstream that makes
bytes out of nothing and swallows them, where the proxy's own share shows.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks.bench import Bench, say
from benchmarks.contestants import DIRECT, PROXY, Contest, Contestant, Ways
from benchmarks.machine import Description, core_count, need
from benchmarks.processes import MIB, peak, reset_peak
from benchmarks.results import Goal, Results, table
from devstack.mlflow import MLflow

TITLE = "artifacts"

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
MLFLOW, NOTHING = "MLflow", "an upstream out of nothing"
UP, DOWN = "up", "down"

#: Bytes in all from which a transfer is made once: it varies less, and takes its time.
HUGE = 4096 * MIB


@dataclass(frozen=True)
class Transfer:
    """`count` files of `size` bytes at once, up to an upstream or down from it."""

    upstream: str
    direction: str
    size: int
    count: int

    @property
    def case(self) -> str:
        """Its name in the results."""
        return f"{self.upstream}: {self.count} × {self.size // MIB:,} MiB {self.direction}"

    def target(self, number: int) -> str:
        """The path of one of the files."""
        if self.upstream == NOTHING and self.direction == DOWN:
            return f"{ARTIFACTS}/bytes/{self.size}"
        return f"{ARTIFACTS}/bench/{self.size}-{number}.bin"


def measure(bench: Bench) -> None:
    """Through a real MLflow, then through nothing, then many streams at once."""
    contest, effort = Contest(bench), bench.effort
    say("starting MLflow; it takes a quarter of a minute")
    mlflow = bench.running.start(MLflow(bench.folder / "mlflow", options=()))
    ways = contest.ways(mlflow.url, (DIRECT, PROXY), workers=core_count())
    for count, size in product(effort.at_once, effort.sizes):
        if _make_room(bench, mlflow.artifacts / "bench", count * size):
            _compare(bench, ways, Transfer(MLFLOW, UP, size, count))
            _compare(bench, ways, Transfer(MLFLOW, DOWN, size, count))
    mlflow.stop()
    ways = contest.ways(contest.fake.url, (DIRECT, PROXY), workers=core_count())
    for count, size, direction in product(effort.at_once, effort.sizes, (UP, DOWN)):
        _compare(bench, ways, Transfer(NOTHING, direction, size, count))
    for direction in (DOWN, UP):
        streams = Transfer(NOTHING, direction, max(effort.sizes), effort.streams_at_once)
        _compare(bench, {PROXY: ways[PROXY]}, streams)


def _make_room(bench: Bench, store: Path, size: int) -> bool:
    """Remove the files of the last upload; return whether `size` bytes fit, with a temporary copy
    of them."""
    shutil.rmtree(store, ignore_errors=True)
    if fits := 2 * size <= shutil.disk_usage(bench.folder).free:
        return fits
    bench.results.notes.append(f"left out: {size // MIB:,} MiB: not enough room on the disk")
    return False


def _compare(bench: Bench, ways: Ways, transfer: Transfer) -> None:
    with tempfile.NamedTemporaryFile(dir=bench.folder) as source:
        source.truncate(transfer.size)  # a file of zeros that takes no room

        def one(name: str) -> Mapping[str, float]:
            return _measured(ways[name], transfer, source.name)

        rounds = 1 if transfer.size * transfer.count >= HUGE else bench.effort.rounds
        bench.alternate(transfer.case, list(ways), rounds, "mb_per_s", one)


def _measured(way: Contestant, transfer: Transfer, source: str) -> dict[str, float]:
    pids = way.pids()
    reset_peak(pids)
    before = peak(pids)
    megabytes = transfer.size * transfer.count / 1e6
    speed = {"mb_per_s": megabytes / _seconds(way, transfer, source)}
    if not pids:
        return speed
    grown = max(0.0, peak(pids) - before)
    return speed | {"peak_mib": peak(pids), "growth_mib_each": grown / transfer.count}


def _seconds(way: Contestant, transfer: Transfer, source: str) -> float:
    """The seconds of the slowest of `count` curls that run side by side."""
    prints = "%{http_code} %{size_upload} %{size_download} %{time_total}"
    command = [need("curl"), "-s", "--noproxy", "*", "-o", "/dev/null", "-w", prints]
    for name, value in {**way.headers, "Expect": ""}.items():
        command += ["-H", f"{name}: {value}"]
    command += ["-T", source] if transfer.direction == UP else []
    curls = [
        subprocess.Popen(
            [*command, way.url + transfer.target(number)], stdout=subprocess.PIPE, text=True
        )
        for number in range(transfer.count)
    ]
    slowest = 0.0
    for curl in curls:
        status, up, down, seconds = curl.communicate()[0].split()
        if status != "200" or int(up if transfer.direction == UP else down) != transfer.size:
            raise RuntimeError(f"{transfer.case}, {way.url}: {status}, {up} up, {down} down")
        slowest = max(slowest, float(seconds))
    return slowest


# --- tables and goals ----------------------------------------------------------------------------


def tables(results: Results) -> Iterator[str]:
    """One table an upstream."""
    head = ["", "direct", "this proxy", "proxy ÷ direct", "MiB more a stream", "MiB at most"]
    for upstream in (MLFLOW, NOTHING):
        rows = {
            name: (
                results.median(case, DIRECT, "mb_per_s"),
                results.median(case, PROXY, "mb_per_s"),
                results.ratio(case, "mb_per_s", PROXY, DIRECT),
                results.median(case, PROXY, "growth_mib_each"),
                results.median(case, PROXY, "peak_mib"),
            )
            for case, name in _cases(results, upstream)
        }
        yield table(f"Artifacts, MB/s; {upstream}:", head, rows)


def goals(results: Results, machine: Description) -> Iterator[Goal]:
    """No slower than direct, in bounded memory."""
    for case, _ in _cases(results, MLFLOW):
        ratio = results.ratio(case, "mb_per_s", PROXY, DIRECT)
        yield Goal(f"{case} ÷ direct", "≥", 0.95, ratio)
    for case, name in _cases(results, NOTHING):
        if DIRECT not in results.contestants(case):
            grown = results.median(case, PROXY, "growth_mib_each")
            yield Goal(f"{name}: memory, MiB a stream", "<", 2.0, grown)


def _cases(results: Results, upstream: str) -> list[tuple[str, str]]:
    """The cases of an upstream, each with its name in the table."""
    start = f"{upstream}: "
    return [(c, c.removeprefix(start)) for c in results.cases if c.startswith(start)]
