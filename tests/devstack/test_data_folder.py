"""The folder of a run."""

import stat
from pathlib import Path

import pytest

from devstack import data_folder


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(data_folder, "BASE", tmp_path / "base")
    return tmp_path / "base"


def test_a_second_run_gets_a_folder_of_its_own(base: Path) -> None:
    first, second = data_folder.claim(), data_folder.claim()
    assert (first.folder, second.folder) == (base, base / "2")
    first.lock.close()
    second.lock.close()


def test_a_folder_is_free_again_when_its_run_has_ended(base: Path) -> None:
    data_folder.claim().lock.close()
    again = data_folder.claim()
    assert again.folder == base
    again.lock.close()


def test_a_named_folder_in_use_is_refused(tmp_path: Path) -> None:
    first = data_folder.claim(tmp_path)
    with pytest.raises(BlockingIOError, match="another run uses"):
        data_folder.claim(tmp_path)
    first.lock.close()


def test_the_key_file_is_its_owners_only_even_if_it_was_not(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    data_folder.write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
