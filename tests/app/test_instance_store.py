"""What the workers of one instance share while Redis is away: values that end, and exact counts."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from limits import RateLimitItemPerHour, RateLimitItemPerSecond
from limits.strategies import SlidingWindowCounterRateLimiter

from app.instance_store import InstanceStore

ROOT = Path(__file__).parents[2]

#: Another worker: counts in a window of a hundred, and prints how often it was granted. It needs
#: the one file; the package would bring along Flask.
WORKER = """
import runpy, sys
from pathlib import Path
store = runpy.run_path("app/instance_store.py")["InstanceStore"](Path(sys.argv[1]))
sys.stdin.readline()
print(sum(store.acquire_sliding_window_entry("key", 100, 3600) for _ in range(80)))
"""

MakeStore = Callable[[], InstanceStore]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "shared.db"


@pytest.fixture
def store(file: Path) -> InstanceStore:
    return InstanceStore(file)


@pytest.fixture
def other(file: Path) -> InstanceStore:
    """Another worker's."""
    return InstanceStore(file)


# --- values --------------------------------------------------------------------------------------


def test_a_value_is_shared(store: InstanceStore, other: InstanceStore) -> None:
    assert other.get_value("name") is None
    store.set_value("name", b"\x00value", 60)
    assert store.get_value("name") == other.get_value("name") == b"\x00value"
    other.set_value("name", b"newer", 60)
    assert store.get_value("name") == b"newer"
    assert store.get_value("another") is None


def test_a_name_is_claimed_by_one(store: InstanceStore, other: InstanceStore) -> None:
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda n: (store, other)[n % 2].claim("name", 60), range(40)))
    assert taken.count(True) == 1
    assert other.claim("another", 60)
    store.forget("name")
    assert other.claim("name", 60)


def test_a_claim_ends_by_itself(store: InstanceStore, other: InstanceStore) -> None:
    assert store.claim("name", 0.05)
    deadline = time.monotonic() + 10
    while not other.claim("name", 60):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not store.claim("name", 60)


def test_values_are_found_by_the_beginning_of_their_names(
    store: InstanceStore, other: InstanceStore
) -> None:
    for name in ("a:1", "a:2", "a:3", "b:1"):
        store.set_value(name, name.encode(), 60)
    other.forget("a:3")
    assert other.values("a:") == {"1": b"a:1", "2": b"a:2"}
    assert other.values("c:") == {}


def test_a_value_ends_with_its_life(store: InstanceStore, other: InstanceStore) -> None:
    store.set_value("name", b"value", 0.1)
    assert other.get_value("name") == b"value"
    time.sleep(0.11)
    assert store.get_value("name") is other.get_value("name") is None


def test_without_a_file_it_is_this_process_own() -> None:
    here, there = InstanceStore(None), InstanceStore(None)
    here.set_value("name", b"value", 60)
    assert here.get_value("name") == b"value"
    assert there.get_value("name") is None


def test_nothing_is_opened_before_it_is_needed(store: InstanceStore, file: Path) -> None:
    assert not file.exists()
    store.get_value("name")
    assert file.exists()


@pytest.mark.parametrize("broken", ["a folder", "no database"])
def test_where_the_file_is_useless_each_process_keeps_its_own(tmp_path: Path, broken: str) -> None:
    file = tmp_path / "shared.db"
    if broken == "a folder":
        file.mkdir()
    else:
        file.write_bytes(b"this is no database" * 100)
    here, there = InstanceStore(file), InstanceStore(file)
    here.set_value("name", b"value", 60)
    assert here.get_value("name") == b"value"
    assert there.get_value("name") is None
    assert [here.acquire_sliding_window_entry("key", 1, 3600) for _ in range(2)] == [True, False]


# --- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_so_many_are_granted(store: InstanceStore, other: InstanceStore, limit: int) -> None:
    item = RateLimitItemPerHour(limit)
    limiters = [SlidingWindowCounterRateLimiter(each) for each in (store, other)]
    granted = [limiters[turn % 2].hit(item, "key") for turn in range(limit + 3)]
    assert granted == [True] * limit + [False] * 3
    assert limiters[0].hit(item, "another") is (limit > 0)


def test_threads_at_once_get_no_more_than_the_limit(store: InstanceStore) -> None:
    def count(_: int) -> bool:
        return store.acquire_sliding_window_entry("key", 50, 3600)

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(count, range(200))) == 50


def test_processes_at_once_get_no_more_than_the_limit(store: InstanceStore, file: Path) -> None:
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


def test_the_window_slides(store: InstanceStore) -> None:
    """After half of the next window, half of the previous one no longer counts."""
    limiter, item = SlidingWindowCounterRateLimiter(store), RateLimitItemPerSecond(10)
    while limiter.hit(item, "key"):
        pass
    time.sleep(1.5 - time.time() % 1)
    granted = sum(limiter.hit(item, "key") for _ in range(20))
    assert 5 <= granted <= 7


def test_counts_can_be_forgotten(store: InstanceStore) -> None:
    for forget in (lambda: store.clear_sliding_window("key", 3600), store.reset):
        assert store.acquire_sliding_window_entry("key", 1, 3600)
        assert not store.acquire_sliding_window_entry("key", 1, 3600)
        forget()
