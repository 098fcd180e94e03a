"""A new version and back, under load: no request is lost; one that cannot start harms nobody."""

import pytest

from tests.drills import rollback
from tests.drills.report import kept
from tests.drills.stage import Stage


@pytest.mark.slow
def test_a_version_is_replaced_and_rolled_back_without_a_failed_request(stage: Stage) -> None:
    there_and_back, cannot_start = rollback.drill(stage, clients=4, between=0.5)
    for row in (there_and_back, cannot_start):
        assert row.facts == kept(
            "no request failed", "there was load", "the versions are those that were planned"
        ), row
