"""MLflow's clients get through whatever the proxy sheds; nothing is created twice."""

import pytest

from tests.drills import clients
from tests.drills.report import Row, kept
from tests.drills.stage import Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # the first one starts everything


@pytest.fixture(scope="module")
def rows(stage: Stage, client_environments: None) -> dict[str, Row]:
    """The drill, small: all faults one after the other, all clients at once."""
    return dict(zip(clients.FAULTS, clients.drill(stage, calls=2, seconds=2), strict=True))


@pytest.mark.parametrize("fault", clients.FAULTS)
def test_every_call_that_was_shed_succeeds_in_the_end(rows: dict[str, Row], fault: str) -> None:
    row = rows[fault]
    print(row.line())
    assert row.facts == kept(
        "every call succeeds in the end",
        "nothing is there twice",
        "nothing acknowledged is missing",
        "calls were shed",
    ), row
