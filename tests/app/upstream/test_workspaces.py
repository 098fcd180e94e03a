"""A client that names a workspace is refused with the cause, and MLflow is asked once."""

import pytest

from app.request.errors import FeatureDisabled, Forbidden, ProxyError, UpstreamUnreachable
from app.upstream.forwarding import ProbeResponse
from app.upstream.workspaces import Workspaces
from tests.app.samples import environ

RUN = "/api/2.0/mlflow/runs/get"


class MLflow:
    """What MLflow answers, or what goes wrong; `asked` counts."""

    def __init__(self, answer: ProbeResponse | ProxyError) -> None:
        self.answer, self.asked = answer, 0

    def ask(self, path: str, timeout: float) -> ProbeResponse:
        """As Upstream.ask."""
        assert path == "/api/3.0/mlflow/server-info"
        self.asked += 1
        if isinstance(self.answer, ProxyError):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        (ProbeResponse(200, {}, b'{"workspaces_enabled": false}'), FeatureDisabled),
        (ProbeResponse(404, {}, b"no such path"), FeatureDisabled),
        (ProbeResponse(200, {}, b'{"workspaces_enabled": true}'), Forbidden),
        (ProbeResponse(200, {}, b"<html>"), Forbidden),
        (ProbeResponse(200, {}, b"[]"), Forbidden),
        (ProbeResponse(503, {}, b"{}"), Forbidden),
        (UpstreamUnreachable("away"), Forbidden),
    ],
)
def test_a_request_that_names_one_is_refused(
    answer: ProbeResponse | ProxyError, refusal: type[ProxyError]
) -> None:
    mlflow = MLflow(answer)
    workspaces = Workspaces(mlflow.ask, 1.0)
    for named in ("team-a", "default", " team-a ", ",team-a", "x"):
        with pytest.raises(refusal, match="MLFLOW_WORKSPACE"):
            workspaces.refuse(environ(HTTP_X_MLFLOW_WORKSPACE=named), RUN)
    assert mlflow.asked == 1


@pytest.mark.parametrize("named", [None, "", "  ", " , "])
def test_who_names_none_costs_nothing(named: str | None) -> None:
    mlflow = MLflow(ProbeResponse(200, {}, b"{}"))
    Workspaces(mlflow.ask, 1.0).refuse(environ(HTTP_X_MLFLOW_WORKSPACE=named), RUN)
    assert mlflow.asked == 0


def test_whether_there_are_any_may_be_asked_by_everybody() -> None:
    mlflow = MLflow(ProbeResponse(200, {}, b"{}"))
    for path in ("/api/3.0/mlflow/server-info", "/ajax-api/3.0/mlflow/server-info"):
        Workspaces(mlflow.ask, 1.0).refuse(environ(HTTP_X_MLFLOW_WORKSPACE="team-a"), path)
    assert mlflow.asked == 0
