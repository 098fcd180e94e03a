"""docs/observability.md tells what the lines hold: every field and every result."""

import json
import re
from typing import Any

from app.observability import audit
from app.observability.record import Record
from app.server.logs import dict_config
from config import Settings
from tests.app.samples import CREATE, inbound, principal
from tests.docs.pages import ROOT, blocks

PAGE_FILE = ROOT / "docs/observability.md"
PAGE = PAGE_FILE.read_text(encoding="utf-8")

#: What the formatter puts before the fields of a line.
FIRST = ["time", "level", "logger", "message"]


def section(heading: str) -> str:
    """The page's text under a heading."""
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def told(heading: str) -> list[str]:
    """The fields in the first table under a heading."""
    rows = section(heading).partition("|---|---|\n")[2].partition("\n\n")[0].splitlines()
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split(" | ")[0])]


def record() -> Record:
    """A request that has everything a request can have."""
    made = Record("request-0001", "POST", "/mlflow/api/2.0/mlflow/runs/create", "192.0.2.7")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    target = "/mlflow/api/2.0/mlflow/runs/create"
    made.inbound, made.route = inbound("POST", target, HTTP_TRACEPARENT=trace), CREATE
    made.principal, made.auth_source, made.auth_seconds = principal(), "hit", 0.1
    made.upstream_seconds, made.attempts, made.error_code = 0.2, 1, "X"
    made.workspace = "team-a"
    made.body, made.dropped = b'{"run_id": "r"}', "X-User"
    return made


def test_each_field_of_a_requests_line_has_its_row() -> None:
    assert told("Request log") == FIRST + list(record().line("http://mlflow.test"))


def test_each_field_of_an_audit_line_has_its_row() -> None:
    fields = FIRST + list(audit.line(record(), "accepted"))
    assert sorted(told("Audit log")) == sorted(fields)


def test_each_result_of_a_write_is_explained() -> None:
    results = (audit.ACCEPTED, audit.REFUSED, audit.REFUSED_BY_PROXY, audit.UNKNOWN)
    rows = section("Audit log").partition("| result | means |")[2]
    assert re.findall(r"^\| `([a-z ]+)` \|", rows, re.MULTILINE) == list(results)


def test_the_lines_that_are_shown_have_the_fields_of_real_ones() -> None:
    lines = [json.loads(block.code) for block in blocks(PAGE_FILE) if block.language == "json"]
    shown = {line["logger"]: list(line) for line in lines}
    real: dict[str, list[Any]] = {
        "hokusai.access": FIRST + list(record().line("http://mlflow.test")),
        "hokusai.audit": FIRST + list(audit.line(record(), "accepted")),
    }
    for logger, fields in real.items():
        absent = {
            "trace_id",
            "error_code",
            "dropped_headers",
            "workspace",
        }  # the usual request has none
        assert shown[logger] == [field for field in fields if field not in absent]


def test_each_logger_with_lines_of_its_own_is_named() -> None:
    ours = [name for name in dict_config(Settings())["loggers"] if name.startswith("hokusai.")]
    assert [name for name in ours if f"`{name}`" not in PAGE] == []
    assert len(ours) > 2
