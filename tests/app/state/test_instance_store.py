"""What the workers of one instance share while Redis is away: values that end, and exact counts."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from limits import RateLimitItemPerHour, RateLimitItemPerSecond
from limits.strategies import SlidingWindowCounterRateLimiter

from app.state import instance_file
from app.state.instance_database import InstanceDatabase
from app.state.instance_store import InstanceStore
from app.state.window_counts import WindowCounts
from tests.room import no_room

ROOT = Path(__file__).parents[3]

#: Another worker: counts in a window of a hundred, and prints how often it was granted.
WORKER = """
import sys
from pathlib import Path
from app.state.instance_database import InstanceDatabase
from app.state.window_counts import WindowCounts
counts = WindowCounts(InstanceDatabase(Path(sys.argv[1])))
sys.stdin.readline()
print(sum(counts.acquire_sliding_window_entry("key", 100, 3600) for _ in range(80)))
"""

#: Seconds until something that should have happened is given up.
WAIT_LIMIT = 10.0


class Worker(InstanceStore):
    """What one worker has: values, and counts in the same file."""

    def __init__(self, file: Path | None, is_ours: bool = True) -> None:
        database = InstanceDatabase(file, is_ours)
        super().__init__(database)
        self.counts = WindowCounts(database)


MakeStore = Callable[[], Worker]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "instance" / "shared.db"


@pytest.fixture
def store(file: Path) -> Worker:
    return Worker(file)


@pytest.fixture
def other(file: Path) -> Worker:
    """Another worker's."""
    return Worker(file)


# --- values --------------------------------------------------------------------------------------


def test_a_value_is_shared(store: Worker, other: Worker) -> None:
    assert other.get_value("name") is None
    store.set_value("name", b"\x00value", 60)
    assert store.get_value("name") == other.get_value("name") == b"\x00value"
    other.set_value("name", b"newer", 60)
    assert store.get_value("name") == b"newer"
    assert store.get_value("another") is None


def test_a_name_is_claimed_by_one(store: Worker, other: Worker) -> None:
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda n: (store, other)[n % 2].claim("name", 60), range(40)))
    assert taken.count(True) == 1
    assert other.claim("another", 60)
    store.forget("name")
    assert other.claim("name", 60)


def test_a_claim_ends_by_itself(store: Worker, other: Worker) -> None:
    assert store.claim("name", 0.05)
    deadline = time.monotonic() + 10
    while not other.claim("name", 60):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not store.claim("name", 60)


def test_values_are_found_by_the_beginning_of_their_names(store: Worker, other: Worker) -> None:
    for name in ("a:1", "a:2", "a:3", "b:1"):
        store.set_value(name, name.encode(), 60)
    other.forget("a:3")
    assert other.values("a:") == {"1": b"a:1", "2": b"a:2"}
    assert other.values("c:") == {}


def test_a_value_ends_with_its_life(store: Worker, other: Worker) -> None:
    store.set_value("name", b"value", 0.1)
    assert other.get_value("name") == b"value"
    time.sleep(0.11)
    assert store.get_value("name") is other.get_value("name") is None


def test_without_a_file_it_is_this_process_own() -> None:
    here, there = Worker(None), Worker(None)
    here.set_value("name", b"value", 60)
    assert here.get_value("name") == b"value"
    assert there.get_value("name") is None


def test_nothing_is_opened_before_it_is_needed(store: Worker, file: Path) -> None:
    assert not file.exists()
    store.get_value("name")
    assert file.exists()


def test_where_there_can_be_no_file_each_process_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "shared.db").mkdir()
    here, there = Worker(tmp_path / "shared.db"), Worker(tmp_path / "shared.db")
    assert not here.set_value("name", b"value", 60)
    assert here.get_value("name") == b"value"
    assert there.get_value("name") is None
    assert [here.counts.acquire_sliding_window_entry("key", 1, 3600) for _ in range(2)] == [
        True,
        False,
    ]
    assert here.trouble
    assert there.trouble


# --- trouble with the file -----------------------------------------------------------------------


def replaced_by_garbage(file: Path) -> None:
    file.unlink()
    file.write_bytes(b"no database" * 999)


def replaced_by_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


HARM: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "removed with its folder": lambda file: shutil.rmtree(file.parent),
    "its log removed": lambda file: file.with_name("shared.db-wal").unlink(),
    "its index removed": lambda file: file.with_name("shared.db-shm").unlink(),
    "emptied": lambda file: os.truncate(file, 0),
    "its log emptied": lambda file: os.truncate(file.with_name("shared.db-wal"), 0),
    "replaced by garbage": replaced_by_garbage,
    "replaced by a folder for a while": replaced_by_a_folder,
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks and tries again at once."""
    monkeypatch.setattr(instance_file, "LOOK_INTERVAL", 0.0)
    monkeypatch.setattr(instance_file, "RETRY_INTERVAL", 0.0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
def test_workers_share_again_whatever_happens_to_the_file(
    file: Path, store: Worker, other: Worker, harm: Callable[[Path], object]
) -> None:
    """Two that live on, and a new one; no call raises, and no limit is off meanwhile."""
    for each in (store, other):
        assert each.counts.acquire_sliding_window_entry("key", 5, 3600)
    harm(file)
    for each in (store, other) * 3:
        each.set_value("ping", b"", 60)
        each.counts.acquire_sliding_window_entry("key", 5, 3600)
        each.counts.get_sliding_window("key", 3600)
        each.claim("claim", 60)
        each.values("p")
    if file.is_dir():
        file.rmdir()
    new = Worker(file)
    workers = (store, other, new)
    for each in workers:  # notices
        each.check()
    for number, each in enumerate(workers):
        assert each.set_value("name", b"%d" % number, 60)
        assert [one.get_value("name") for one in workers] == [b"%d" % number] * 3
        assert not each.counts.acquire_sliding_window_entry("key", 5, 3600)
        assert not each.trouble


WRITES = """
import sys, time
from pathlib import Path
from app.state.instance_store import InstanceStore
store = InstanceStore.at(Path(sys.argv[1]))
for number in range(1500):
    store.set_value("other", b"%d" % number, 60)
    time.sleep(0.02)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_processes_share_again_when_a_cleaner_has_removed_one_file(
    file: Path, store: Worker, suffix: str
) -> None:
    """Both are writing, and meet it before they look."""

    def hears() -> bool:
        before = store.get_value("other")
        deadline = time.monotonic() + WAIT_LIMIT
        while store.get_value("other") == before and time.monotonic() < deadline:
            store.set_value("mine", b"", 60)
            time.sleep(0.02)
        return store.get_value("other") != before

    with subprocess.Popen([sys.executable, "-c", WRITES, file], cwd=ROOT) as other:
        try:
            assert hears()
            file.with_name(f"shared.db{suffix}").unlink()
            time.sleep(3 * instance_file.LOOK_INTERVAL)
            assert hears()
            assert not store.trouble
            assert file.with_name(f"shared.db{suffix}").exists()
        finally:
            other.kill()


@pytest.mark.usefixtures("quick")
def test_values_outlive_the_removal_of_the_file(
    file: Path, store: Worker, other: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    store.set_value("revoked", b"1", 60)
    other.check()
    shutil.rmtree(file.parent)
    assert other.get_value("revoked") == store.get_value("revoked") == b"1"
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert caplog.text.count("was removed") == 2, "once for each worker"


def test_without_room_limits_and_values_go_on(
    store: Worker, other: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    store.set_value("before", b"1", 60)
    store.set_value("ended", b"1", 60)
    with no_room():
        granted = [store.counts.acquire_sliding_window_entry("key", 3, 3600) for _ in range(5)]
        assert granted == [True] * 3 + [False] * 2
        assert not store.set_value("name", b"mine", 60)
        assert store.get_value("name") == b"mine"
        assert store.get_value("before") == b"1", "the file can still be read"
        assert not store.forget("ended")
        assert store.get_value("ended") is None
        assert store.claim("claim", 60)
        assert not store.claim("claim", 60)
        assert store.values("b") == {"efore": b"1"}
        assert store.trouble
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert other.get_value("name") is None


@pytest.mark.usefixtures("quick")
def test_what_was_kept_meanwhile_is_shared_when_there_is_room(store: Worker, other: Worker) -> None:
    for each in (store, other):
        each.set_value("ended", b"1", 60)
        each.counts.acquire_sliding_window_entry("key", 9, 3600)
    with no_room():
        for each in (store, other):
            each.set_value("name", b"value", 60)
            assert each.counts.acquire_sliding_window_entry("key", 9, 3600)
        store.forget("ended")
    assert store.check() == other.check() == ""
    for each in (store, other):
        assert each.get_value("name") == b"value"
        assert each.get_value("ended") is None
        assert each.counts.get_sliding_window("key", 3600)[2] == 4
    assert store.check() == ""
    assert store.counts.get_sliding_window("key", 3600)[2] == 4, "only once"


def test_a_lock_that_is_kept_stops_nobody_for_long(file: Path, store: Worker) -> None:
    """Half a second once, not for each call: a call that waits holds all requests of a worker."""
    store.check()
    with closing(sqlite3.connect(file, isolation_level=None)) as somebody:
        somebody.execute("begin exclusive")
        began = time.monotonic()
        granted = [store.counts.acquire_sliding_window_entry("key", 3, 3600) for _ in range(50)]
        assert granted.count(True) == 3
        assert time.monotonic() - began < 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("what", ["the folder", "the file", "what is beside it"])
def test_what_another_user_could_have_written_is_not_believed(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "instance"
    planted = Worker(folder / "shared.db")
    planted.set_value("decision", b"forged", 60)
    name = {"the file": "shared.db", "what is beside it": "shared.db-wal"}.get(what, "")
    os.chown(folder / name, 12345, 12345)
    store = Worker(folder / "shared.db")
    assert store.get_value("decision") is None
    assert "another user" in store.trouble
    assert Worker(folder / "shared.db", is_ours=False).get_value("decision") == b"forged"


# --- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_so_many_are_granted(store: Worker, other: Worker, limit: int) -> None:
    item = RateLimitItemPerHour(limit)
    limiters = [SlidingWindowCounterRateLimiter(each.counts) for each in (store, other)]
    granted = [limiters[turn % 2].hit(item, "key") for turn in range(limit + 3)]
    assert granted == [True] * limit + [False] * 3
    assert limiters[0].hit(item, "another") is (limit > 0)


def test_threads_at_once_get_no_more_than_the_limit(store: Worker) -> None:
    def count(_: int) -> bool:
        return store.counts.acquire_sliding_window_entry("key", 50, 3600)

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(count, range(200))) == 50


def test_processes_at_once_get_no_more_than_the_limit(store: Worker, file: Path) -> None:
    store.get_value("name")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(file)],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert sum(int(worker.communicate("go\n", 20)[0]) for worker in workers) == 100


def test_the_window_slides(store: Worker) -> None:
    """After half of the next window, half of the previous one no longer counts."""
    limiter, item = SlidingWindowCounterRateLimiter(store.counts), RateLimitItemPerSecond(10)
    while limiter.hit(item, "key"):
        pass
    time.sleep(1.5 - time.time() % 1)
    granted = sum(limiter.hit(item, "key") for _ in range(20))
    assert 5 <= granted <= 7


def test_counts_can_be_forgotten(store: Worker) -> None:
    for forget in (lambda: store.counts.clear_sliding_window("key", 3600), store.counts.reset):
        assert store.counts.acquire_sliding_window_entry("key", 1, 3600)
        assert not store.counts.acquire_sliding_window_entry("key", 1, 3600)
        forget()
