"""Workspaces at the wire: which header MLflow gets, and what is refused before it is asked.

tests/tenants/ has two tenants on a real MLflow with workspaces.
"""

from collections.abc import Callable
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.pipeline.signing_in import BROWSER, OWN, cookie_of, sign_in
from tests.upstreams import Answer, Received, Upstream, send, sized
from tests.wire import bearer, call

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
INFO = "/mlflow/ajax-api/3.0/mlflow/server-info"
LIST = "/mlflow/ajax-api/3.0/mlflow/workspaces"
ARTIFACTS = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts"
HEADER = "X-MLFLOW-WORKSPACE"


def with_workspaces(received: Received) -> Answer:
    """MLflow, as far as these tests ask it."""
    if received.target.endswith(b"/server-info"):
        return Answer(send(sized(b'{"store_type": "SqlStore", "workspaces_enabled": true}')))
    if received.target.endswith(b"/mlflow/workspaces"):
        names = b", ".join(b'{"name": "%s"}' % name for name in (b"default", b"team-a", b"team-b"))
        return Answer(send(sized(b'{"workspaces": [%s, {"name": "team-c"}]}' % names)))
    if received.all(HEADER) == ["gone"]:
        body = b'{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"Workspace \'gone\' not found"}'
        return Answer(send(sized(body, 404)))
    return Answer(send(sized(b"{}")))


@pytest.fixture(scope="module")
def own(start_front: Callable[..., Proxy], _fake: Upstream) -> Proxy:
    _fake.answers_by(with_workspaces)  # it is asked at the start
    return start_front(MLFLOW_WORKSPACES="on")


@pytest.fixture
def mlflow(upstream: Upstream) -> Upstream:
    upstream.answers_by(with_workspaces)
    return upstream


def arrived(mlflow: Upstream) -> list[str]:
    """The workspaces in the header of the last request, in any spelling."""
    return mlflow.requests[-1].all(HEADER)


@pytest.fixture(scope="module")
def two(auth_service: Any) -> str:
    scopes = ["read", "write", "workspace:team-a", "workspace:team-b"]
    return bearer(auth_service.create_key(scopes=scopes).key)


@pytest.mark.parametrize(
    ("sent", "workspace"),
    [
        ([], "team-a"),
        (["X-MLFLOW-WORKSPACE: team-b"], "team-b"),
        (["X-MLFLOW-WORKSPACE:  team-b "], "team-b"),
        (["X-MLFLOW-WORKSPACE: team-b", "x-mlflow-workspace: team-b"], "team-b"),
        (["X-MLFLOW-WORKSPACE:"], "team-a"),
        (["X_MLFLOW_WORKSPACE: team-b"], "team-a"),
        (["Connection: X-MLFLOW-WORKSPACE"], "team-a"),
    ],
)
def test_exactly_one_header_arrives(
    own: Proxy, mlflow: Upstream, two: str, sent: list[str], workspace: str
) -> None:
    answer = call(own.url, "GET", SEARCH, two, *sent)
    assert answer.status == 200
    assert "X-Mlflow-Workspace" not in answer.all("X-Hokusai-Dropped-Headers")
    assert arrived(mlflow) == [workspace]


@pytest.mark.parametrize(
    "sent",
    [["X-MLFLOW-WORKSPACE: team-c"], ["X-MLFLOW-WORKSPACE: default"], ["X-MLFLOW-WORKSPACE: A"]],
)
def test_a_foreign_one_is_refused(own: Proxy, mlflow: Upstream, two: str, sent: list[str]) -> None:
    answer = call(own.url, "GET", SEARCH, two, *sent)
    assert answer.error == (403, "PERMISSION_DENIED")
    assert "it has team-a, team-b" in answer.json["message"]
    assert not any(asked.target.startswith(b"/api/2.0") for asked in mlflow.requests)


def test_a_key_without_one_gets_nothing_but_what_belongs_to_none(
    own: Proxy, mlflow: Upstream, auth_service: Any
) -> None:
    key = bearer(auth_service.create_key(scopes=["write"]).key)
    assert call(own.url, "GET", SEARCH, key).error == (403, "PERMISSION_DENIED")
    assert call(own.url, "GET", "/api/mlflow/version", key).status == 200
    assert arrived(mlflow) == []


def test_a_workspace_that_mlflow_does_not_have(
    own: Proxy, mlflow: Upstream, auth_service: Any
) -> None:
    key = bearer(auth_service.create_key(scopes=["write", "workspace:gone"]).key)
    answer = call(own.url, "GET", SEARCH, key)
    assert answer.error == (404, "RESOURCE_DOES_NOT_EXIST")
    assert answer.json["message"].startswith("Workspace 'gone' not found: ")


def test_the_list_has_the_keys_own(own: Proxy, mlflow: Upstream, two: str) -> None:
    answer = call(own.url, "GET", LIST, two)
    assert answer.json == {"workspaces": [{"name": "team-a"}, {"name": "team-b"}]}
    assert answer.one("Cache-Control") == "no-store"
    assert call(own.url, "GET", f"{LIST}/team-c", two).status == 403
    assert call(own.url, "POST", LIST, two, body=b"{}").status == 403


def test_a_session_with_one_workspace_has_no_picker(
    own: Proxy, mlflow: Upstream, auth_service: Any
) -> None:
    for names, enabled in ((["team-a"], False), (["team-a", "team-b"], True)):
        scopes = ["read", *(f"workspace:{name}" for name in names)]
        key = auth_service.create_key(scopes=scopes).key
        cookie = cookie_of(sign_in(own, key))
        shown = call(own.url, "GET", INFO, *BROWSER, OWN, cookie).json
        assert shown == {"store_type": "SqlStore", "workspaces_enabled": enabled}
        assert call(own.url, "GET", INFO, bearer(key)).json["workspaces_enabled"] is True


def test_nobody_deletes_the_root_and_only_an_admin_lists_it(
    own: Proxy, front: Proxy, mlflow: Upstream, two: str, key: str
) -> None:
    """Without workspaces (`front`), and with them."""
    roots = [
        "",
        "?path=",
        "?path=.",
        "?path=workspaces",
        "?path=workspaces/team-a",
        "?path=workspaces/team-a/",
    ]
    for proxy, tails in ((own, roots), (front, roots[:3])):
        for tail in tails:
            answer = call(proxy.url, "GET", f"{ARTIFACTS}{tail}", two)
            assert answer.error == (403, "PERMISSION_DENIED"), tail
            assert "root of the artifacts" in answer.json["message"]
    own_admin = (bearer(key), "X-MLFLOW-WORKSPACE: team-a")
    assert call(own.url, "GET", f"{ARTIFACTS}?path=", *own_admin).status == 200
    for tail in (
        "/",
        "/workspaces",
        "/workspaces/team-a",
        "/workspaces/team-a/",
        "/%2577orkspaces/team-a",
    ):
        answer = call(own.url, "DELETE", f"{ARTIFACTS}{tail}", *own_admin)
        assert answer.error == (403, "PERMISSION_DENIED"), tail
    assert call(own.url, "DELETE", f"{ARTIFACTS}/workspaces/team-a/0/x", two).status == 200
    assert call(own.url, "GET", f"{ARTIFACTS}?path=0/run/artifacts", two).status == 200


def test_an_mlflow_without_workspaces_is_named_with_the_flag(
    start_front: Callable[..., Proxy], upstream: Upstream, two: str
) -> None:
    """Where MLFLOW_WORKSPACES=on: in the log at the start, in health, and to each caller."""
    proxy = start_front(MLFLOW_WORKSPACES="on", HEALTH_CACHE_TTL="0")
    answer = call(proxy.url, "GET", SEARCH, two)
    assert answer.error == (503, "TEMPORARILY_UNAVAILABLE")
    assert "--enable-workspaces" in answer.json["message"]
    ready = call(proxy.url, "GET", "/ready")
    assert ready.status == 503
    assert "--enable-workspaces" in str(ready.json["missing"])
    errors = [line for line in proxy.log_lines() if line["level"] == "ERROR"]
    assert ["--enable-workspaces" in line["message"] for line in errors] == [True]


def test_off_works_in_default_and_takes_no_name(
    start_front: Callable[..., Proxy], mlflow: Upstream, two: str
) -> None:
    proxy = start_front(MLFLOW_WORKSPACES="off")
    assert call(proxy.url, "GET", SEARCH, two).status == 200
    assert arrived(mlflow) == []
    assert call(proxy.url, "GET", SEARCH, two, "X-MLFLOW-WORKSPACE: team-a").status == 400


def test_by_default_mlflow_is_asked(
    start_front: Callable[..., Proxy], upstream: Upstream, auth_service: Any, two: str
) -> None:
    """A key without a workspace goes on until MLflow has some, and nowhere from then on."""
    proxy = start_front(MLFLOW_WORKSPACES="auto")
    key = bearer(auth_service.create_key(scopes=["read"]).key)
    assert call(proxy.url, "GET", SEARCH, key).status == 200
    assert arrived(upstream) == []
    assert call(proxy.url, "GET", SEARCH, two).error == (400, "FEATURE_DISABLED")
    upstream.answers_by(with_workspaces)
    asked_again = start_front(MLFLOW_WORKSPACES="auto")
    assert call(asked_again.url, "GET", SEARCH, key).error == (403, "PERMISSION_DENIED")
    assert call(asked_again.url, "GET", SEARCH, two).status == 200
    assert arrived(upstream) == ["team-a"]
