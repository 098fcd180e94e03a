"""The folder that the workers of an instance share is full, or vanishes, under load; a worker ends
meanwhile. No request fails, the instance lives, and health names the cause."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil

from devstack.proxy import Proxy
from tests.drills.load import Client, Load
from tests.drills.report import Row, counted
from tests.drills.stage import Stage
from tests.upstreams import Upstream, eventually, refused_port
from tests.wire import bearer, call, request

API = "/api/mlflow/api/2.0/mlflow"

#: The first is asked before the fault; all of them afterwards: each is a label combination that has
#: not been counted before, for which the metric files have to grow.
ASKED = (
    ("GET", f"{API}/experiments/search"),
    ("POST", f"{API}/experiments/search"),
    ("GET", f"{API}/runs/get?run_id=1"),
    ("POST", f"{API}/runs/search"),
    ("GET", f"{API}/registered-models/search"),
    ("PATCH", f"{API}/registered-models/update"),
    ("GET", f"{API}/metrics/get-history?run_id=1"),
    ("GET", f"{API}/logged-models/m-1"),
    ("POST", "/api/mlflow/api/3.0/mlflow/traces/search"),
    ("GET", "/api/mlflow/graphql"),
    ("GET", "/api/mlflow/version"),
)

#: Bytes of the file system.
SIZE = 8 * 1024 * 1024


@dataclass(frozen=True)
class Fault:
    """What happens to the folder, how it ends, and whether health has to name it until then: a
    folder that has vanished is made again before anybody can ask."""

    name: str
    begin: Callable[[Path], None]
    end: Callable[[Path], None]
    lasts: bool


def fill(folder: Path) -> None:
    """Takes all the room there is."""
    with (folder.parent / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            return


def free(folder: Path) -> None:
    """Gives the room back."""
    (folder.parent / "filler").unlink()


def replace(folder: Path) -> None:
    """Puts a file in the folder's place."""
    shutil.rmtree(folder)
    folder.write_bytes(b"")


FULL = Fault("the instance's folder is full", fill, free, lasts=True)
GONE = Fault("the instance's folder is removed", shutil.rmtree, lambda _: None, lasts=False)
REPLACED = Fault("a file is in its place", replace, Path.unlink, lasts=True)


@contextmanager
def small_file_system(where: Path) -> Iterator[Path | None]:
    """A folder on a file system of SIZE; None where this user may not mount one."""
    place = Path(tempfile.mkdtemp(prefix="small-", dir=where))
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},nr_inodes=2000", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def drill(stage: Stage, answers: int) -> Iterator[Row]:
    """Every fault, with Redis and without; `answers` are waited for before the fault, in it, and
    after it."""
    for fault in (FULL, GONE, REPLACED):
        for redis_is_there in (True, False):
            yield one(stage, fault, redis_is_there, answers)
            stage.clear()


def one(stage: Stage, fault: Fault, redis_is_there: bool, answers: int) -> Row:
    """One fault, on a proxy of its own."""
    with small_file_system(stage.folder) as place, Upstream() as fake, refused_port() as nobody:
        if place is None and fault is FULL:
            return Row("instance folder", fault.name, "–", "this user may not mount", None, {})
        place = place or Path(tempfile.mkdtemp(dir=stage.folder))
        redis = {} if redis_is_there else {"REDIS_URL": f"redis://127.0.0.1:{nobody}/0"}
        folder = place / "instance"
        proxy = stage.proxy(
            MLFLOW_SERVER_URL=fake.url,
            WEB_CONCURRENCY=2,
            INSTANCE_FOLDER=folder,
            AUDIT_LOG=place / "audit.log",
            METRICS_EMF="true",
            METRICS_EMF_INTERVAL=1,
            HEALTH_CACHE_TTL=0.2,
            **redis,
        )
        return _under_load(stage, proxy, folder, fault, redis_is_there, answers)


def _under_load(
    stage: Stage, proxy: Proxy, folder: Path, fault: Fault, redis_is_there: bool, answers: int
) -> Row:
    key = stage.new_key(1_000_000)[0]
    sent = [request(m, target, bearer(key), "Content-Length: 0") for m, target in ASKED]
    clients, turn, most = [Client(proxy.url) for _ in range(6)], count(), [1]

    def ask(number: int) -> int:
        return clients[number].ask(sent[next(turn) % most[0]]).status

    with Load(ask, len(clients), pause=0.005) as load:

        def wait_for_more() -> None:
            enough = len(load.seen) + answers
            eventually(lambda: len(load.seen) > enough, "more answers", 120)

        wait_for_more()
        before = workers(proxy)
        fault.begin(folder)
        most[0] = len(sent)
        if fault.lasts:
            eventually(lambda: instance_check(proxy)["status"] == "degraded", "health to say so")
        said = instance_check(proxy)["message"]
        wait_for_more()
        os.kill(before[0], signal.SIGTERM)  # the master merges its metrics, and starts another
        eventually(
            lambda: len(workers(proxy)) == 2 and before[0] not in workers(proxy), "a new worker"
        )
        wait_for_more()
        fault.end(folder)
        eventually(lambda: instance_check(proxy)["status"] == "healthy", "health to be well again")
        wait_for_more()
    for client in clients:
        client.close()
    lives = proxy.is_running() and before[1] in workers(proxy)
    # What the worker that ended counted can only be in the folder.
    missing = len(load.seen) - counted_requests(proxy)
    wrong = [status for status in load.statuses if status != 200]
    return Row(
        "instance folder",
        fault.name + ("" if redis_is_there else ", and Redis away"),
        f"6 clients, {len(load.seen):,} requests, a worker ends meanwhile",
        f"{counted(load.statuses)}; health: {said if fault.lasts else 'healthy'}",
        None,
        facts={"master and workers live": lives, "every request is answered": not wrong},
        numbers={"missing_from_metrics": missing, "lives": lives},
    )


def instance_check(proxy: Proxy) -> dict[str, str]:
    """What health says of the instance."""
    check: dict[str, str] = call(proxy.url, "GET", "/api/health").json["checks"]["instance"]
    return check


def counted_requests(proxy: Proxy) -> int:
    """How many requests to MLflow /metrics has counted."""
    lines = call(proxy.url, "GET", "/metrics").body.decode().splitlines()
    name = "hokusai_proxy_requests_total{"
    of_mlflow = [line for line in lines if line.startswith(name) and 'kind="own"' not in line]
    return round(sum(float(line.rpartition(" ")[2]) for line in of_mlflow))


def workers(proxy: Proxy) -> list[int]:
    """The process ids of its workers."""
    return sorted(child.pid for child in psutil.Process(proxy.pid).children())
