"""What the check `instance` says of an instance's folders, and that it leaves nothing there."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.health.diagnosis import DEGRADED, HEALTHY
from app.health.faults import fault
from app.health.instance_check import (
    WITHOUT_FOLDER,
    WITHOUT_TMPDIR,
    InstanceCheck,
    watch,
)
from app.health.results import Question, SharedResults
from app.observability.metric_file import MetricFile
from app.observability.metrics import INSTANCE_DEGRADED
from app.state.instance_store import InstanceStore
from tests.drills.instance_folder import fill, free, small_file_system
from tests.room import no_room


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "instance"


@pytest.fixture
def check(folder: Path) -> InstanceCheck:
    return InstanceCheck(folder, InstanceStore.at(folder / "shared.db"))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder, which is not there yet."""
    place = tmp_path / "tmp"
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with small_file_system(tmp_path) as place:
        if place is None:
            pytest.skip("this user may not mount a file system")
        yield place


def says(word: str, place: str = "The instance's folder") -> str:
    return str(fault(f"folder.{word}", place=place))


def test_all_is_well_and_nothing_is_left_behind(check: InstanceCheck, folder: Path) -> None:
    assert (check.ask().status, check.ask().detail) == (HEALTHY, "")
    assert {file.name.partition("-")[0] for file in folder.iterdir()} == {"shared.db"}


def test_without_a_folder_there_is_nothing_to_look_at() -> None:
    assert InstanceCheck(None, InstanceStore.at(None)).ask().status == HEALTHY


def test_a_folder_that_was_removed_is_made_again(check: InstanceCheck, folder: Path) -> None:
    check.ask()
    (folder / "shared.db").unlink()
    assert check.ask().status == HEALTHY


def test_something_else_is_in_its_place(check: InstanceCheck, folder: Path) -> None:
    folder.write_bytes(b"")
    found = check.ask()
    assert found.status == DEGRADED
    assert found.message == f"{says('missing')} {WITHOUT_FOLDER}"
    assert str(folder) in found.detail


def test_it_is_full(check: InstanceCheck) -> None:
    check.ask()
    with no_room():
        found = check.ask()
    assert found.status == DEGRADED
    assert check.ask().status == HEALTHY


def test_a_full_file_system(small: Path) -> None:
    folder = small / "instance"
    check = InstanceCheck(folder, InstanceStore.at(folder / "shared.db"))
    assert check.ask().status == HEALTHY
    fill(folder)
    found = check.ask()
    assert (found.status, found.message) == (
        DEGRADED,
        f"{says('full')} {WITHOUT_FOLDER}",
    )
    os.truncate(small / "filler", os.path.getsize(small / "filler") - 256 * 1024)
    assert says("nearly full") in check.ask().message
    free(folder)
    assert check.ask().status == HEALTHY


def test_no_inode_is_left(small: Path) -> None:
    folder = small / "instance"
    check = InstanceCheck(folder, InstanceStore.at(folder / "shared.db"))
    assert check.ask().status == HEALTHY
    with suppress(OSError):
        for number in range(100_000):
            (small / f"file{number}").touch()
    assert says("full") in check.ask().message


def test_a_folder_that_may_not_be_written(check: InstanceCheck, folder: Path) -> None:
    folder.mkdir(0o555)
    with suppress(PermissionError):
        os.seteuid(65534)  # root may write everywhere
    try:
        found = check.ask()
    finally:
        with suppress(PermissionError):
            os.seteuid(0)
    assert says("denied") in found.message


def test_a_read_only_file_system(small: Path) -> None:
    folder = small / "instance"
    folder.mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    found = InstanceCheck(folder, InstanceStore.at(folder / "shared.db")).ask()
    assert says("read-only") in found.message


def test_the_store_or_the_metrics_alone(check: InstanceCheck, folder: Path) -> None:
    (folder / "shared.db").mkdir(parents=True)
    found = check.ask()
    assert (found.status, found.message) == (DEGRADED, str(fault("folder.store")))
    assert "unable to open" in found.detail
    (folder / "metrics").write_bytes(b"")
    file = MetricFile(str(folder / "metrics" / "counter_1.db"))
    both = f"{fault('folder.store')} {fault('folder.metrics')}"
    assert check.ask().message == both
    file.close()


def test_the_temporary_folder(check: InstanceCheck, temporary: Path) -> None:
    place = "The temporary folder (TMPDIR)"
    found = check.ask()
    assert found.message == f"{says('missing', place)} {WITHOUT_TMPDIR}"
    assert (found.status, str(temporary) in found.detail) == (DEGRADED, True)
    temporary.mkdir()
    assert check.ask().status == HEALTHY


def test_no_message_holds_a_path(check: InstanceCheck, folder: Path, temporary: Path) -> None:
    folder.write_bytes(b"")
    found = check.ask()
    assert "/" not in found.message.replace("/metrics", "")
    assert found.message.count("Until then") == 1
    assert WITHOUT_TMPDIR in found.message


def test_a_worker_shows_it_in_a_metric(check: InstanceCheck, folder: Path) -> None:
    question = Question(check.ask)
    results = SharedResults(InstanceStore.at(None), {"instance": question}, ttl=0.0, timeout=30.0)
    folder.write_bytes(b"")
    watch(results)
    assert INSTANCE_DEGRADED._value.get() == 1
    folder.unlink()
    check._store._database._file._next_look = 0.0  # type: ignore[union-attr]
    watch(results)
    assert INSTANCE_DEGRADED._value.get() == 0
