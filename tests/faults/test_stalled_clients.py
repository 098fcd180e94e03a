"""Clients that stop in the middle keep nobody else waiting, and are dropped in time."""

import pytest

from tests.drills import stalled
from tests.drills.report import kept
from tests.drills.stage import Stage

#: `make drill` has 200 of each kind, and 100 ms. Here other tests' machines must pass too.
STALLED, MOST_MS = 60, 500


@pytest.mark.slow
def test_nobody_waits_for_stalled_clients_and_they_are_dropped_in_time(stage: Stage) -> None:
    rows = list(stalled.drill(stage, STALLED, asked=150, most_ms=MOST_MS, idle=4, alone=False))
    for row in rows:
        print(row.line())
        assert row.facts == kept(
            "others are answered", "/health is quick", "stalled clients are dropped"
        ), row
