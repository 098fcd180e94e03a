"""Part c: artifacts up and down, one and several at a time; and what they take of memory.

Once with a real MLflow, whose artifact routes set the pace, and once with an upstream that makes
bytes out of nothing and swallows them, where the proxy's own share shows.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from benchmarks import tools
from benchmarks.contestants import DIRECT, PROXY, Contestant, Helpers, helpers, through
from benchmarks.machine import core_count
from benchmarks.meter import MIB, peak, reset_peak, resident
from benchmarks.rounds import Bench
from benchmarks.servers import StockMLflow, this_proxy

TITLE = "artifacts"

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
MLFLOW, NOTHING = "MLflow", "an upstream out of nothing"
UP, DOWN = "up", "down"

#: Bytes in all from which a transfer is repeated less often, and from which it is made once.
LARGE, HUGE = 2048 * MIB, 4096 * MIB

#: Linux's memory as files; artifacts go there where there is room, so that no disk sets the pace.
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Transfer:
    """`count` files of `size` bytes at once, "up" or "down"."""

    direction: str
    size: int
    count: int

    @property
    def name(self) -> str:
        """As it stands in the tables."""
        return f"{self.count} × {self.size // MIB:,} MiB {self.direction}"

    @property
    def bytes(self) -> int:
        """In all."""
        return self.size * self.count


def case_of(upstream: str, transfer: Transfer) -> str:
    """A case's name."""
    return f"{upstream}: {transfer.name}"


def transfers(sizes: Sequence[int], at_once: Sequence[int]) -> Iterator[Transfer]:
    """All combinations; what goes up is there to come down next."""
    for count in at_once:
        for size in sizes:
            yield Transfer(UP, size, count)
            yield Transfer(DOWN, size, count)


def streams_at_once(count: int, size: int) -> tuple[Transfer, Transfer]:
    """The transfers in which a stream's memory is looked at."""
    return Transfer(DOWN, size, count), Transfer(UP, size, count)


def measure(bench: Bench) -> None:
    """Through a real MLflow, then through nothing, then many streams at once."""
    tools.need("curl")
    help_from = helpers(bench.stage)
    _with_mlflow(bench, help_from)
    effort = bench.effort
    ways = _ways(bench, "nothing", help_from.fake.url, help_from)
    for transfer in transfers(effort.sizes, effort.at_once):
        if transfer.bytes < HUGE:
            _alternate(bench, NOTHING, ways, transfer, _rounds(bench, transfer))
    through_proxy = [way for way in ways if way.name == PROXY]
    for transfer in streams_at_once(effort.streams_at_once, max(effort.sizes)):
        _alternate(bench, NOTHING, through_proxy, transfer, rounds=1)


def _with_mlflow(bench: Bench, help_from: Helpers) -> None:
    with _store(bench) as store:
        settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # starts in half the time
        mlflow = StockMLflow(bench.stage.folder / "mlflow", store, settings)
        bench.progress.say("starting MLflow; it takes a quarter of a minute")
        bench.stage.start(mlflow)
        ways = _ways(bench, "mlflow", mlflow.url, help_from)
        for transfer in transfers(bench.effort.sizes, bench.effort.at_once):
            if _has_room(bench, store, transfer):
                _alternate(bench, MLFLOW, ways, transfer, _rounds(bench, transfer))
        mlflow.stop()


def _rounds(bench: Bench, transfer: Transfer) -> int:
    """Long transfers vary less, and take their time."""
    if transfer.bytes >= HUGE:
        return 1
    return min(2, bench.effort.rounds) if transfer.bytes >= LARGE else bench.effort.rounds


def _ways(bench: Bench, name: str, upstream: str, help_from: Helpers) -> list[Contestant]:
    """Direct, and through the proxy."""
    proxy = this_proxy(
        bench.stage.folder / f"proxy-{name}",
        upstream,
        help_from.fake.url,
        help_from.redis.url,
        core_count(),
    )
    bench.stage.start(proxy)
    return [Contestant(DIRECT, upstream), through(PROXY, proxy)]


def _alternate(
    bench: Bench, upstream: str, ways: list[Contestant], transfer: Transfer, rounds: int
) -> None:
    case = case_of(upstream, transfer)
    with tempfile.NamedTemporaryFile(dir=bench.stage.folder) as source:
        source.truncate(transfer.size)  # a file of zeros that takes no place

        def one(way: Contestant) -> Mapping[str, float]:
            return _measured(way, upstream, transfer, Path(source.name))

        bench.alternate(case, ways, rounds, one)
    bench.report(case, "mb_per_s", "MB/s")


def _measured(way: Contestant, upstream: str, transfer: Transfer, source: Path) -> dict[str, float]:
    pids = way.pids()
    before = resident(pids)
    reset_peak(pids)
    seconds = _carried_out(way, upstream, transfer, source)
    found = {"mb_per_s": transfer.bytes / seconds / 1e6}
    if pids:
        grown = max(0.0, peak(pids) - before)
        found |= {"peak_mib": peak(pids), "growth_mib": grown}
        found["growth_mib_each"] = grown / transfer.count
    return found


def _carried_out(way: Contestant, upstream: str, transfer: Transfer, source: Path) -> float:
    """Seconds of the slowest of `count` curls that run side by side."""
    curls = [
        subprocess.Popen(
            _curl(way, _target(upstream, transfer, number), transfer, source),
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(transfer.count)
    ]
    told = [curl.communicate()[0].split() for curl in curls]
    moved = 1 if transfer.direction == UP else 2
    for one in told:
        if len(one) != 4 or one[0] != "200" or int(one[moved]) != transfer.size:
            raise RuntimeError(f"{transfer.name}, {way.name}: curl says {one}")
    return max(float(one[3]) for one in told)


def _target(upstream: str, transfer: Transfer, number: int) -> str:
    if upstream == NOTHING and transfer.direction == DOWN:
        return f"{ARTIFACTS}/bytes/{transfer.size}"
    return f"{ARTIFACTS}/bench/{transfer.size}-{number}.bin"


def _curl(way: Contestant, target: str, transfer: Transfer, source: Path) -> list[str]:
    """Prints: status, bytes up, bytes down, seconds."""
    says = "%{http_code} %{size_upload} %{size_download} %{time_total}"
    command = [tools.need("curl"), "-s", "--noproxy", "*", "-o", "/dev/null", "-w", says]
    for field in (*way.fields, "Expect:"):
        command += ["-H", field]
    sends = ["-T", str(source)] if transfer.direction == UP else []
    return [*command, *sends, way.url + target]


# --- where MLflow keeps them ---------------------------------------------------------------------


@contextmanager
def _store(bench: Bench) -> Iterator[Path]:
    """A folder for artifacts, in memory where the largest transfer fits in three times."""
    largest = max(bench.effort.sizes) * max(bench.effort.at_once)
    free = psutil.virtual_memory().available
    in_memory = SHARED_MEMORY.exists() and 3 * largest < min(free, _free(SHARED_MEMORY))
    place = SHARED_MEMORY if in_memory else bench.stage.folder
    bench.results.notes.append(f"MLflow keeps artifacts {'in memory' if in_memory else 'on disk'}")
    with tempfile.TemporaryDirectory(prefix="hokusai-bench-", dir=place) as folder:
        yield Path(folder)


def _has_room(bench: Bench, store: Path, transfer: Transfer) -> bool:
    """Whether the transfer fits; the files of the one before go when they are not its own."""
    if transfer.direction == UP:
        shutil.rmtree(store / "bench", ignore_errors=True)
        if 2 * transfer.bytes > _free(store):
            down = replace(transfer, direction=DOWN)
            for each in (transfer, down):
                bench.results.skipped[case_of(MLFLOW, each)] = "not enough room for the files"
            return False
    return case_of(MLFLOW, transfer) not in bench.results.skipped


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
