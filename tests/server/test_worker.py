"""The worker while it boots; once it serves, tests/walk and tests/faults look at it."""

from pathlib import Path

from devstack.proxy import Proxy
from tests.upstreams import eventually

#: The application, whose first import a SIGTERM interrupts.
INTERRUPTED = """
import os, signal
from pathlib import Path

told = Path(__file__).with_name("told")
if not told.exists():
    told.touch()
    os.kill(os.getpid(), signal.SIGTERM)
from wsgi import app
"""


def test_a_worker_that_is_told_to_stop_while_it_boots_does_not_end_the_instance(
    tmp_path: Path,
) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    settings = {"REDIS_URL": "memory://", "GRACEFUL_TIMEOUT": "2"}
    proxy = Proxy(tmp_path / "proxy", settings, ready="/health")
    proxy.command[-1:] = ["--pythonpath", str(tmp_path), "interrupted:app"]
    proxy.start()
    try:
        eventually(lambda: log(proxy).count("Booting worker") == 2, "the worker's successor")
        proxy.wait_until_ready()
        assert (tmp_path / "told").exists()
        assert "Worker failed to boot" not in log(proxy)
    finally:
        proxy.stop()


def log(proxy: Proxy) -> str:
    return proxy.log.read_text()
