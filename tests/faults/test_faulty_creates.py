"""Creates while MLflow's answers break: what was acknowledged exists, and nothing exists twice."""

import pytest

from tests.drills import creates
from tests.drills.report import kept
from tests.drills.stage import Stage

KEPT = kept(
    "nothing acknowledged is missing", "nothing is there twice", "most creates are acknowledged"
)


@pytest.mark.slow
def test_of_2000_creates_with_faults_none_is_lost_or_doubled(stage: Stage) -> None:
    row = creates.at_a_fake(stage, 2000)
    print(row.line())
    assert row.facts == KEPT, row
    assert row.numbers["unknown"] >= 100, "the faults were there"


@pytest.mark.slow
def test_of_200_creates_in_the_real_mlflow_none_is_lost_or_doubled(stage: Stage) -> None:
    row = creates.at_the_real_one(stage, 200, every=0.6)
    print(row.line())
    assert row.facts == KEPT, row
    assert row.numbers["unknown"] >= 1, "the faults were there"
