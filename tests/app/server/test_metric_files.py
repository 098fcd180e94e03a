"""What dead workers counted is kept in one file; what they showed goes; scrapes see no half of it.

The workers are real processes with the real library, forked from one as gunicorn forks them.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from app.observability.metrics_page import AllWorkers
from app.request.errors import Overloaded
from app.server.metric_files import merge_dead

ROOT = Path(__file__).parents[3]

#: Forks workers one after the other, and merges each when it has ended, as the master does.
MASTER = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
folder, workers, merge, ending = Path(sys.argv[1]), *(int(number) for number in sys.argv[2:])

def work(number):
    from app.observability import metrics, record
    request = SimpleNamespace(
        kind="runs", method="POST", status=200, outcome="forwarded", started=0.0, answered=0.02,
        auth_source="hit", auth_seconds=0.001, upstream_seconds=0.015, bytes_in=number, bytes_out=1,
        dropped=None,
    )
    for _ in range(number):
        record.count(request, 0.02)
    metrics.IN_FLIGHT.set(1)
    metrics.count_circuit_change("mlflow", "open")
    if ending:
        os.kill(os.getpid(), ending)
    os._exit(0)

import app.request.route_table, prometheus_client  # not in each child again
for number in range(1, workers + 1):
    pid = os.fork()
    if not pid:
        work(number)
    os.waitpid(pid, 0)
    if merge:
        from app.server.metric_files import merge_dead
        merge_dead(folder)
"""


def run_workers(folder: Path, number: int, merge: bool = True, ending: int = 0) -> None:
    """So many workers; the first makes 1 request, the second 2, and so on."""
    subprocess.run(
        [sys.executable, "-c", MASTER, folder, str(number), str(int(merge)), str(ending)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        check=True,
    )


@pytest.fixture
def value(tmp_path: Path) -> Callable[..., float | None]:
    """`value(name, **labels)`: what a scrape of the folder says."""

    def value(name: str, **labels: str) -> float | None:
        registry = CollectorRegistry()
        registry.register(AllWorkers(tmp_path))
        return registry.get_sample_value(f"hokusai_proxy_{name}", labels)

    return value


def files(folder: Path) -> list[str]:
    return sorted(Path(file).name for file in AllWorkers(folder).files())


REQUESTS = {"kind": "runs", "method": "POST", "status": "2xx", "outcome": "forwarded"}


def test_a_scrape_after_two_hundred_restarts_reads_two_files_and_misses_nothing(
    tmp_path: Path, value: Callable[..., float | None]
) -> None:
    run_workers(tmp_path, 200)
    assert files(tmp_path) == ["counter_dead.db", "histogram_dead.db"]
    requests = 200 * 201 / 2
    assert value("requests_total", **REQUESTS) == requests
    assert value("worker_starts_total") == 200
    assert value("circuit_changes_total", circuit="mlflow", state="open") == 200
    assert value("request_bytes_total", kind="runs") == sum(n * n for n in range(1, 201))
    assert value("upstream_seconds_count", kind="runs") == requests
    assert value("upstream_seconds_sum", kind="runs") == pytest.approx(requests * 0.015)
    assert value("upstream_seconds_bucket", kind="runs", le="0.01") == 0
    assert value("upstream_seconds_bucket", kind="runs", le="0.025") == requests
    assert value("upstream_seconds_bucket", kind="runs", le="+Inf") == requests
    assert value("in_flight") is None


def test_merging_changes_no_count(tmp_path: Path, value: Callable[..., float | None]) -> None:
    """The library's own sum of the same files says the same, but for what the dead showed."""
    run_workers(tmp_path, 7, merge=False)
    before = samples(tmp_path)
    assert len(files(tmp_path)) == 21
    merge_dead(tmp_path)
    after = samples(tmp_path)
    assert before.keys() - after.keys() == {key for key in before if key[0] in SHOWN}
    assert after == {key: count for key, count in before.items() if key[0] not in SHOWN}


SHOWN = {
    f"hokusai_proxy_{name}"
    for name in (
        "buffered_bytes",
        "circuit_workers",
        "forwarding",
        "in_flight",
        "instance_degraded",
        "names_failing",
        "redis_unavailable",
        "redis_refused",
        "revocation_listeners",
        "upstream_connections",
        "write_bound",
        "writes_waiting",
    )
}


def samples(folder: Path) -> dict[tuple[str, str], Any]:
    return {
        (sample.name, repr(sample.labels)): pytest.approx(sample.value)
        for family in AllWorkers(folder).collect()
        for sample in family.samples
    }


def test_a_worker_that_was_killed_counts_as_one_that_ended(
    tmp_path: Path, value: Callable[..., float | None]
) -> None:
    run_workers(tmp_path, 3, ending=9)
    assert value("requests_total", **REQUESTS) == 6
    assert value("in_flight") is None


def test_the_living_keep_their_files(tmp_path: Path, value: Callable[..., float | None]) -> None:
    """This process takes the place of one of them; and the folder may hold other things."""
    run_workers(tmp_path, 2, merge=False)
    worker = next(tmp_path.glob("gauge*")).stem.rpartition("_")[2]
    for file in [*tmp_path.glob(f"*_{worker}.db")]:
        file.rename(tmp_path / file.name.replace(worker, str(os.getpid())))
    (tmp_path / "notes.txt").touch()
    merge_dead(tmp_path)
    own = [f"{kind}_{os.getpid()}.db" for kind in ("counter", "gauge_livesum", "histogram")]
    assert files(tmp_path) == sorted([*own, "counter_dead.db", "histogram_dead.db"])
    assert value("requests_total", **REQUESTS) == 3
    assert value("in_flight") == 1


#: What a file can look like whose worker was killed while it wrote.
BROKEN = {
    "empty": b"",
    "begun": b"\x00",
    "garbage": b"\xff" * 64,
    "an entry longer than the file": b"\x40" + bytes(7) + b"\xff" * 56,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_cannot_be_read_is_given_up(
    tmp_path: Path, value: Callable[..., float | None], content: bytes
) -> None:
    run_workers(tmp_path, 2)
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f"counter_{ended.pid}.db").write_bytes(content)
    merge_dead(tmp_path)
    assert files(tmp_path) == ["counter_dead.db", "histogram_dead.db"]
    assert value("requests_total", **REQUESTS) == 3


# --- the lock ------------------------------------------------------------------------------------


@contextmanager
def locked(folder: Path, how: int) -> Iterator[None]:
    directory = os.open(folder, os.O_RDONLY)
    fcntl.flock(directory, how)
    try:
        yield
    finally:
        os.close(directory)


def test_nothing_is_merged_during_a_scrape_that_hangs_but_by_the_next_chance(
    tmp_path: Path,
) -> None:
    run_workers(tmp_path, 1, merge=False)
    with locked(tmp_path, fcntl.LOCK_SH):
        merge_dead(tmp_path)
        assert len(files(tmp_path)) == 3
    merge_dead(tmp_path)
    assert files(tmp_path) == ["counter_dead.db", "histogram_dead.db"]


def test_scrapes_do_not_wait_for_each_other(
    tmp_path: Path, value: Callable[..., float | None]
) -> None:
    run_workers(tmp_path, 1)
    with locked(tmp_path, fcntl.LOCK_SH):
        assert value("requests_total", **REQUESTS) == 1


def test_a_scrape_waits_until_the_merge_is_over(
    tmp_path: Path, value: Callable[..., float | None]
) -> None:
    run_workers(tmp_path, 1)
    with ThreadPoolExecutor(1) as threads:
        with locked(tmp_path, fcntl.LOCK_EX):
            scrape = threads.submit(value, "requests_total", **REQUESTS)
            assert not wait([scrape], 0.2).done
        assert scrape.result() == 1


def test_a_scrape_gives_up_where_the_merge_hangs(tmp_path: Path) -> None:
    with locked(tmp_path, fcntl.LOCK_EX), pytest.raises(Overloaded):
        AllWorkers(tmp_path).collect()
