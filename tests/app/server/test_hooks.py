"""No hook of gunicorn's ends a process, and no heartbeat needs a folder."""

import ast
import inspect
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from gunicorn.config import KNOWN_SETTINGS

from app.server.heartbeat import Heartbeat
from app.server.hooks import harmless

ROOT = Path(__file__).parents[3]


def test_what_goes_wrong_in_a_hook_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    @harmless
    def child_exit(server: object, worker: object) -> None:
        raise OSError("no folder")

    child_exit(None, None)
    assert len(inspect.signature(child_exit).parameters) == 2, "gunicorn counts them"
    assert "the gunicorn hook child_exit failed" in caplog.text
    assert "no folder" in caplog.text


def test_every_hook_is_harmless() -> None:
    names = {setting.name for setting in KNOWN_SETTINGS}
    tree = ast.parse((ROOT / "gunicorn.conf.py").read_text("utf-8"))
    hooks = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    assert len(hooks) >= 4
    for hook in hooks:
        assert [ast.unparse(each) for each in hook.decorator_list] == ["harmless"], hook.name


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="not on this platform")
def test_a_heartbeat_beats_without_a_folder() -> None:
    heartbeat = Heartbeat(SimpleNamespace(worker_tmp_dir="/does/not/exist"))
    assert os.readlink(f"/proc/self/fd/{heartbeat.fileno()}").startswith("/memfd:")
    heartbeat.notify()
    assert abs(heartbeat.last_update() - time.monotonic()) < 10
    heartbeat.close()


def test_gunicorn_makes_such_heartbeats() -> None:
    """Fails where gunicorn no longer looks for the class where it is put."""
    program = (
        "from app.server import heartbeat; heartbeat.install()\n"
        "from gunicorn.config import Config\n"
        "from gunicorn.workers.sync import SyncWorker\n"
        "worker = SyncWorker(1, 1, [], None, 1, Config(), None)\n"
        "print(type(worker.tmp).__name__)"
    )
    command = [sys.executable, "-c", program]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "Heartbeat"
