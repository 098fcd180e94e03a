"""The next version beside the present one behind nginx, and back: no request fails."""

import pytest

from tests.drills import blue_green
from tests.drills.report import kept
from tests.drills.stage import Stage
from tests.nginx import require_nginx


@pytest.mark.slow
def test_green_takes_over_from_blue_and_gives_back_without_a_failed_request(stage: Stage) -> None:
    require_nginx()
    (row,) = blue_green.drill(stage, clients=4, between=0.5)
    assert row.facts == kept("no request failed", "there was load"), row
