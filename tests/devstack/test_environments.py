"""Environments: made once, mended when half made, never by two at a time.

They are made from an empty lock file, so nothing is fetched.
"""

import threading
import time
from pathlib import Path

import pytest

from devstack import environments
from devstack.environments import Environment, ensure, is_whole


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setattr(environments, "LOCK_FILE", tmp_path / "state" / "install.lock")
    lock = tmp_path / "empty.lock"
    lock.write_text("# nothing\n")
    return Environment(tmp_path / "env", lock, "no time")


@pytest.fixture
def made(environment: Environment) -> Environment:
    ensure(environment)
    return environment


def test_a_made_environment_has_an_interpreter_and_is_left_alone(
    made: Environment, capfd: pytest.CaptureFixture[str]
) -> None:
    assert made.python.exists()
    capfd.readouterr()
    ensure(made)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_changed_lock_file_asks_for_a_new_installation(made: Environment) -> None:
    made.lock.write_text("# nothing else\n")
    assert not is_whole(made)
    ensure(made)
    assert is_whole(made)


@pytest.mark.slow
def test_an_interrupted_set_up_is_begun_again(made: Environment) -> None:
    made.stamp.unlink()
    (made.folder / "half-copied").touch()
    ensure(made)
    assert is_whole(made)
    assert not (made.folder / "half-copied").exists()


def test_a_folder_that_was_moved_is_not_taken_for_whole(made: Environment, tmp_path: Path) -> None:
    made.folder.rename(tmp_path / "elsewhere")
    assert not is_whole(Environment(tmp_path / "elsewhere", made.lock, "no time"))


def test_a_second_set_up_waits_for_the_first(
    environment: Environment, capfd: pytest.CaptureFixture[str]
) -> None:
    with environments._alone():
        second = threading.Thread(target=ensure, args=(environment,))
        second.start()
        time.sleep(0.3)
        assert not environment.folder.exists()
    second.join()
    assert is_whole(environment)
    assert "waiting for it" in capfd.readouterr().err
