"""A process's metrics are written in the library's form, and no trouble with a file ends it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.mmap_dict import MmapedDict

from app.observability.metric_file import MetricFile
from app.observability.metrics_page import AllWorkers
from app.server import metric_files
from tests.room import no_room

ROOT = Path(__file__).parents[3]

#: A worker that counts, with the real library; prints which files of metrics it has mapped.
WORKER = """
import os
from pathlib import Path
import runpy
metrics = runpy.run_path("app/observability/metrics.py")
metrics["count_fallback"]("key")
metrics["FORWARDING"].set(3)
metrics["OWN"].labels("runs").observe(0.1)
print([line for line in Path("/proc/self/maps").read_text().splitlines() if ".db" in line])
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "instance" / "metrics" / "counter_1.db"


@pytest.fixture
def file(path: Path) -> Iterator[MetricFile]:
    file = MetricFile(str(path))
    yield file
    file.close()


def key(name: str) -> str:
    return json.dumps([name, name, {}, "help"])


def in_library(path: Path) -> dict[str, float]:
    """What the library reads, by key."""
    library: Callable[[str], Iterator[tuple[str, float, float, int]]]
    library = MmapedDict.read_all_values_from_file
    return {name: value for name, value, _, _ in library(str(path))}  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("length", range(1, 9))
def test_the_library_reads_what_is_written(file: MetricFile, path: Path, length: int) -> None:
    """Names of all lengths, because they are padded."""
    file.write_value(key("é" * length), 1.5, 0.0)
    assert file.read_value(key("x" * length)) == (0.0, 0.0)
    assert in_library(path) == {key("é" * length): 1.5, key("x" * length): 0.0}


def test_the_library_writes_the_same_bytes(file: MetricFile, path: Path, tmp_path: Path) -> None:
    theirs = MmapedDict(str(tmp_path / "theirs.db"))  # type: ignore[no-untyped-call]
    for number in range(200):
        for each in (file, theirs):
            each.write_value(key("n" * number), float(number), 7.0)
    theirs.close()  # type: ignore[no-untyped-call]
    ours = path.read_bytes()
    assert ours == (tmp_path / "theirs.db").read_bytes()[: len(ours)]


def test_an_earlier_process_of_that_id_counts_on(file: MetricFile, path: Path) -> None:
    file.write_value(key("a"), 5.0, 0.0)
    again = MetricFile(str(path))
    assert again.read_value(key("a")) == (5.0, 0.0)
    again.close()


def test_a_worker_maps_no_file_of_metrics(tmp_path: Path) -> None:
    """Fails where the library no longer looks for its file class where metrics.py puts ours."""
    finished = subprocess.run(
        [sys.executable, "-c", WORKER],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert finished.stdout.strip() == "[]"
    kinds = {file.name.partition("_")[0] for file in tmp_path.iterdir()}
    assert kinds == {"counter", "gauge", "histogram"}


# --- no room -------------------------------------------------------------------------------------


def test_without_room_nothing_fails_and_afterwards_nothing_is_missing(
    file: MetricFile, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    MetricFile._logged = -1e9
    file.write_value(key("old"), 1.0, 0.0)
    with no_room(path.stat().st_size + 10):
        for number in range(5):
            file.write_value(key(f"new{number}"), 1.0, 0.0)
        file.write_value(key("old"), 2.0, 0.0)
        assert file.read_value(key("new0")) == (1.0, 0.0)
        assert MetricFile.troubles() == [file.trouble] != [""]
        MetricFile.refresh_all()
        assert in_library(path) == {key("old"): 2.0}
    assert sum(record.levelname == "ERROR" for record in caplog.records) == 1
    MetricFile.refresh_all()
    assert MetricFile.troubles() == []
    assert in_library(path) == {key("old"): 2.0} | {key(f"new{n}"): 1.0 for n in range(5)}


def test_entries_keep_their_places_when_room_comes_back(file: MetricFile, path: Path) -> None:
    """A reader in between must not see them move."""
    file.write_value(key("old"), 1.0, 0.0)
    with no_room(path.stat().st_size + 80):
        file.write_value(key("too long for what is left" * 9), 1.0, 0.0)
        file.write_value(key("b"), 1.0, 0.0)
    before = path.read_bytes()
    used = int.from_bytes(before[:4], sys.byteorder)
    MetricFile.refresh_all()
    assert path.read_bytes()[8:used] == before[8:used]
    assert len(in_library(path)) == 3


def test_a_file_that_cannot_be_made_is_made_later(path: Path) -> None:
    path.parent.parent.write_bytes(b"in the way")
    file = MetricFile(str(path))
    file.write_value(key("a"), 1.0, 0.0)
    assert file.trouble
    path.parent.parent.unlink()
    MetricFile.refresh_all()
    assert in_library(path) == {key("a"): 1.0}
    file.close()


# --- what happens to files -----------------------------------------------------------------------

HARM: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "removed with its folder": lambda path: shutil.rmtree(path.parent.parent),
    "emptied": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, 20),
    "overwritten": lambda path: path.write_bytes(b"\xff" * 500),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
def test_a_file_is_mended(file: MetricFile, path: Path, harm: Callable[[Path], object]) -> None:
    file.write_value(key("a"), 1.0, 0.0)
    file.write_value(key("b"), 2.0, 0.0)
    harm(path)
    file.write_value(key("a"), 3.0, 0.0)
    MetricFile.refresh_all()
    assert in_library(path) == {key("a"): 3.0, key("b"): 2.0}
    assert path.parent.parent.stat().st_mode & 0o777 == 0o700


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    """Somebody else could have made the folder after it vanished."""
    other = tmp_path / "precious"
    other.write_bytes(b"data")
    path.parent.mkdir(parents=True)
    path.symlink_to(other)
    file = MetricFile(str(path))
    file.write_value(key("a"), 1.0, 0.0)
    file.close()
    assert other.read_bytes() == b"data"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_the_folder_of_another_user_is_not_used(path: Path) -> None:
    path.parent.mkdir(parents=True)
    os.chown(path.parent, 12345, 12345)
    file = MetricFile(str(path))
    assert "another user" in file.trouble
    assert not path.exists()
    file.close()


# --- merging, and scrapes ------------------------------------------------------------------------


def dead_process() -> int:
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


def test_what_cannot_be_merged_stays_until_there_is_room(tmp_path: Path) -> None:
    pid = dead_process()
    for kind in ("counter", "gauge_livesum"):
        file = MetricFile(str(tmp_path / f"{kind}_{pid}.db"))
        file.write_value(key("a"), 4.0, 0.0)
        file.close()
    with no_room():
        metric_files.merge_dead(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [f"counter_{pid}.db"]
    metric_files.merge_dead(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["counter_dead.db"]
    assert in_library(tmp_path / "counter_dead.db") == {key("a"): 4.0}


@pytest.mark.parametrize("there", ["nothing", "a file"])
def test_merging_without_a_folder_does_nothing(tmp_path: Path, there: str) -> None:
    place = tmp_path / "metrics"
    if there == "nothing":
        metric_files.merge_dead(place)
        return
    place.write_bytes(b"")
    with pytest.raises(NotADirectoryError):  # which app/server/hooks.py logs
        metric_files.merge_dead(place)


def scraped(folder: Path) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(AllWorkers(folder))
    return registry


@pytest.mark.parametrize("there", ["nothing", "a file"])
def test_without_a_folder_a_scrape_shows_the_worker_that_answers(
    tmp_path: Path, there: str
) -> None:
    if there == "a file":
        (tmp_path / "metrics").write_bytes(b"")
    found = scraped(tmp_path / "metrics").get_sample_value("hokusai_proxy_worker_starts_total")
    assert found == 1


@pytest.mark.parametrize("content", [b"\x00", b"\xff" * 64, b"\x40" + bytes(7) + b"\xff" * 56])
def test_a_scrape_leaves_a_damaged_file_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "counter_1.db").write_bytes(content)
    file = MetricFile(str(tmp_path / "counter_2.db"))
    file.write_value(json.dumps(["a", "a_total", {}, "help"]), 4.0, 0.0)
    assert scraped(tmp_path).get_sample_value("a_total") == 4.0
    file.close()
