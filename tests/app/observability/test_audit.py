"""What an audit line says of a write: the result, and what the request names."""

import json
from typing import Any

import pytest

from app.observability import audit
from app.observability.audit import LONGEST, MOST, MOST_ITEMS
from app.observability.record import Record
from app.request.route_table import RouteTable
from tests.app.samples import KEY, inbound, principal

TABLE = RouteTable.load()
CREATE_RUN = "/api/2.0/mlflow/runs/create"


def record(
    method: str = "POST", target: str = CREATE_RUN, body: bytes | None = b"", **facts: Any
) -> Record:
    """A write that MLflow accepted, unless `facts` say otherwise."""
    made = Record("request-0001", method, f"/mlflow{target}", "198.51.100.7")
    made.inbound = inbound(method, f"/mlflow{target}")
    if found := TABLE.match(method, made.inbound.decoded_path):
        made.route, made.parameters = found
    made.principal, made.body = principal(), body
    made.attempts, made.status, made.outcome = 1, 200, "forwarded"
    for name, value in facts.items():
        setattr(made, name, value)
    return made


def named(target: str, body: object = None, method: str = "POST") -> dict[str, Any]:
    """What a request names."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return audit.resource(record(method, target, content))


# --- the result ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "facts"),
    [
        ("accepted", {}),
        ("accepted", {"status": 204}),
        ("accepted", {"status": 308}),
        ("accepted", {"outcome": "client_gone"}),  # while it was told so
        ("accepted", {"outcome": "broken_transfer"}),
        ("accepted", {"attempts": 3}),
        ("refused", {"status": 400}),
        ("refused", {"status": 404}),
        ("refused", {"status": 500}),
        ("unknown", {"outcome": "upstream_timeout", "status": 504, "error_code": "X"}),
        ("unknown", {"outcome": "upstream_reset", "status": 502, "error_code": "X"}),
        ("unknown", {"outcome": "client_gone", "status": 400, "error_code": "X"}),
        ("unknown", {"outcome": "error", "status": 500, "error_code": "X"}),
        (
            "refused by proxy",
            {"outcome": "forbidden", "status": 403, "error_code": "X", "attempts": 0},
        ),
        (None, {"outcome": "unauthenticated", "status": 401, "error_code": "X", "principal": None}),
        (None, {"outcome": "rate_limited", "status": 429, "error_code": "X", "attempts": 0}),
        (None, {"outcome": "circuit_open", "status": 503, "error_code": "X", "attempts": 0}),
        (None, {"outcome": "upstream_unreachable", "status": 502, "error_code": "X"}),
        (None, {"outcome": "client_gone", "status": 400, "error_code": "X", "attempts": 0}),
    ],
)
def test_the_result_tells_what_became_of_a_write(result: str | None, facts: dict[str, Any]) -> None:
    assert audit.result(record(**facts)) == result


def test_a_line_says_who_what_and_with_which_result() -> None:
    body = json.dumps({"experiment_id": "7", "start_time": 1}).encode()
    assert audit.line(record(body=body), "accepted") == {
        "request_id": "request-0001",
        "user_id": "ann",
        "key_id": "key-1",
        "client_ip": "198.51.100.7",
        "operation": "CreateRun",
        "kind": "runs",
        "method": "POST",
        "upstream_path": CREATE_RUN,
        "resource": {"experiment_id": "7"},
        "result": "accepted",
        "status": 200,
    }


def test_a_route_that_nobody_has_classified_has_a_line_without_an_operation() -> None:
    line = audit.line(record(target="/api/2.0/mlflow/new", body=b'{"run_id": "r"}'), "accepted")
    assert "operation" not in line
    assert line["resource"] == {"run_id": "r"}


# --- what is named -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "body", "resource"),
    [
        ("POST", "/api/2.0/mlflow/runs/log-metric", {"run_id": "r", "key": "k"}, {"run_id": "r"}),
        ("POST", CREATE_RUN, {"experimentId": "7"}, {"experiment_id": "7"}),
        ("POST", CREATE_RUN, {"experiment_id": 7}, {"experiment_id": "7"}),
        (
            "POST",
            "/api/2.0/mlflow/model-versions/create",
            {"name": "m", "source": "s3://b/a?token=1", "run_id": "r", "tags": [{"key": "t"}]},
            {"name": "m", "run_id": "r"},
        ),
        (
            "PATCH",
            "/api/2.0/mlflow/model-versions/update",
            {"name": "m", "version": "2", "description": "text"},
            {"name": "m", "version": "2"},
        ),
        (
            "POST",
            "/api/2.0/mlflow/registered-models/rename",
            {"name": "m", "new_name": "n"},
            {"name": "m", "new_name": "n"},
        ),
        (
            "POST",
            "/api/2.0/mlflow/traces/delete-traces",
            {"experiment_id": "1", "request_ids": ["a", "b", {"c": 1}]},
            {"experiment_id": "1", "request_ids": ["a", "b"]},
        ),
        ("DELETE", "/api/2.0/mlflow/logged-models/m-1", None, {"model_id": "m-1"}),
        ("PATCH", "/api/2.0/mlflow/logged-models/m-1", {"model_id": "m-2"}, {"model_id": "m-1"}),
        (
            "PUT",
            "/api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/a%20b.bin",
            None,
            {"artifact_path": "1/r/artifacts/a b.bin"},
        ),
        (
            "DELETE",
            "/api/3.0/mlflow/mcp-servers/io.example/a/versions/1.0",
            None,
            {"name": "io.example/a", "version": "1.0"},
        ),
        (
            "POST",
            "/ajax-api/2.0/mlflow/upload-artifact?run_uuid=r&path=a%2Fb",
            None,
            {"run_uuid": "r", "path": "a/b"},
        ),
        ("POST", CREATE_RUN + "?experiment_id=8", None, {}),  # MLflow would not read it there
        ("POST", CREATE_RUN + "?experiment_id=8", {"experiment_id": "7"}, {"experiment_id": "7"}),
        (
            "PATCH",
            "/api/2.0/mlflow/users/update-password",
            {"username": "u", "password": "p"},
            {"username": "u"},
        ),
    ],
)
def test_what_a_request_names(
    method: str, target: str, body: object, resource: dict[str, Any]
) -> None:
    assert named(target, body, method) == resource


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"run_id": "r", "value": float("nan")}).encode(),
        json.dumps(json.dumps({"run_id": "r"})).encode(),
        '{"run_id": "r"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"run_id": "r"}',
        b'{"run_id": "other", "run_id": "r"}',
        b'{"run\\u005fid": "r"}',
        b'{"run_id": "r", "a": "\\ud800"}',
    ],
)
def test_a_body_is_read_as_mlflow_reads_it(body: bytes) -> None:
    """Or a writer could hide what it wrote to."""
    assert named("/api/2.0/mlflow/runs/log-metric", body) == {"run_id": "r"}


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\x00", b"[1]", b'"text"', b"7", b"{", b"[" * 60_000, b'"\\ud800"', b"null"],
)
def test_a_body_that_names_nothing(body: bytes) -> None:
    assert named(CREATE_RUN, body) == {}


def test_a_body_that_was_not_held_names_nothing_and_the_path_still_does() -> None:
    given = record("PATCH", "/api/2.0/mlflow/logged-models/m-1", None)
    assert audit.line(given, "accepted")["resource"] == {"model_id": "m-1"}
    assert "resource" not in audit.line(record(body=None), "accepted")


@pytest.mark.parametrize("value", [None, "", {}, {"a": 1}, []])
def test_what_is_no_name_is_left_out(value: object) -> None:
    assert named(CREATE_RUN, {"experiment_id": value}) == {}


# --- limits and secrets --------------------------------------------------------------------------


def test_a_key_in_a_name_is_not_shown() -> None:
    found = named(CREATE_RUN, {"run_name": f"my {KEY}", "run_ids": [KEY, "%68k_test_abc"]})
    assert found == {
        "run_name": "my hk_[removed]",
        "run_ids": ["hk_[removed]", "[removed, it held an encoded key]"],
    }


def test_values_of_parameters_metrics_and_tags_are_not_shown() -> None:
    secret = {"key": "canary", "value": "canary"}
    body = {"run_id": "r", **secret, "metrics": [secret], "params": [secret], "tags": [secret]}
    line = audit.line(record(body=json.dumps(body).encode()), "accepted")
    assert "canary" not in json.dumps(line)


def test_a_line_stays_short_and_its_main_names_are_not_pushed_out() -> None:
    body: dict[str, Any] = dict.fromkeys(audit.NAMES, "x" * 9000)
    body["trace_ids"] = ["y" * 9000] * 90
    found = named(CREATE_RUN, {"junk_id": "z" * 9000, **body})
    assert list(found)[:4] == ["experiment_id", "run_id", "run_uuid", "name"]
    assert found["run_id"] == "x" * LONGEST + "..."
    assert len(json.dumps(found)) < MOST + 200
    control = json.dumps(dict.fromkeys(audit.NAMES, "\0" * 9000)).encode()
    line = audit.line(record(target=CREATE_RUN + '"' * 7000, body=control), "accepted")
    assert len(json.dumps(line)) < 4000


def test_a_long_list_is_cut_and_says_so() -> None:
    found = named(CREATE_RUN, {"run_ids": ["r"] * 90, "trace_ids": ["t"] * MOST_ITEMS})
    assert found["run_ids"] == ["r"] * MOST_ITEMS + ["and 70 more"]
    assert found["trace_ids"] == ["t"] * MOST_ITEMS
