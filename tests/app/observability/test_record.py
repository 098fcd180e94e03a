"""The record of a request: what its log line says, what is a write, and that no key gets in."""

import time
from urllib.parse import quote

import pytest

from app.observability.record import LONGEST, Record, shown, without_keys
from app.request.route_table import Access, Route, RouteTable
from tests.app.samples import CREATE, inbound, principal, route_of

MLFLOW = "http://mlflow.test:5000"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TABLE = RouteTable.load()


def record(method: str = "POST", path: str = "/api/mlflow/api/2.0/mlflow/runs/create") -> Record:
    return Record("request-0001", method, path, "198.51.100.7")


def walked(
    route: Route | None = CREATE,
    method: str = "POST",
    target: str = "/api/mlflow/api/2.0/mlflow/runs/create",
) -> Record:
    """A request that MLflow answered."""
    made = record(method, target)
    made.inbound, made.route = inbound(method, target, HTTP_TRACEPARENT=TRACE), route
    made.principal, made.auth_source = principal(), "hit"
    made.started -= 1.0
    made.auth_seconds, made.upstream_seconds = 0.1, 0.3
    made.answered = made.started + 0.6
    made.tried()
    made.came(30)
    made.came(12)
    made.status, made.outcome, made.bytes_out = 200, "forwarded", 7
    return made


def encoded(text: str) -> str:
    return "".join(f"%{ord(letter):02X}" for letter in text)


# --- the line ------------------------------------------------------------------------------------


def test_the_line_of_a_request_that_mlflow_answered() -> None:
    line = walked().line(MLFLOW)
    assert 1000 <= line.pop("duration_ms") < 2000
    assert line == {
        "request_id": "request-0001",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "method": "POST",
        "path": "/api/mlflow/api/2.0/mlflow/runs/create",
        "upstream_path": "/api/2.0/mlflow/runs/create",
        "target": MLFLOW,
        "kind": "runs",
        "operation": "CreateRun",
        "status": 200,
        "outcome": "forwarded",
        "own_ms": 200.0,
        "auth_ms": 100.0,
        "upstream_ms": 300.0,
        "attempts": 1,
        "auth_source": "hit",
        "bytes_in": 42,
        "bytes_out": 7,
        "user_id": "ann",
        "key_id": "key-1",
        "client_ip": "198.51.100.7",
    }


def test_the_line_of_a_request_that_ended_early_has_no_more_than_there_was() -> None:
    made = record("GET", "/nothing")
    made.status, made.outcome, made.error_code = 404, "not_found", "ENDPOINT_NOT_FOUND"
    line = made.line(MLFLOW)
    assert line.pop("duration_ms") >= line.pop("own_ms") >= 0
    assert line == {
        "request_id": "request-0001",
        "method": "GET",
        "path": "/nothing",
        "kind": "own",
        "status": 404,
        "outcome": "not_found",
        "error_code": "ENDPOINT_NOT_FOUND",
        "bytes_in": 0,
        "bytes_out": 0,
        "client_ip": "198.51.100.7",
    }


def test_the_pace_of_a_download_is_not_the_proxys_own_time() -> None:
    made = walked()
    made.started, made.answered = time.monotonic() - 3600, time.monotonic() - 3599.5
    line = made.line(MLFLOW)
    assert (line["own_ms"], line["duration_ms"] > 3_599_000) == (100.0, True)


def test_a_target_is_named_only_where_it_was_asked() -> None:
    made = walked()
    made.attempts = 0
    assert "target" not in made.line(MLFLOW)
    assert "attempts" not in made.line(MLFLOW)


def test_a_route_that_nobody_has_classified_has_no_operation() -> None:
    line = walked(None, "GET", "/mlflow/brand-new").line(MLFLOW)
    assert line["kind"] == "unclassified"
    assert "operation" not in line


# --- what is a write -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "is_write"),
    [
        ("POST", "/api/2.0/mlflow/runs/create", True),
        ("POST", "/api/2.0/mlflow/runs/log-batch", True),
        ("PATCH", "/api/2.0/mlflow/model-versions/update", True),
        ("DELETE", "/api/2.0/mlflow/model-versions/delete", True),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/a.bin", True),
        ("POST", "/gateway/openai/v1/embeddings", True),
        ("POST", "/api/2.0/mlflow/brand-new", True),
        ("PUT", "/ajax-api/3.0/mlflow/assistant/config", True),
        ("POST", "/api/2.0/mlflow/runs/search", False),
        ("POST", "/graphql", False),
        ("GET", "/api/2.0/mlflow/runs/get", False),
        ("GET", "/api/2.0/mlflow/webhooks", False),
        ("GET", "/api/2.0/mlflow/brand-new", False),
        ("HEAD", "/api/2.0/mlflow-artifacts/artifacts/1/a.bin", False),
        ("OPTIONS", "/api/2.0/mlflow/runs/create", False),
    ],
)
def test_what_is_a_write(method: str, path: str, is_write: bool) -> None:
    made = walked(route_of(TABLE, method, path), method, f"/api/mlflow{path}")
    assert made.is_write == is_write


def test_every_row_of_the_table_that_needs_more_than_read_is_a_write_unless_it_is_a_get() -> None:
    rows = [(route, method) for route in TABLE.routes for method in route.methods]
    writes = {(r, m) for r, m in rows if walked(r, m, "/mlflow/a").is_write}
    assert writes == {(r, m) for r, m in rows if m != "GET" and r.access is not Access.READ}
    assert len(writes) > 100


def test_a_request_of_our_own_paths_is_no_write() -> None:
    assert not record("POST", "/health").is_write


# --- keys ----------------------------------------------------------------------------------------

#: Shorter than what app/request/inbound.py refuses in a path as a whole key.
KEY = "hk_test_0123456789abc"
REST = KEY.removeprefix("hk_test_")


@pytest.mark.parametrize(
    "text",
    [
        f"/api/mlflow/{KEY}",
        f"/api/mlflow/{KEY}/a%20b",
        f"/{encoded(KEY)}",
        f"/{quote(encoded(KEY))}",
        f"/{quote(quote(encoded(KEY)))}",
        f"/{KEY[:12]}{encoded(KEY[12:])}",
        f"/{KEY[:12]}{encoded(KEY[12])}{KEY[13:]}",
        f"/{KEY[:3]}{encoded(KEY[3])}{KEY[4:]}",
        f"/{encoded(KEY[:3])}{KEY[3:]}",
        f"/{KEY}{KEY}",
        f"/a/{KEY}/{KEY}",
        "/" + "a" * (LONGEST - 10) + KEY,
        f"/hk_live_{REST}",
    ],
)
def test_no_part_of_a_key_is_shown(text: str) -> None:
    for line in (record(path=text).line(MLFLOW), walked(target=f"/mlflow{text}").line(MLFLOW)):
        for field in ("path", "upstream_path"):
            assert REST[6:] not in line.get(field, "")
            assert encoded(REST[6:]) not in line.get(field, "")
    assert "removed" in without_keys(text)


@pytest.mark.parametrize("text", ["/a/b", "/100%25/a%20b", "/think_big", "/hk_", "/a%zz", "/%"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert shown(text) == without_keys(text) == text


def test_a_long_path_is_cut() -> None:
    path = record(path="/" + "a" * 9000).path
    assert len(path) == LONGEST + 3
    assert path.endswith("a...")


def test_escapes_of_escapes_cost_no_time() -> None:
    """Each decoding takes two characters off one end; without a bound that is quadratic."""
    began = time.monotonic()
    record(path="/%" + "25" * 4000)
    assert time.monotonic() - began < 1
