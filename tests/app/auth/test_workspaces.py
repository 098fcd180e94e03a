"""Which workspace a request gets: the key's own, never MLflow's `default` by omission."""

from typing import Any

import pytest

from app.auth.authorization import authorize
from app.auth.workspaces import Workspaces
from app.request.errors import (
    BadRequest,
    FeatureDisabled,
    Forbidden,
    NotForwarded,
    ProxyError,
    UpstreamRefusal,
    UpstreamUnreachable,
)
from app.request.inbound import receive
from app.request.permit import Permit
from app.request.principal import Principal
from app.request.route_table import RouteTable
from tests.app.samples import environ

ROUTES = RouteTable.load()
RUN = "/api/2.0/mlflow/runs/get"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
ON = {"store_type": "SqlStore", "workspaces_enabled": True}
OFF = {"workspaces_enabled": False}

#: What MLflow answers to server-info, None for 404, or what goes wrong.
Info = dict[str, Any] | ProxyError | None


class MLflow:
    """What MLflow answers, or what goes wrong; `asked` holds the paths."""

    def __init__(self, answer: Info) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def ask(self, path: str, permit: Permit | None = None) -> dict[str, Any] | None:
        """As Questions.ask. The caller of a permit may see a, b and `default`."""
        self.asked.append(path)
        if path == "/api/3.0/mlflow/workspaces":
            seen = ("a", "b", "default") if permit and permit.principal.user_id == "ann" else ()
            return {"workspaces": [{"name": name} for name in seen]}
        assert path == "/api/3.0/mlflow/server-info"
        if isinstance(self.answer, ProxyError):
            raise self.answer
        return self.answer


def permit(
    *own: str, path: str = RUN, method: str = "GET", admin: bool = False, **fields: Any
) -> tuple[Permit, dict[str, str]]:
    """A permit as authorize() makes it, and the parameters of its route."""
    inbound = receive(environ(method, f"/api/mlflow{path}", **fields), "id", 0)
    found = ROUTES.match(method, inbound.decoded_path)
    who = Principal("ann", "key-1", "platform", frozenset(["write"]), None, admin, workspaces=own)
    made = authorize(who, inbound, found.route if found else None)
    return made, dict(found.parameters) if found else {}


def chosen(workspaces: Workspaces, *own: str, **how: Any) -> str:
    return workspaces.bound(*permit(*own, **how)).workspace


def on() -> Workspaces:
    return Workspaces(MLflow(ON).ask)


# --- the choice ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "how", "workspace"),
    [
        (["a"], {}, "a"),
        (["a", "b"], {}, "a"),
        (["a", "b"], {"HTTP_X_MLFLOW_WORKSPACE": "b"}, "b"),
        (["a", "b"], {"HTTP_X_MLFLOW_WORKSPACE": " b , b,"}, "b"),
        (["a"], {"HTTP_X_MLFLOW_WORKSPACE": "  "}, "a"),
        (["default", "a"], {}, "a"),
        (["a", "b"], {"path": f"{ARTIFACTS}/workspaces/b/0/x"}, "b"),
        (["a", "b"], {"path": f"{ARTIFACTS}/0/x"}, "a"),
        (["a", "b"], {"path": f"{ARTIFACTS}?path=workspaces/b/0"}, "b"),
        (["a", "b"], {"path": "/get-artifact?run_uuid=1&path=x&workspace=b"}, "b"),
        (["a", "b"], {"path": f"{RUN}?workspace=b"}, "a"),
        (["a"], {"path": "/version"}, ""),
        ([], {"path": "/version"}, ""),
        ([], {"path": "/static-files/static/js/main.js"}, ""),
        ([], {"path": "/api/3.0/mlflow/workspaces"}, ""),
        (["a"], {"path": "/api/3.0/mlflow/workspaces/a"}, ""),
        (["a"], {"path": "/ajax-api/3.0/mlflow/server-info", "HTTP_X_MLFLOW_WORKSPACE": "b"}, ""),
        ([], {"admin": True, "HTTP_X_MLFLOW_WORKSPACE": "default"}, "default"),
        (["a"], {"admin": True, "HTTP_X_MLFLOW_WORKSPACE": "b"}, "b"),
        (["a"], {"admin": True}, "a"),
    ],
)
def test_the_keys_own_one(own: list[str], how: dict[str, Any], workspace: str) -> None:
    assert chosen(on(), *own, **how) == workspace


@pytest.mark.parametrize(
    ("own", "how", "says"),
    [
        ([], {}, "has no workspace"),
        (["default"], {}, "has no workspace"),
        ([], {"admin": True}, "Name a workspace"),
        (["a"], {"HTTP_X_MLFLOW_WORKSPACE": "b"}, "no access to the workspace 'b'; it has a"),
        (["a"], {"HTTP_X_MLFLOW_WORKSPACE": "default"}, "no access to the workspace 'default'"),
        (["default"], {"HTTP_X_MLFLOW_WORKSPACE": "default"}, "it has none"),
        (["a"], {"HTTP_X_MLFLOW_WORKSPACE": "b", "path": "/version"}, "no access"),
        (["a"], {"path": "/api/3.0/mlflow/workspaces/b"}, "no access to the workspace 'b'"),
        (["a"], {"path": "/get-artifact?run_uuid=1&path=x&workspace=b"}, "no access"),
        (["a"], {"path": f"{ARTIFACTS}/workspaces/b/0/x"}, "no access to the workspace 'b'"),
        (["a"], {"path": f"{ARTIFACTS}/%2577orkspaces/b/x"}, "no access to the workspace 'b'"),
        (["a"], {"path": f"{ARTIFACTS}?path=workspaces%2Fb"}, "no access to the workspace 'b'"),
        (["a"], {"path": f"{ARTIFACTS}?path=x&path=workspaces/b"}, "no access"),
        (
            ["a", "b"],
            {"path": f"{ARTIFACTS}/workspaces/b/x", "HTTP_X_MLFLOW_WORKSPACE": "a"},
            "another workspace than",
        ),
    ],
)
def test_no_other(own: list[str], how: dict[str, Any], says: str) -> None:
    with pytest.raises(Forbidden, match=says):
        chosen(on(), *own, **how)


def test_two_names_are_ambiguous() -> None:
    with pytest.raises(BadRequest, match="once"):
        chosen(on(), "a", "b", HTTP_X_MLFLOW_WORKSPACE="a,b")


def test_a_path_on_which_mlflow_ignores_the_header_is_refused() -> None:
    """3.17.2: by its end, whatever stands before it."""
    with pytest.raises(BadRequest, match="takes no workspace"):
        chosen(on(), "a", path=f"{ARTIFACTS}/0/mlflow/server-info")


# --- what MLflow has, and what MLFLOW_WORKSPACES says --------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [OFF, None, {}],
)
def test_an_mlflow_without_workspaces(answer: Info) -> None:
    workspaces = Workspaces(MLflow(answer).ask)
    assert chosen(workspaces) == ""
    with pytest.raises(FeatureDisabled, match="MLFLOW_WORKSPACE"):
        chosen(workspaces, HTTP_X_MLFLOW_WORKSPACE="a")
    with pytest.raises(FeatureDisabled, match="for the workspace 'a'"):
        chosen(workspaces, "a")
    with pytest.raises(NotForwarded, match="--enable-workspaces"):
        chosen(Workspaces(MLflow(answer).ask, "on"), "a")
    off = Workspaces(MLflow(answer).ask, "off")
    assert chosen(off, "a") == ""
    assert not off.are_missing()
    assert Workspaces(MLflow(answer).ask, "on").are_missing()
    assert not Workspaces(MLflow(ON).ask, "on").are_missing()


@pytest.mark.parametrize(
    "failure", [NotForwarded("no sense", 5), UpstreamRefusal("no"), UpstreamUnreachable("away")]
)
def test_an_mlflow_that_does_not_say(failure: ProxyError) -> None:
    """A key with a workspace is safe: MLflow refuses the header if it has none."""
    mlflow = MLflow(failure)
    workspaces = Workspaces(mlflow.ask)
    for _ in range(3):
        with pytest.raises(type(failure)):
            chosen(workspaces)
    assert chosen(workspaces, "a") == "a"
    assert chosen(Workspaces(mlflow.ask, "on"), "a") == "a"
    assert len(mlflow.asked) > 2, "the circuit bounds that"


def test_what_mlflow_said_last_counts_while_it_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = MLflow(ON)
    workspaces = Workspaces(mlflow.ask)
    assert chosen(workspaces, "a") == "a"
    mlflow.answer = UpstreamUnreachable("away")
    monkeypatch.setattr("app.auth.workspaces.time.monotonic", lambda: float("inf"))
    with pytest.raises(Forbidden):
        chosen(workspaces)
    assert len(mlflow.asked) == 2


def test_off_asks_nobody_and_keeps_the_header_from_mlflow() -> None:
    mlflow = MLflow(ON)
    off = Workspaces(mlflow.ask, "off")
    assert chosen(off, "a") == ""
    with pytest.raises(FeatureDisabled):
        chosen(off, "a", HTTP_X_MLFLOW_WORKSPACE="a")
    assert not off.are_missing()
    assert mlflow.asked == []


# --- the proxy's own answers ---------------------------------------------------------------------

LIST = "/ajax-api/3.0/mlflow/workspaces"
INFO = "/ajax-api/3.0/mlflow/server-info"


def answered(*own: str, path: str, session: bool = True, admin: bool = False) -> Any:
    workspaces = on()
    made, parameters = permit(*own, path=path, admin=admin)
    return workspaces.own_answer(workspaces.bound(made, parameters), session)


def test_a_key_sees_its_own_workspaces_that_are_there() -> None:
    assert answered("b", "gone", "default", "a", path=LIST) == {
        "workspaces": [{"name": "b"}, {"name": "a"}]
    }
    assert answered(path=LIST) == {"workspaces": []}
    assert answered("a", path=LIST, admin=True) is None


def test_a_session_with_one_workspace_has_no_picker() -> None:
    hidden = {"store_type": "SqlStore", "workspaces_enabled": False}
    assert answered("a", path=INFO) == hidden
    assert answered("a", "default", path=INFO) == hidden
    assert answered("a", "b", path=INFO) is None
    assert answered("a", path=INFO, session=False) is None
    assert answered("a", path=INFO, admin=True) is None
