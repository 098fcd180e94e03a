"""Part c: artifacts up and down, one and several at a time; and the memory that they take.

Once with a real MLflow, whose artifact routes set the pace, and once with an upstream that makes
bytes out of nothing and swallows them, where the proxy's own share shows.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.contestants import DIRECT, PROXY, Contestant, Ways, helpers, through
from benchmarks.machine import Description, core_count, need
from benchmarks.processes import MIB, peak, reset_peak
from benchmarks.results import Goal, Results, table
from benchmarks.servers import Helpers, this_proxy
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

    @property
    def bytes(self) -> int:
        """In all."""
        return self.size * self.count

    def target(self, number: int) -> str:
        """The path of one of the files."""
        if self.upstream == NOTHING and self.direction == DOWN:
            return f"{ARTIFACTS}/bytes/{self.size}"
        return f"{ARTIFACTS}/bench/{self.size}-{number}.bin"


def transfers(upstream: str, sizes: Sequence[int], at_once: Sequence[int]) -> list[Transfer]:
    """All combinations; what goes up is there to come down next."""
    return [
        Transfer(upstream, direction, size, count)
        for count in at_once
        for size in sizes
        for direction in (UP, DOWN)
    ]


def measure(bench: Bench) -> None:
    """Through a real MLflow, then through nothing, then many streams at once."""
    helped_by, effort = helpers(bench), bench.effort
    _measure_mlflow(bench, helped_by)
    ways = _ways(bench, "nothing", helped_by.auth.url, helped_by)
    for transfer in transfers(NOTHING, effort.sizes, effort.at_once):
        if transfer.bytes < HUGE:
            _alternate(bench, ways, transfer, effort.rounds)
    del ways[DIRECT]
    for direction in (DOWN, UP):
        streams = Transfer(NOTHING, direction, max(effort.sizes), effort.streams_at_once)
        _alternate(bench, ways, streams, rounds=1)


def _measure_mlflow(bench: Bench, helped_by: Helpers) -> None:
    mlflow = MLflow(bench.folder / "mlflow", options=())
    store = mlflow.artifacts
    bench.progress.say("starting MLflow; it takes a quarter of a minute")
    bench.start(mlflow)
    ways = _ways(bench, "mlflow", mlflow.url, helped_by)
    for transfer in transfers(MLFLOW, bench.effort.sizes, bench.effort.at_once):
        if _has_room(bench, store / "bench", transfer):
            rounds = 1 if transfer.bytes >= HUGE else bench.effort.rounds
            _alternate(bench, ways, transfer, rounds)
    mlflow.stop()


def _ways(bench: Bench, name: str, upstream: str, helped_by: Helpers) -> Ways:
    """Direct, and through the proxy."""
    proxy = this_proxy(bench.folder / f"proxy-{name}", upstream, helped_by, core_count())
    bench.start(proxy)
    return {DIRECT: Contestant(upstream), PROXY: through(proxy)}


def _alternate(bench: Bench, ways: Ways, transfer: Transfer, rounds: int) -> None:
    with tempfile.NamedTemporaryFile(dir=bench.folder) as source:
        source.truncate(transfer.size)  # a file of zeros that takes no place

        def one(way: Contestant) -> Mapping[str, float]:
            return _measured(way, transfer, source.name)

        bench.alternate(transfer.case, ways, rounds, one)
    bench.report(transfer.case, "mb_per_s", "MB/s")


def _measured(way: Contestant, transfer: Transfer, source: str) -> dict[str, float]:
    pids = way.pids()
    reset_peak(pids)
    before = peak(pids)
    found = {"mb_per_s": transfer.bytes / _seconds(way, transfer, source) / 1e6}
    if pids:
        highest = peak(pids)
        grown = max(0.0, highest - before)
        found |= {"peak_mib": highest, "growth_mib": grown}
        found["growth_mib_each"] = grown / transfer.count
    return found


def _seconds(way: Contestant, transfer: Transfer, source: str) -> float:
    """The seconds of the slowest of `count` curls that run side by side."""
    prints = "%{http_code} %{size_upload} %{size_download} %{time_total}"
    command = [need("curl"), "-s", "--noproxy", "*", "-o", "/dev/null", "-w", prints]
    for name, value in {**way.headers, "Expect": ""}.items():
        command += ["-H", f"{name}: {value}"]
    command += ["-T", source] if transfer.direction == UP else []
    targets = [way.url + transfer.target(number) for number in range(transfer.count)]
    curls = [
        subprocess.Popen([*command, one], stdout=subprocess.PIPE, text=True) for one in targets
    ]
    slowest = 0.0
    for curl in curls:
        status, up, down, seconds = curl.communicate()[0].split()
        if status != "200" or int(up if transfer.direction == UP else down) != transfer.size:
            raise RuntimeError(f"{transfer.case}, {way.url}: {status}, {up} up, {down} down")
        slowest = max(slowest, float(seconds))
    return slowest


def _has_room(bench: Bench, store: Path, transfer: Transfer) -> bool:
    """Whether the transfer fits. Before an upload, the files of the last one are removed."""
    skipped = bench.results.skipped
    if transfer.direction == UP:
        shutil.rmtree(store, ignore_errors=True)
        if 2 * transfer.bytes > shutil.disk_usage(bench.folder).free:
            for direction in (UP, DOWN):
                skipped[replace(transfer, direction=direction).case] = "not enough room"
    return transfer.case not in skipped


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
    pairs = [(case, case.partition(": ")) for case in results.cases]
    return [(case, name) for case, (first, _, name) in pairs if first == upstream]
