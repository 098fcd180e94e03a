"""docs/health.md tells what the checks say: every message, every check, every path."""

import pytest

from app.health.checks import CHECKS, MLFLOW_QUESTIONS
from app.health.endpoints import COMPREHENSIVE
from app.health.faults import FAULTS
from app.health.instance_check import WITHOUT_FOLDER, WITHOUT_TMPDIR
from app.state.redis_rights import EXPLAINED
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs/health.md").read_text(encoding="utf-8")
RIGHTS = EXPLAINED.replace(" Add to its ACL", " | Add to its ACL")
ROWS = [
    f"{fault.message} | {fault.remedy}"
    for key, fault in FAULTS.items()
    if "." in key and key != "redis.permission"
]


@pytest.mark.parametrize("row", [*ROWS, RIGHTS])
def test_each_message_has_its_row_with_its_remedy(row: str) -> None:
    assert len([line for line in PAGE.splitlines() if line.startswith(f"| {row}")]) == 1
    assert len(row.split(" | ")[-1]) > 4


def test_each_check_and_each_path_is_named() -> None:
    for name in CHECKS:
        assert f"\n| `{name}` | " in PAGE
    for path in (*COMPREHENSIVE, "/health", "/ready"):
        assert f"`{path}`" in PAGE
    assert WITHOUT_FOLDER in PAGE.replace("\n", " ")
    assert WITHOUT_TMPDIR in PAGE.replace("\n", " ")
    assert "four small GETs" in PAGE
    assert len(MLFLOW_QUESTIONS) == 4


def test_there_are_messages_to_be_listed() -> None:
    assert len(ROWS) > 30
