"""Name lookups in health: what they add to a question, and what they leave as it was."""

from app.health.checks import with_name_lookup
from app.health.diagnosis import HEALTHY, Finding, mlflow_at
from app.health.results import Question

PART = mlflow_at("http://127.0.0.1:5000")


def test_a_question_keeps_its_line_and_its_words() -> None:
    """Without its line it would be asked beside those that are to wait for what it finds."""
    before = Question(lambda: Finding(HEALTHY, "well"), "silent", "mlflow", False, "note")
    after = with_name_lookup(before, PART, 1)
    assert after.ask() == Finding(HEALTHY, "well")
    assert (after.silence, after.logged) == ("silent", False)
    assert (after.line, after.note) == ("mlflow", "note")
