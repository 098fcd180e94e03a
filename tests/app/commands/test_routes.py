"""`flask mlflow-routes`: what a scope may do, as the table says."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.request.route_table import Access, RouteTable
from tests.app.doctor.conftest import Finished

Flask = Callable[..., Finished]
TABLE = RouteTable.load()


def listed(flask: Flask, *arguments: str) -> list[dict[str, Any]]:
    done = flask("mlflow-routes", "--json", *arguments)
    assert done.status == 0, done.err
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


@pytest.mark.parametrize(
    ("scope", "access"),
    [
        ("mlflow:read", {Access.READ}),
        ("model:write", {Access.READ, Access.WRITE, Access.DELETE}),
        ("mlflow:gateway", {Access.GATEWAY}),
        ("admin", set(Access) - {Access.REFUSED}),
    ],
)
def test_a_scope_may_do_what_it_grants_and_nothing_else(
    flask: Flask, scope: str, access: set[Access]
) -> None:
    may = {route.operation for route in TABLE.routes if route.access in access}
    assert {route["operation"] for route in listed(flask, "--scope", scope)} == may
    denied = listed(flask, "--scope", scope, "--denied")
    assert {route["operation"] for route in denied} == {r.operation for r in TABLE.routes} - may


def test_without_a_scope_all_routes_are_listed_with_what_they_need(flask_process: Flask) -> None:
    done = flask_process("mlflow-routes")
    *lines, last = done.out.splitlines()
    assert len(lines) == len(TABLE.routes)
    assert "read    POST    {api}/2.0/mlflow/runs/search  SearchRuns" in lines
    assert last.startswith(f"{len(lines)} of {len(lines)} routes.")


def test_a_part_can_be_asked_for(flask: Flask) -> None:
    found = listed(flask, "--scope", "read", "--kind", "artifacts", "--method", "get")
    assert found
    assert {(route["kind"], *route["methods"]) for route in found} == {("artifacts", "GET")}
    assert any("/ajax-api/2.0/mlflow-artifacts/artifacts" in route["paths"] for route in found)


def test_an_unknown_scope_grants_nothing_and_that_is_said(flask: Flask) -> None:
    done = flask("mlflow-routes", "--scope", "reed")
    assert (done.status, done.out) == (2, "")
    assert "reed grants nothing. Known: admin, " in done.err


def test_flasks_own_routes_are_still_there(flask: Flask) -> None:
    done = flask("routes")
    assert done.status == 0
    assert "/api/health/mlflow" in done.out
