"""nginx lets through what the load balancer would, and nothing else reaches anybody."""

import json
from typing import Any

import pytest

from infrastructure.nginx.configuration import ROUTES
from tests.infrastructure.alb import Action, Rule, decide
from tests.infrastructure.request_table import HOST, STOPPED, THROUGH
from tests.topology.conftest import Topology
from tests.upstreams import eventually
from tests.wire import bearer, call

CONTRACT: dict[str, Any] = json.loads(ROUTES.read_text("utf-8"))
PROXY = Action("forward", (("proxy", 1),))
OTHERWISE = Action("fixed-response", status=str(CONTRACT["otherwise"]["status"]))
RULES = [
    Rule(route["priority"], PROXY, (CONTRACT["host"],), tuple(route["paths"]))
    for route in CONTRACT["routes"]
]

#: Spellings in which nginx by itself would see another path than the load balancer does.
SPELLINGS = [
    (HOST, path)
    for path in (
        "/api/%6dlflow/version",
        "/%6dlflow/",
        "/mlflow%2f",
        "//mlflow/",
        "/x/../mlflow/",
        "/mlflow/../metrics",
        "/mlflow/%2e%2e/metrics",
        "/mlflow//metrics",
        "/health%3f",
        "/metrics%3f/mlflow/",
    )
]


@pytest.mark.slow
@pytest.mark.parametrize(("host", "path"), [*THROUGH, *STOPPED, *SPELLINGS])
@pytest.mark.parametrize("query", ["", "?x=/mlflow/"])
def test_a_request_goes_where_the_load_balancer_would_send_it(
    topology: Topology, host: str, path: str, query: str
) -> None:
    answer = call(topology.nginx.url, "GET", path + query, f"Host: {host}")
    through = answer.one("X-Request-ID") is not None
    assert through == (decide(RULES, OTHERWISE, host, path) == PROXY), answer
    if not through:
        assert answer.status == CONTRACT["otherwise"]["status"]
        assert answer.body.decode() == CONTRACT["otherwise"]["body"]
        assert answer.one("Content-Type") == CONTRACT["otherwise"]["content_type"]


@pytest.mark.slow
def test_a_path_arrives_as_it_was_sent(topology: Topology) -> None:
    path = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/a%20b%2Fc%25/%E5%8C%97"
    answer = call(topology.nginx.url, "GET", path, f"Host: {HOST}", "X-Request-ID: as-sent-1")
    assert answer.status == 401
    groups = topology.proxies.values()

    def lines() -> list[dict[str, Any]]:
        return [li for p in groups for li in p.log_lines() if li.get("request_id") == "as-sent-1"]

    eventually(lines, "the line of that request")
    assert [line["path"] for line in lines()] == [path]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/health", "/api/health", "/api/health/mlflow"])
def test_health_is_answered_through_nginx(topology: Topology, path: str) -> None:
    answer = call(topology.nginx.url, "GET", path, f"Host: {HOST}")
    assert (answer.status, answer.json["status"]) == (200, "healthy")


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/ready", "/metrics"])
def test_what_is_for_those_inside_is_not(topology: Topology, path: str) -> None:
    assert call(topology.nginx.url, "GET", path, f"Host: {HOST}").status == 404
    assert call(topology.proxies["blue"].url, "GET", path).status == 200


@pytest.mark.slow
def test_the_clients_own_address_is_believed_no_further_than_nginx(
    topology: Topology, auth_service: Any
) -> None:
    """A key for this machine only: a forged entry in front of nginx's does not count."""
    search = "/api/mlflow/api/2.0/mlflow/experiments/search?max_results=1"
    for allowed, status in (("127.0.0.1", 200), ("203.0.113.7", 401)):
        key = auth_service.create_key(allow_ip=allowed).key
        fields = (f"Host: {HOST}", bearer(key), "X-Forwarded-For: 203.0.113.7")
        assert call(topology.nginx.url, "GET", search, *fields).status == status


@pytest.mark.slow
def test_a_limit_reaches_the_client_with_its_retry_after(
    topology: Topology, auth_service: Any
) -> None:
    key = auth_service.create_key(limit=2).key
    search = "/api/mlflow/api/2.0/mlflow/experiments/search?max_results=1"
    answers = [
        call(topology.nginx.url, "GET", search, f"Host: {HOST}", bearer(key)) for _ in range(3)
    ]
    assert [answer.status for answer in answers] == [200, 200, 429]  # counted together
    assert int(answers[-1].one("Retry-After") or 0) > 0
    assert answers[-1].json["error_code"] == "REQUEST_LIMIT_EXCEEDED"


@pytest.mark.slow
def test_a_group_that_is_out_gets_nothing_and_both_out_is_both_in(topology: Topology) -> None:
    def ask(mark: str) -> list[str]:
        fields = (f"Host: {HOST}", f"X-Request-ID: {mark}")
        for _ in range(8):
            assert call(topology.nginx.url, "GET", "/mlflow/version", *fields).status == 401
        eventually(lambda: topology.asked(mark), "a line")
        return topology.asked(mark)

    try:
        assert ask("mark-none-out") == ["blue", "green"]
        topology.nginx.take_out("blue")
        assert ask("mark-blue-out") == ["green"]
        topology.nginx.take_out("green")
        assert ask("mark-both-out") == ["blue", "green"]
        topology.nginx.put_in("blue")
        assert ask("mark-green-out") == ["blue"]
    finally:
        topology.nginx.put_in("blue")
        topology.nginx.put_in("green")
