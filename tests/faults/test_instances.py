"""Three proxies count a key's limit as one, on every kind of Redis, and go on while it is away."""

from collections.abc import Callable, Iterator

import pytest

from tests.drills import instances
from tests.drills.report import Row, kept
from tests.drills.stage import Stage

ANSWERED = kept("every request is answered")
LIMITED = kept("the limit is granted", "the others get 429")


@pytest.mark.slow
@pytest.mark.parametrize("drill", [instances.outage, instances.failover, instances.lost_node])
def test_three_proxies_count_as_one(stage: Stage, drill: Callable[[Stage], Iterator[Row]]) -> None:
    for row in drill(stage):
        print(row.line())
        assert row.facts in (ANSWERED, LIMITED), row
