"""What the workers of one instance share, made once by the master and removed at its end."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.server.instance import forget, prepare, restore
from config import Settings

ROOT = Path(__file__).parents[3]


@pytest.fixture
def environ() -> Iterator[dict[str, str]]:
    """The master's environment; whatever was made for it goes with the test."""
    made: dict[str, str] = {"PATH": os.environ["PATH"]}
    yield made
    if "INSTANCE_FOLDER" in made:
        forget(made)


def in_another_process(program: str, environ: dict[str, str]) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", f"import os\nfrom app.server.instance import *\n{program}"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return finished.stdout.strip()


def test_a_fresh_folder_is_made_that_nobody_else_can_read(environ: dict[str, str]) -> None:
    folder = prepare(Settings(), environ)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert environ["INSTANCE_FOLDER"] == str(folder)
    assert environ["PROMETHEUS_MULTIPROC_DIR"] == str(folder / "metrics")
    assert list((folder / "metrics").iterdir()) == []


def test_a_given_folder_is_used(environ: dict[str, str], tmp_path: Path) -> None:
    given = tmp_path / "below" / "here"
    assert prepare(Settings(instance_folder=str(given)), environ) == given
    assert (given / "metrics").is_dir()


def test_metrics_of_earlier_processes_are_removed(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "counter_17.db").write_bytes(b"old")
    (tmp_path / "locks").write_bytes(b"")
    prepare(Settings(instance_folder=str(tmp_path)), environ)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["metrics", "locks"]


def test_each_instance_makes_a_secret_of_its_own() -> None:
    secrets = []
    for _ in range(2):
        environ: dict[str, str] = {}
        prepare(Settings(), environ)
        secrets.append(environ["AUTH_CACHE_SECRET"])
        forget(environ)
    assert secrets[0] != secrets[1]
    assert all(len(secret) == 64 for secret in secrets)


def test_a_given_secret_is_kept(environ: dict[str, str]) -> None:
    prepare(Settings(auth_cache_secret="s3cret"), environ)
    assert environ["AUTH_CACHE_SECRET"] == "s3cret"


def test_a_reload_finds_everything_made(environ: dict[str, str]) -> None:
    """SIGHUP: the master reads its configuration again, its workers go on with the same cache."""
    folder = prepare(Settings(), environ)
    (folder / "metrics" / "counter_17.db").write_bytes(b"of a worker that lives")
    before = dict(environ)
    assert prepare(Settings(instance_folder=environ["INSTANCE_FOLDER"]), environ) == folder
    assert environ == before
    assert (folder / "metrics" / "counter_17.db").exists()


def test_the_environment_of_another_master_is_not_believed(environ: dict[str, str]) -> None:
    """A gunicorn started from within another one's environment prepares for itself."""
    program = (
        "print(prepare(__import__('config').load(os.environ), os.environ)); forget(os.environ)"
    )
    folder = prepare(Settings(), environ)
    other = in_another_process(program, environ)
    assert other
    assert Path(other) != folder
    assert folder.is_dir()


def test_a_given_folder_is_for_the_next_master_too(environ: dict[str, str], tmp_path: Path) -> None:
    program = (
        "print(prepare(__import__('config').load(os.environ), os.environ)); forget(os.environ)"
    )
    prepare(Settings(instance_folder=str(tmp_path)), environ)
    assert in_another_process(program, environ) == str(tmp_path)


def test_what_was_made_up_is_removed(environ: dict[str, str]) -> None:
    folder = prepare(Settings(), environ)
    forget(environ)
    assert not folder.exists()


def test_what_was_given_stays(environ: dict[str, str], tmp_path: Path) -> None:
    prepare(Settings(instance_folder=str(tmp_path)), environ)
    forget(environ)
    assert (tmp_path / "metrics").is_dir()


def test_a_worker_that_ends_removes_nothing(environ: dict[str, str]) -> None:
    folder = prepare(Settings(), environ)
    in_another_process("forget(os.environ)", environ)
    assert folder.is_dir()


def test_what_a_killed_instance_left_behind_is_removed(environ: dict[str, str]) -> None:
    program = "print(prepare(__import__('config').Settings(), os.environ)); os._exit(0)"
    left = Path(in_another_process(f"{program}", {"PYTHONUNBUFFERED": "1"}))
    assert left.is_dir()
    lives: dict[str, str] = {}
    alive = prepare(Settings(), lives)
    assert not left.exists()
    prepare(Settings(), environ)
    assert alive.is_dir(), "its instance lives"
    forget(lives)


def test_a_folder_that_cannot_be_used_does_not_stop_the_start(
    tmp_path: Path, environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    folder = prepare(Settings(instance_folder=str(tmp_path / "file")), environ)
    assert environ["PROMETHEUS_MULTIPROC_DIR"] == str(folder / "metrics")
    assert "cannot use" in caplog.text


def test_a_folder_that_vanished_is_made_again_and_is_still_alive(environ: dict[str, str]) -> None:
    folder = prepare(Settings(), environ)
    shutil.rmtree(folder)
    restore(environ)
    assert (folder / "metrics").is_dir()
    assert folder.stat().st_mode & 0o777 == 0o700
    in_another_process(
        "prepare(__import__('config').Settings(), os.environ); forget(os.environ)", {}
    )
    assert folder.is_dir(), "its instance lives"
