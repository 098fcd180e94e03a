"""2,000 downloads that MLflow breaks off somewhere: none is taken for complete."""

import pytest

from tests.drills import downloads
from tests.drills.report import kept
from tests.drills.stage import Stage


@pytest.mark.slow
def test_no_download_that_was_cut_looks_complete(stage: Stage) -> None:
    row = downloads.drill(stage, 2000)
    print(row.line())
    assert row.facts == kept("no cut download looks complete", "all others are complete"), row
    assert row.numbers["cut"]["broken"] > 1000
