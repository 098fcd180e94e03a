"""An instance lives on when the folder that its workers share is full, or vanishes."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.drills import instance_folder
from tests.drills.instance_folder import FULL, GONE, REPLACED, Fault
from tests.drills.report import kept
from tests.drills.stage import Stage
from tests.upstreams import Upstream, eventually
from tests.wire import bearer, call


@pytest.mark.slow
@pytest.mark.parametrize("redis_is_there", [True, False], ids=["with Redis", "Redis away"])
@pytest.mark.parametrize("fault", [FULL, GONE, REPLACED], ids=lambda fault: str(fault.name))
def test_no_request_fails_and_the_instance_lives(
    stage: Stage, fault: Fault, redis_is_there: bool
) -> None:
    row = instance_folder.one(stage, fault, redis_is_there, answers=50)
    print(row.line())
    stage.clear()
    if row.load == "–":
        pytest.skip(row.saw)
    assert row.facts == kept("master and workers live", "every request is answered"), row


#: What the folder can be at the start: a place where nothing can be made, full, without an inode.
UNUSABLE = ("not a folder", "full", "no inode")


@pytest.mark.slow
@pytest.mark.parametrize("how", UNUSABLE)
def test_it_starts_and_replaces_a_worker_where_the_folder_cannot_be_used(
    stage: Stage, fake: Upstream, key: str, tmp_path: Path, how: str
) -> None:
    with instance_folder.small_file_system(tmp_path) as place:
        if how == "not a folder":
            folder = Path("/dev/null")
        elif place is None:
            pytest.skip("this user may not mount a file system")
        else:
            folder = place / "instance"
            use_up(place, how)
        proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url, INSTANCE_FOLDER=folder, TMPDIR=place or "")
        (worker,) = instance_folder.workers(proxy)
        os.kill(worker, signal.SIGKILL)
        eventually(
            lambda: instance_folder.workers(proxy) not in ([], [worker]), "a new worker to start"
        )
        for _ in range(20):
            assert call(proxy.url, "GET", "/api/mlflow/version", bearer(key)).status == 200
        assert call(proxy.url, "GET", "/metrics").status == 200
        assert instance_folder.instance_check(proxy)["status"] == "degraded"
        troubles = [line for line in proxy.log_lines() if line["level"] in ("ERROR", "WARNING")]
        assert len(troubles) < 15, "once, not for each request"
        stage.clear()


def use_up(place: Path, how: str) -> None:
    if how == "full":
        instance_folder.fill(place / "instance")
        return
    with suppress(OSError):
        for number in range(100_000):
            (place / f"file{number}").touch()
