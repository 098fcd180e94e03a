"""docs/health.md tells what the checks say: every message, every check, every path."""

import pytest

from app.health import messages
from app.health.checks import CHECKS, MLFLOW_QUESTIONS
from app.health.endpoints import COMPREHENSIVE
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs/health.md").read_text(encoding="utf-8")
TABLES = (
    messages.UNANSWERED,
    messages.MLFLOW,
    messages.REDIS,
    messages.AUTH,
    messages.CIRCUITS,
    messages.PLACES,
    messages.INSTANCE,
)
MESSAGES = [text for table in TABLES for text in table.values()] + [
    messages.SLOW,
    messages.FAILED,
    messages.BUSY,
    messages.IN_LINE,
    messages.PASSWORD,
]


@pytest.mark.parametrize("message", MESSAGES)
def test_each_message_has_its_row_with_what_to_do(message: str) -> None:
    (row,) = [row for row in PAGE.splitlines() if row.startswith(f"| {message} | ")]
    assert len(row.split(" | ")[-1]) > 5


def test_each_check_and_each_path_is_named() -> None:
    for name in CHECKS:
        assert f"\n| `{name}` | " in PAGE
    for path in (*COMPREHENSIVE, "/health", "/ready"):
        assert f"`{path}`" in PAGE
    assert messages.WITHOUT_FOLDER in PAGE.replace("\n", " ")
    assert messages.WITHOUT_TMPDIR in PAGE.replace("\n", " ")
    assert "four small GETs" in PAGE and len(MLFLOW_QUESTIONS) == 4


def test_there_are_messages_to_be_listed() -> None:
    assert len(MESSAGES) > 30
