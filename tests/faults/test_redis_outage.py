"""Redis stopped, frozen, slow, read-only or full: whoever is in keeps going, hardly slower."""

import time

import pytest

from tests.drills.redis_outage import (
    FAULTS,
    Fault,
    load_on,
    outage,
    redis_under_test,
    remarks,
    take,
)
from tests.drills.report import kept
from tests.drills.stage import Quiet, Stage
from tests.upstreams import Upstream


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_known_keys_go_on_and_the_shared_count_comes_back(
    stage: Stage, fault: Fault, alone: Quiet
) -> None:
    row = outage(stage, fault, answers=200, quiet=alone)
    stage.clear()
    print(row.line())
    assert row.facts == kept("every request is answered", "hardly slower", "the log is quiet"), row


@pytest.mark.slow
def test_a_redis_that_comes_and_goes_floods_neither_clients_nor_the_log(
    stage: Stage, fake: Upstream
) -> None:
    with redis_under_test(stage.folder) as broken:
        proxy = stage.proxy(
            REDIS_URL=f"redis://{broken.through.address}/0",
            REDIS_RETRY_INTERVAL=0.1,
            MLFLOW_SERVER_URL=fake.url,
            WEB_CONCURRENCY=2,
        )
        with load_on(proxy, (stage.new_key(1_000_000)[0], stage.key()) * 4) as load:
            take(load, 100)
            began, lines = time.monotonic(), len(remarks(proxy))
            for _ in range(12):
                broken.through.refuse()
                take(load, 50)
                broken.through.heal()
                time.sleep(0.3)
            seconds = time.monotonic() - began
        said = remarks(proxy)[lines:]
        stage.clear()
    print(f"{len(said)} lines of two workers in {seconds:.0f} s, Redis gone twelve times")
    assert set(load.statuses) == {200}
    assert 2 <= len(said) <= 4 * (1 + seconds // 10), "gone and back, in ten seconds, each worker"
