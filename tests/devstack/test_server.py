"""Servers as child processes: ready, reported, ended, and never left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from devstack.environments import ROOT
from devstack.redis import Redis
from devstack.server import Running, Server, ServerFailed

FOREVER = "import time; time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
WITH_A_CHILD = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {STUBBORN + FOREVER!r}])
print("both run", flush=True)
{FOREVER}
"""


class Script(Server):
    """A Python program as a server, ready once it has said that it runs."""

    name = "script"

    def __init__(self, folder: Path, program: str) -> None:
        super().__init__([sys.executable, "-c", program], folder)

    def is_ready(self) -> bool:
        return "run" in self.log.read_text()


def group_of(pid: int) -> list[psutil.Process]:
    """The living processes of a group."""
    members = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def gone_within(seconds: float, pid: int) -> bool:
    deadline = time.monotonic() + seconds
    while group_of(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not group_of(pid)


def test_redis_starts_stops_and_starts_again(tmp_path: Path) -> None:
    redis = Redis(tmp_path)
    for _ in range(2):
        redis.start()
        redis.wait_until_ready()
        pid = redis.pid
        redis.stop()
        assert not redis.is_ready()
        assert not psutil.pid_exists(pid)


def test_servers_end_together_even_if_one_of_them_fails(tmp_path: Path) -> None:
    with Running() as running:
        pid = running.start(Redis(tmp_path)).pid
        failing = Script(tmp_path, f"print('starts'); {FOREVER}")
        failing.timeout = 0.5
        with pytest.raises(ServerFailed):
            running.start(failing)
        failed_pid = failing.pid
    assert not psutil.pid_exists(pid)
    assert not psutil.pid_exists(failed_pid)


def test_a_server_that_dies_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    server = Script(tmp_path, "print('no such luck'); raise SystemExit(3)")
    server.start()
    with pytest.raises(ServerFailed, match=r"(?s)script ended with status 3.*no such luck"):
        server.wait_until_ready()
    server.stop()


def test_a_server_that_never_gets_ready_is_reported(tmp_path: Path) -> None:
    server = Script(tmp_path, f"print('still thinking', flush=True); {FOREVER}")
    server.timeout = 0.5
    server.start()
    with pytest.raises(ServerFailed, match=r"(?s)not ready after.*still thinking"):
        server.wait_until_ready()
    server.stop()


def test_children_that_ignore_the_signal_are_ended_too(tmp_path: Path) -> None:
    server = Script(tmp_path, WITH_A_CHILD)
    server.start()
    server.wait_until_ready()
    pid = server.pid
    assert len(group_of(pid)) == 2
    server.stop(grace=0.3)
    assert gone_within(2, pid)


def test_servers_end_with_their_owner_even_if_it_is_killed(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert owner.stdout
    with owner.stdout:
        pid = int(owner.stdout.readline())
    assert len(group_of(pid)) == 1
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert gone_within(5, pid)


OWNER = """
import sys, time, pathlib
from devstack.redis import Redis
redis = Redis(pathlib.Path(sys.argv[1]))
redis.start()
redis.wait_until_ready()
print(redis.pid, flush=True)
time.sleep(600)
"""
