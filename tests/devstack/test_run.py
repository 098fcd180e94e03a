"""`python -m devstack`, which is `make run`: the whole product, from the first line to the last."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from devstack.environments import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("mlflow_python")]

READY_WITHIN = 90  # seconds


class Run:
    """One run in a folder, in a process group of its own, as a terminal would have it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder.with_suffix(".out")
        with self.output.open("wb") as output:
            self.process = psutil.Popen(
                [sys.executable, "-m", "devstack", "--folder", str(folder)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.family: list[psutil.Process] = []

    def wait_for(self, text: str) -> str:
        """What it printed so far, once the text is in it."""
        deadline = time.monotonic() + READY_WITHIN
        while text not in (printed := self.output.read_text()):
            assert self.process.poll() is None, printed
            assert time.monotonic() < deadline, printed
            time.sleep(0.1)
        self.family = self.process.children(recursive=True)
        return printed

    def signal(self, signum: int) -> int:
        """Send a signal to its whole group; return the exit status."""
        os.killpg(self.process.pid, signum)
        return int(self.process.wait(60))

    def left_over(self, within: float = 30.0) -> list[psutil.Process]:
        """Processes of the family that live on."""
        return psutil.wait_procs(self.family, timeout=within)[1]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    started = Run(tmp_path / "stack")
    yield started
    if started.process.poll() is None:
        started.signal(signal.SIGTERM)


def printed_example(printed: str) -> str:
    """The Python lines that the user is to paste."""
    block = re.search(r"Python:\n\n((?:  .*\n)+)", printed)
    assert block
    return re.sub(r"(?m)^  ", "", block[1])


def test_what_it_prints_works_when_pasted_and_ctrl_c_leaves_nothing(run: Run) -> None:
    printed = run.wait_for("Ctrl-C ends everything")
    pasted = subprocess.run(
        [sys.executable, "-c", printed_example(printed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert pasted.returncode == 0, pasted.stderr
    assert len(run.family) >= 6  # Redis, MLflow and its worker, the auth service, gunicorn, …
    assert run.signal(signal.SIGINT) == 128 + signal.SIGINT
    assert run.left_over() == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_after_another_end_either(run: Run, signum: int) -> None:
    run.wait_for("✓ auth service")
    run.signal(signum)
    assert run.left_over() == []


def test_nothing_is_left_when_the_terminal_closes(tmp_path: Path) -> None:
    ours, terminal = pty.openpty()
    process = psutil.Popen(
        [sys.executable, "-m", "devstack", "--folder", str(tmp_path)],
        cwd=ROOT,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    try:
        printed = b""
        while "✓ redis".encode() not in printed:
            printed += os.read(ours, 4096)
        family = process.children(recursive=True)
    finally:
        os.close(ours)
    assert process.wait(30) == 128 + signal.SIGHUP
    assert psutil.wait_procs(family, timeout=30)[1] == []


def test_a_server_that_dies_is_reported_and_ends_the_run(run: Run) -> None:
    run.wait_for("✓ redis")
    next(child for child in run.family if "mlflow" in " ".join(child.cmdline())).kill()
    assert run.process.wait(30) == 1
    assert re.search(r"mlflow ended .*status -9", run.output.read_text())
    assert run.left_over() == []
