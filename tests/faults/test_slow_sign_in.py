"""Sign-in forms that never end silence neither the health checks nor other people's sign-ins."""

import pytest

from tests.drills import slow_sign_in
from tests.drills.report import kept
from tests.drills.stage import Stage


@pytest.mark.slow
def test_slow_sign_ins_stop_nobody(stage: Stage) -> None:
    """`make drill` has 500 of them, and 100 ms. Here a busy machine must pass too."""
    (row,) = slow_sign_in.drill(stage, connections=100, asked=100, most_ms=1000, limit=2)
    print(row.line())
    assert row.facts == kept("/health is answered", "people sign in", "/health is quick"), row
