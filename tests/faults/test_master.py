"""The master outlives what goes wrong beside workers that serve."""

import os
import resource
import shutil
import signal
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from devstack.environments import ROOT
from devstack.proxy import Proxy
from tests.drills.instance_folder import workers
from tests.drills.stage import Stage
from tests.upstreams import Answer, Upstream, eventually, pause, send, sized
from tests.wire import Wire, bearer, call, request

#: A route that writes, so that there is an audit line.
WRITE = "/api/mlflow/api/2.0/mlflow/runs/create"


def serves(proxy: Proxy) -> bool:
    return proxy.is_running() and call(proxy.url, "GET", "/health").status == 200


def said(proxy: Proxy, words: str) -> bool:
    return any(words in line["message"] for line in proxy.log_lines())


def has_served(worker: int) -> bool:
    """Whether a worker's loop runs: its heartbeat is in monotonic seconds from then on."""
    folder = Path(f"/proc/{worker}/fd")
    try:
        files = [file for file in folder.iterdir() if "heartbeat" in os.readlink(file)]
        return bool(files) and all(file.stat().st_mtime <= time.monotonic() for file in files)
    except OSError:  # it has ended, or just now closed those of the others
        return False


def wait_for_both(proxy: Proxy) -> list[int]:
    """Its two workers, once both serve."""
    eventually(
        lambda: [has_served(pid) for pid in workers(proxy)] == [True, True], "two workers to serve"
    )
    return workers(proxy)


@contextmanager
def few_files(pid: int, more: int) -> Iterator[None]:
    """A process can open that many files more than it has open, or less (of those it closes)."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + more, hard))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "words"),
    [(-2, "cannot start a worker"), (4, "a worker failed to boot")],
    ids=["none can be forked", "the new one does not come up"],
)
def test_it_goes_on_while_a_dead_worker_cannot_be_replaced(
    stage: Stage, fake: Upstream, more: int, words: str
) -> None:
    proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url, WEB_CONCURRENCY=2)
    dead, alive = wait_for_both(proxy)
    with few_files(proxy.pid, more):
        os.kill(dead, signal.SIGKILL)
        eventually(lambda: said(proxy, words), "the master to say so")
        assert serves(proxy)
    eventually(lambda: len(workers(proxy)) == 2, "a new worker")
    assert alive in workers(proxy)
    stage.clear()


@pytest.mark.slow
def test_it_ends_where_no_worker_is_left(stage: Stage, fake: Upstream) -> None:
    """Whoever started the instance sees it, and starts it anew."""
    proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url)
    (dead,) = workers(proxy)
    with few_files(proxy.pid, 4):
        os.kill(dead, signal.SIGKILL)
        eventually(lambda: not proxy.is_running(), "the end of the instance")
    stage.clear()


@pytest.mark.slow
def test_no_signal_and_no_dead_worker_ends_it_while_the_audit_file_has_no_folder(
    stage: Stage, fake: Upstream, key: str, tmp_path: Path
) -> None:
    folder = tmp_path / "audit"
    folder.mkdir()
    proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url, WEB_CONCURRENCY=2, AUDIT_LOG=folder / "log")
    before = wait_for_both(proxy)
    shutil.rmtree(folder)
    os.kill(proxy.pid, signal.SIGUSR1)
    eventually(lambda: said(proxy, "cannot reopen a log file"), "the log to be opened again")
    assert serves(proxy)
    os.kill(before[0], signal.SIGKILL)
    eventually(lambda: before[0] not in workers(proxy), "the worker's end")
    os.kill(wait_for_both(proxy)[0], 0)
    folder.write_bytes(b"")  # worse: a file where the folder was
    old = workers(proxy)
    os.kill(proxy.pid, signal.SIGHUP)
    eventually(lambda: not set(old) & set(workers(proxy)), "new workers")
    assert call(proxy.url, "POST", WRITE, bearer(key), body=b"{}").status == 200
    eventually(lambda: '"logger":"hokusai.audit"' in proxy.log.read_text(), "the audit's line")
    stage.clear()


class Changeable(Proxy):
    """A proxy whose configuration file, and whose program, can be taken away."""

    def __init__(self, folder: Path, settings: dict[str, str], ready: str) -> None:
        super().__init__(folder, settings, ready=ready)
        folder.mkdir(exist_ok=True)
        self.configuration, self.program = folder / "gunicorn.conf.py", folder / "python"
        self.configuration.write_text((ROOT / "gunicorn.conf.py").read_text())
        self.program.symlink_to(sys.executable)
        # It is no longer in its environment.
        self.environment["PYTHONPATH"] = sysconfig.get_path("purelib")
        self.command = [str(self.program), "-m", "gunicorn", "-c", str(self.configuration)]
        self.command.append("wsgi:app")


@pytest.mark.slow
def test_signals_that_cannot_be_obeyed_change_nothing(stage: Stage, fake: Upstream) -> None:
    proxy = stage.start(Changeable, {"MLFLOW_SERVER_URL": fake.url, "WEB_CONCURRENCY": 2})
    assert isinstance(proxy, Changeable)
    before = wait_for_both(proxy)
    proxy.configuration.write_text("from app.server import what_is_not_there")
    os.kill(proxy.pid, signal.SIGHUP)
    eventually(lambda: said(proxy, "the reload failed"), "the reload to fail")
    proxy.program.unlink()
    os.kill(proxy.pid, signal.SIGUSR2)
    eventually(lambda: said(proxy, "cannot start a second master"), "the second master to fail")
    eventually(lambda: workers(proxy) == before, "the second master's end")
    assert serves(proxy)
    proxy.configuration.write_text((ROOT / "gunicorn.conf.py").read_text())
    os.kill(proxy.pid, signal.SIGHUP)
    eventually(lambda: not set(before) & set(workers(proxy)), "new workers")
    assert serves(proxy)
    stage.clear()


#: Ends a new worker about when it would serve.
FAILING_START = """
def post_fork(server, worker):
    import time
    time.sleep(2)
    raise OSError("a bad release")
"""


@pytest.mark.slow
def test_a_reload_whose_workers_do_not_come_up_leaves_those_of_before(
    stage: Stage, fake: Upstream
) -> None:
    proxy = stage.start(Changeable, {"MLFLOW_SERVER_URL": fake.url, "WEB_CONCURRENCY": 2})
    assert isinstance(proxy, Changeable)
    before = wait_for_both(proxy)
    good = proxy.configuration.read_text()
    proxy.configuration.write_text(f"{good}{FAILING_START}")
    os.kill(proxy.pid, signal.SIGHUP)
    eventually(lambda: said(proxy, "a worker failed to boot"), "the new ones to fail")
    eventually(lambda: workers(proxy) == before, "their end")
    assert serves(proxy)
    proxy.configuration.write_text(good)
    os.kill(proxy.pid, signal.SIGHUP)
    eventually(lambda: not set(before) & set(workers(proxy)), "new workers")
    assert serves(proxy)
    stage.clear()


@pytest.mark.slow
def test_workers_that_were_stopped_together_with_the_master_go_on(
    stage: Stage, fake: Upstream
) -> None:
    """As `docker pause` does, for longer than the time in which a worker must show that it lives,
    which is 60 s in production."""
    proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url, WEB_CONCURRENCY=2, GUNICORN_CMD_ARGS="-t 4")
    before = wait_for_both(proxy)
    instance = [proxy.pid, *before]
    for process in instance:
        os.kill(process, signal.SIGSTOP)
    time.sleep(6)
    for process in instance:
        os.kill(process, signal.SIGCONT)
    eventually(lambda: said(proxy, "the instance was paused for"), "the master to notice")
    time.sleep(3)
    assert serves(proxy)
    assert workers(proxy) == before
    os.kill(before[0], signal.SIGSTOP)  # it alone: it hangs
    eventually(lambda: before[0] not in workers(proxy), "its end")
    stage.clear()


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGHUP, signal.SIGUSR2])
def test_a_signal_for_the_master_ends_no_worker_that_gets_it_too(
    stage: Stage, fake: Upstream, key: str, sent: signal.Signals
) -> None:
    """As `systemctl kill -s HUP` and `pkill -HUP gunicorn` send it, to all processes."""
    proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url, WEB_CONCURRENCY=2, GRACEFUL_TIMEOUT=20)
    before = wait_for_both(proxy)
    fake.answers(Answer(pause(2), send(sized())))
    with Wire(proxy.url) as transfer:
        transfer.send(request("POST", WRITE, bearer(key), body=b"{}"))
        fake.wait_for(lambda: bool(fake.requests), "the request")
        for process in (*before, *([proxy.pid] if sent is signal.SIGHUP else [])):
            os.kill(process, sent)
        assert serves(proxy)
        assert transfer.read().status == 200
    if sent is signal.SIGHUP:
        eventually(lambda: not set(before) & set(workers(proxy)), "new workers")
    else:
        assert workers(proxy) == before
    stage.clear()
