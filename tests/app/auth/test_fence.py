"""What the fence asks MLflow, and what it makes of the answers. MLflow's own behaviour is tried in
tests/tenants."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from app.auth import inquiry
from app.auth.authorization import authorize
from app.auth.checks import CHECKS
from app.auth.fence import Fence
from app.request.errors import BadRequest, Forbidden, ProxyError, UpstreamUnreachable
from app.request.inbound import receive
from app.request.permit import Permit
from app.request.principal import Principal
from app.request.route_table import RouteTable
from app.upstream.streaming import Body
from tests.app.samples import environ

ROUTES = RouteTable.load()
V2, V3 = "/api/2.0/mlflow", "/api/3.0/mlflow"
OWN, OTHER = "mlflow-artifacts:/workspaces/a/1", "mlflow-artifacts:/workspaces/b/1"
VERSION = "/model-versions/get-artifact?path=x&name=n&version=1"
URI = f"{V2}/model-versions/get-download-uri?name=n&version=1"


#: MLflow's answers about traces that it does not have.
NO_TRACES: dict[str, Any] = {f"{V3}/traces/batchGetInfos": {}, f"{V3}/traces/search": {}}


class MLflow:
    """Answers by path; None for anything else. `asked` holds the paths, and what was posted."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[Any] = []

    def ask(
        self, path: str, permit: Permit, document: dict[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """As Questions.ask."""
        self.asked.append(path if document is None else (path, document))
        answer = self.answers.get(path)
        if isinstance(answer, ProxyError):
            raise answer
        return answer if answer is None or isinstance(answer, dict) else {"artifact_uri": answer}


def permit(
    method: str, target: str, admin: bool = False, workspace: str = "a", **variables: Any
) -> Any:
    inbound = receive(environ(method, f"/api/mlflow{target}", **variables), "id", 0)
    found = ROUTES.match(method, inbound.decoded_path)
    assert found
    who = Principal("ann", "key-1", "platform", frozenset(["write"]), None, admin)
    made: Permit = replace(authorize(who, inbound, found.route), workspace=workspace)
    return made, found.parameters


def judge(mlflow: MLflow, method: str, target: str, document: Any = None, **how: Any) -> Fence:
    """Judge a request; the fence that did."""
    fence = Fence(mlflow.ask, "mlflow-artifacts:/,s3://b/")
    made, parameters = permit(method, target, **how)
    body = Body(None, 0) if document is None else Body(json.dumps(document).encode(), 0)
    for _ in range(2):
        assert fence.checked(made, body, parameters).length == 0
    return fence


def run(root: str) -> dict[str, Any]:
    return {"run": {"info": {"artifact_uri": root}}}


def model(root: str) -> dict[str, Any]:
    return {"model": {"info": {"artifact_uri": root}}}


def test_every_check_has_its_route() -> None:
    assert CHECKS.keys() <= {route.operation for route in ROUTES.routes}


def test_an_allowed_root_is_asked_for_once() -> None:
    question = f"{V2}/runs/get?run_id=r%2F1"
    mlflow = MLflow(**{question: run(OWN)})
    judge(mlflow, "GET", "/get-artifact?path=x&run_id=r%2F1")
    assert mlflow.asked == [question]


@pytest.mark.parametrize("answer", [run(OTHER), run(""), {"run": {}}, {}])
def test_a_root_outside_or_none_is_refused_each_time(answer: dict[str, Any]) -> None:
    mlflow = MLflow(**{f"{V2}/runs/get?run_id=r": answer})
    for _ in range(2):
        with pytest.raises(Forbidden, match="root of this run"):
            judge(mlflow, "GET", f"{V2}/artifacts/list?run_id=r")


def test_all_of_repeated_parameters_are_judged() -> None:
    mlflow = MLflow(**{f"{V2}/runs/get?run_id=r": run(OWN), f"{V2}/runs/get?run_id=s": run(OTHER)})
    with pytest.raises(Forbidden):
        judge(mlflow, "GET", f"{V2}/artifacts/list?run_id=r&run_id=s")
    with pytest.raises(BadRequest, match="names more than 64"):
        judge(MLflow(), "GET", "/get-artifact?" + "&".join(f"run_id={n}" for n in range(65)))


@pytest.mark.parametrize(
    ("target", "document"),
    [
        (f"{V2}/experiments/create", {"artifact_location": [OWN] * 65}),
        (f"{V2}/model-versions/create", {"source": [OWN] * 65}),
        (f"{V3}/traces", {"trace": [{"trace_info": {"trace_id": "t"}}] * 65}),
        (f"{V3}/traces", {"trace": {"trace_info": {"trace_id": ["t"] * 65}}}),
        (f"{V3}/traces/delete-traces", {"experiment_id": [str(number) for number in range(65)]}),
    ],
)
def test_no_list_makes_more_work(target: str, document: Any) -> None:
    mlflow = MLflow(**NO_TRACES)
    with pytest.raises(BadRequest, match="names more than 64"):
        judge(mlflow, "POST", target, document)
    assert mlflow.asked == []


def test_the_tags_of_a_list_are_counted_together() -> None:
    tags = [{"mlflow.artifactLocation": OWN}] * 17
    with pytest.raises(BadRequest, match="more than 16 locations"):
        judge(MLflow(), "POST", f"{V3}/traces", {"trace": {"trace_info": {"tags": tags}}})


@pytest.mark.parametrize("depth", [1, 300])
def test_an_object_is_no_name(depth: int) -> None:
    document: Any = "x"
    for _ in range(depth):
        document = {"a": document}
    with pytest.raises(BadRequest, match="An object is no request_ids"):
        judge(MLflow(), "POST", f"{V3}/traces/delete-traces", {"request_ids": [document]})


def test_what_is_nested_too_deeply() -> None:
    made, parameters = permit("POST", f"{V2}/model-versions/create")
    body = b'{"source": ' + b'{"a": ' * 1010 + b"1" + b"}" * 1011
    with pytest.raises(BadRequest, match="nested too deeply"):
        Fence(MLflow().ask, "mlflow-artifacts:/").checked(made, Body(body, 0), parameters)


def test_pairs_of_many_names_and_versions_are_not_made() -> None:
    many = [str(number) for number in range(3000)]
    began = time.process_time()
    with pytest.raises(BadRequest, match="names more than 64"):
        judge(MLflow(), "GET", "/model-versions/get-artifact", {"name": many, "version": many})
    assert time.process_time() - began < 0.3


@pytest.mark.parametrize("number", [1, 1.5, False])
def test_a_number_is_an_id_too(number: float) -> None:
    question = f"{V2}/experiments/get?experiment_id={number}"
    mlflow = MLflow(**{question: {"experiment": {"artifact_location": OTHER}}})
    target = "/ajax-api/2.0/mlflow/runs/create-promptlab-run"
    with pytest.raises(Forbidden, match="root of this experiment"):
        judge(mlflow, "POST", target, {"experiment_id": number})


@pytest.mark.parametrize("spelling", ["trace_id", "traceId"])
def test_a_traces_id_is_no_path(spelling: str) -> None:
    for workspace in ("a", ""):
        for id in ("a/b", "/", "a\\b", "a%b", "a?b", "a#b", "a\nb"):
            document = {"trace": {"trace_info": {spelling: id}}}
            with pytest.raises(Forbidden, match="trace_id has a character"):
                judge(MLflow(), "POST", f"{V3}/traces", document, workspace=workspace)
    for id in ("tr-0123456789abcdef", "my own: 1.0 é"):
        judge(MLflow(), "POST", f"{V3}/traces", {"trace": {"trace_info": {spelling: id}}})


@pytest.mark.parametrize("option", ["Content-Encoding", "close, content-encoding"])
def test_the_packing_of_spans_is_told_to_mlflow(option: str) -> None:
    with pytest.raises(BadRequest, match="Content-Encoding"):
        judge(MLflow(), "POST", "/v1/traces", {}, HTTP_CONNECTION=option)
    judge(MLflow(), "POST", "/v1/traces", {}, HTTP_CONNECTION="keep-alive")


def test_a_request_sets_few_locations() -> None:
    tags = [{"key": "mlflow.artifactLocation", "value": OWN}] * 17
    with pytest.raises(BadRequest, match="more than 16 locations"):
        judge(MLflow(), "PATCH", f"{V2}/traces/t", {"tags": tags})
    judge(MLflow(), "PATCH", f"{V2}/traces/t", {"tags": tags[1:] + [{"key": "k"}] * 99})


def test_without_an_answer_nothing_passes() -> None:
    mlflow = MLflow(**{f"{V2}/runs/get?run_id=r": UpstreamUnreachable("away")})
    with pytest.raises(UpstreamUnreachable):
        judge(mlflow, "GET", "/get-artifact?path=x&run_id=r")


def test_what_mlflow_does_not_have_is_left_to_it() -> None:
    mlflow = MLflow(**NO_TRACES)
    judge(mlflow, "GET", VERSION)
    judge(mlflow, "GET", "/ajax-api/3.0/mlflow/get-trace-artifact?request_id=t")
    assert (f"{V3}/traces/batchGetInfos", {"trace_ids": ["t"]}) in mlflow.asked


def test_an_mlflow_that_cannot_say_where_traces_are() -> None:
    with pytest.raises(Forbidden, match="too old"):
        judge(MLflow(), "GET", f"{V3}/traces/get?trace_id=t")


@pytest.mark.parametrize(
    "answers",
    [
        {URI: OWN},
        {URI: "mlflow-artifacts:/1/r/artifacts"},
        {URI: "s3://b/workspaces/a/1"},
        {URI: "runs:/r/model", f"{V2}/runs/get?run_id=r": run(OWN)},
        {URI: "models:/m-1", f"{V2}/logged-models/m-1": model(OWN)},
        {
            URI: "models:/o/2",
            f"{V2}/model-versions/get-download-uri?name=o&version=2": "runs:/r/x",
            f"{V2}/runs/get?run_id=r": run(OWN),
        },
    ],
)
def test_a_source_and_what_it_refers_to(answers: dict[str, Any]) -> None:
    judge(MLflow(**answers), "GET", VERSION)


@pytest.mark.parametrize(
    "answers",
    [
        {URI: OTHER},
        {URI: "s3://b/1"},
        {URI: "runs:/r/model", f"{V2}/runs/get?run_id=r": run(OTHER)},
        {URI: "runs:/r/../../x", f"{V2}/runs/get?run_id=r": run(OWN)},
        {URI: "runs:/r/%2e%2e/x", f"{V2}/runs/get?run_id=r": run(OWN)},
        {URI: "runs://other@databricks/r/x", f"{V2}/runs/get?run_id=r": run(OWN)},
        {URI: "models:/m-1", f"{V2}/logged-models/m-1": model(OTHER)},
        {URI: "models:/n/1"},
        {URI: "models:/n@best"},
        {URI: "models:/n/latest"},
        {URI: "models:/a/b/1"},
    ],
)
def test_a_source_that_leads_elsewhere(answers: dict[str, Any]) -> None:
    with pytest.raises(Forbidden):
        judge(MLflow(**answers), "GET", VERSION)


RENAME = (f"{V2}/registered-models/rename", {"name": "n", "new_name": "o"})
NAMED = f"{V2}/registered-models/get?name=n"


def newest(*versions: str) -> dict[str, Any]:
    """What MLflow says of a model: the latest version of each stage."""
    return {"registered_model": {"latest_versions": [{"version": each} for each in versions]}}


def test_a_version_elsewhere_keeps_its_name() -> None:
    second, third = URI.replace("=1", "=2"), URI.replace("=1", "=3")
    mlflow = MLflow(**{NAMED: newest("3", "1"), URI: OWN, third: "dummy-source"})
    judge(mlflow, "POST", *RENAME)
    assert mlflow.asked == [NAMED, URI, second, third] * 2
    mlflow.answers[second] = OTHER
    with pytest.raises(Forbidden, match="root of this model version"):
        judge(mlflow, "POST", *RENAME)


def test_a_model_without_versions_or_with_very_many() -> None:
    judge(MLflow(), "POST", *RENAME)
    judge(MLflow(**{NAMED: newest()}), "POST", *RENAME)
    with pytest.raises(Forbidden, match="too many"):
        judge(MLflow(**{NAMED: newest("1001")}), "POST", *RENAME)


def test_many_traces_are_asked_for_in_parts() -> None:
    mlflow = MLflow(**NO_TRACES)
    delete = {"experiment_id": "1", "request_ids": [f"t{n}" for n in range(150)]}
    judge(mlflow, "POST", f"{V3}/traces/delete-traces", delete)
    assert [len(document["trace_ids"]) for _, document in mlflow.asked[:2]] == [100, 50]
    delete["request_ids"] = [f"t{n}" for n in range(2001)]
    with pytest.raises(BadRequest, match="at most 2000 traces"):
        judge(mlflow, "POST", f"{V3}/traces/delete-traces", delete)


def archived(location: str) -> dict[str, Any]:
    tags = {"mlflow.trace.spansLocation": "ARCHIVE_REPO", "mlflow.trace.archiveLocation": location}
    return {"traces": [{"trace_id": "t", "tags": tags}], "next_page_token": "more"}


def test_archived_traces_are_searched_to_the_end_before_they_are_deleted_by_time() -> None:
    mlflow = MLflow(**{f"{V3}/traces/search": archived("s3://b/workspaces/a")})
    delete = {"experiment_id": "1", "max_timestamp_millis": 9, "max_traces": 1}
    with pytest.raises(Forbidden, match="Delete them by id"):
        judge(mlflow, "POST", f"{V2}/traces/delete-traces", delete)
    assert len(mlflow.asked) == inquiry.QUESTIONS
    mlflow.answers = {f"{V3}/traces/search": archived("s3://b/workspaces/b")}
    with pytest.raises(Forbidden, match="archiveLocation"):
        judge(mlflow, "POST", f"{V2}/traces/delete-traces", delete)


METRIC = (f"{V2}/runs/log-metric", {"run_id": "r", "model_id": "m-1"})


def test_an_own_model_is_asked_for_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator may have moved it to another workspace."""
    mlflow = MLflow(**{f"{V2}/logged-models/m-1": model(OTHER)})
    judge(mlflow, "POST", *METRIC)
    assert mlflow.asked == [f"{V2}/logged-models/m-1"]
    monkeypatch.setattr(inquiry, "OWN_LIFETIME", 0.0)
    judge(mlflow, "POST", *METRIC)
    assert len(mlflow.asked) == 3
    with pytest.raises(Forbidden, match="no logged model"):
        judge(MLflow(), "POST", *METRIC)


def test_a_batch_names_as_many_models_as_it_has_metrics() -> None:
    mlflow = MLflow(**{f"{V2}/logged-models/m-{n}": model(OTHER) for n in range(1001)})
    batch = {"run_id": "r", "metrics": [{"model_id": f"m-{n}"} for n in range(1000)]}
    judge(mlflow, "POST", f"{V2}/runs/log-batch", batch)
    batch["metrics"] = [*batch["metrics"], {"model_id": "m-1000"}]
    with pytest.raises(BadRequest, match="more than 1000"):
        judge(mlflow, "POST", f"{V2}/runs/log-batch", batch)


@pytest.mark.parametrize(
    ("target", "document", "how"),
    [
        (*METRIC, {"admin": True}),
        (*METRIC, {"workspace": ""}),
        (f"{V2}/runs/log-metric", {"run_id": "r", "key": 'a "model"', "value": 1}, {}),
        (f"{V2}/runs/search", {"filter": "model_id"}, {}),
    ],
)
def test_most_requests_ask_nothing(target: str, document: Any, how: dict[str, Any]) -> None:
    mlflow = MLflow()
    judge(mlflow, "POST", target, document, **how)
    assert mlflow.asked == []


def test_what_is_remembered_is_bounded_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inquiry, "MOST_KNOWN", 2)
    known = inquiry.Known()
    for name in "abc":
        known.add((name,), 600.0)
    assert [name for name in "abc" if (name,) in known] == ["b", "c"]
    monkeypatch.setattr("app.auth.inquiry.time.monotonic", lambda: float("inf"))
    assert ("c",) not in known
