"""Nothing reaches across the fence between two tenants: each way that a real MLflow 3.17.2 leaves
open is closed, and the own workspace works as before.

What a key may not write is planted in MLflow directly, as if it were older than the rule.
"""

import gzip
import json
import os
import re
import secrets
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mlflow
import pytest
import requests
from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from devstack.mlflow import MLflow
from devstack.proxy import Proxy
from tests.conftest import Key, KeyedAuthService
from tests.pipeline.conftest import connect as connect  # fixtures
from tests.pipeline.conftest import pyfunc as pyfunc
from tests.pipeline.conftest import unique
from tests.wire import Response, bearer, call

JSON = "Content-Type: application/json"
MPB = "Content-Type: application/x-protobuf"
SECRET = b"a secret of beta's"
PICTURE = "0f8fad5b-d9cb-469f-a165-70867728950e"  # attachments are UUIDs
REFUSED = (403, "PERMISSION_DENIED")
V2, V3 = "/api/2.0/mlflow", "/api/3.0/mlflow"


class Tenant:
    """A sender of requests, and its own experiment, run, model, trace and assessment."""

    def __init__(self, send: Callable[..., Response], workspace: str) -> None:
        self.send = send
        self.workspace = workspace
        self.experiment = self.post("experiments/create", name=secrets.token_hex(8))[
            "experiment_id"
        ]
        run = self.post("runs/create", experiment_id=self.experiment)["run"]["info"]
        self.run, self.root = run["run_id"], run["artifact_uri"]
        model = self.post("logged-models", experiment_id=self.experiment)["model"]["info"]
        self.model = model["model_id"]
        self.trace = self.new_trace()

    def post(self, path: str, **document: Any) -> Any:
        """What MLflow answers to a POST that it must accept."""
        root = V3 if path.startswith("traces") else V2
        answer = self.send("POST", f"{root}/{path}", document)
        assert answer.status == 200, answer
        return answer.json

    def new_trace(self, **info: Any) -> str:
        """A trace; its id."""
        name = f"tr-{secrets.token_hex(16)}"
        self.post("traces", trace={"trace_info": trace_info(name, self.experiment) | info})
        return name

    def assess(self) -> str:
        """An assessment of the trace; its id."""
        made = self.post(f"traces/{self.trace}/assessments", assessment=assessment())
        return str(made["assessment"]["assessment_id"])

    def model_metrics(self) -> list[Any]:
        """The metrics of the logged model."""
        found = self.send("GET", f"{V2}/logged-models/{self.model}").json
        return list(found["model"]["data"].get("metrics", []))


def trace_info(name: str, experiment: str) -> dict[str, Any]:
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
    return {
        "trace_id": name,
        "trace_location": place,
        "request_time": "2026-11-28T12:00:00Z",
        "state": "OK",
    }


def assessment(**fields: Any) -> dict[str, Any]:
    return {
        "assessment_name": "good",
        "source": {"source_type": "HUMAN", "source_id": "ann"},
        "feedback": {"value": True},
        "create_time": "2026-11-28T12:00:00Z",
        "last_update_time": "2026-11-28T12:00:00Z",
        **fields,
    }


def send(url: str, *fields: str, method: str, path: str, document: Any = None) -> Response:
    """Send JSON, or bytes as they are."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return call(url, method, path, *fields, JSON, body=body if document is not None else b"")


def sender(url: str, *fields: str, prefix: str = "") -> Callable[..., Response]:
    return lambda method, path, document=None: send(
        url, *fields, method=method, path=prefix + path, document=document
    )


@pytest.fixture(scope="module")
def alpha(tenants_proxy: Proxy, tenants_keys: dict[str, Key]) -> Tenant:
    """The attacker."""
    through = sender(tenants_proxy.url, bearer(tenants_keys["alpha"].key), prefix="/api/mlflow")
    return Tenant(through, "alpha")


@pytest.fixture(scope="module")
def beta(tenants_proxy: Proxy, tenants_keys: dict[str, Key]) -> Tenant:
    """The other, with a file among its run's artifacts that looks like an attachment."""
    through = sender(tenants_proxy.url, bearer(tenants_keys["beta"].key), prefix="/api/mlflow")
    tenant = Tenant(through, "beta")
    for name in (f"attachments/{PICTURE}", "traces.json"):
        path = f"{tenant.root.partition(':/')[2]}/{name}"
        put = through("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}", SECRET)
        assert put.status == 200, put
    return tenant


@pytest.fixture(scope="module")
def direct(tenants_mlflow: MLflow) -> Callable[..., Response]:
    """Sends to MLflow itself, in alpha's workspace."""
    return sender(tenants_mlflow.url, "Host: localhost", "X-MLFLOW-WORKSPACE: alpha")


@pytest.fixture
def archive(beta: Tenant, tenants_mlflow: MLflow) -> Any:
    """A folder of beta's with archived spans, as its path on MLflow's disk."""
    folder = tenants_mlflow.artifacts / "workspaces/beta" / secrets.token_hex(4)
    folder.mkdir(parents=True)
    (folder / "traces.pb").write_bytes(protobuf(spans("team", "a")))
    return folder


def refused(answer: Response, word: str = "ALLOWED_LOCATIONS") -> bool:
    """Whether the answer is our refusal."""
    assert answer.error == REFUSED, answer
    assert word in answer.json["message"]
    return True


# --- locations that are written ------------------------------------------------------------------

ELSEWHERE = [
    "mlflow-artifacts:/workspaces/beta/1",
    "mlflow-artifacts:/workspaces/alpha/../beta/1",
    "s3://bucket/workspaces/alpha",
    "/workspaces/alpha",
    "",
]
OWN = "mlflow-artifacts:/workspaces/alpha/1/traces"


@pytest.mark.parametrize("place", ELSEWHERE)
@pytest.mark.parametrize("tag", ["mlflow.artifactLocation", "mlflow.trace.archiveLocation"])
def test_a_traces_tag_names_no_location_elsewhere(alpha: Tenant, tag: str, place: str) -> None:
    pair = {"key": tag, "value": place}
    for version in (V2, V3):
        assert refused(alpha.send("PATCH", f"{version}/traces/{alpha.trace}/tags", pair), tag)
    start = {"experiment_id": alpha.experiment, "timestamp_ms": 1, "tags": [pair]}
    assert refused(alpha.send("POST", f"{V2}/traces", start))
    end = {"request_id": alpha.trace, "timestamp_ms": 2, "status": "OK", "tags": [pair]}
    assert refused(alpha.send("PATCH", f"{V2}/traces/{alpha.trace}", end))
    info = trace_info(f"tr-{secrets.token_hex(16)}", alpha.experiment) | {"tags": {tag: place}}
    assert refused(alpha.send("POST", f"{V3}/traces", {"trace": {"trace_info": info}}))
    assert refused(alpha.send("POST", f"{V3}/traces", {"trace": {"traceInfo": info}}))


def test_a_tag_with_an_own_location_is_as_before(alpha: Tenant) -> None:
    pair = {"key": "mlflow.artifactLocation", "value": OWN}
    assert alpha.send("PATCH", f"{V3}/traces/{alpha.new_trace()}/tags", pair).status == 200


@pytest.mark.parametrize(
    "spelt",
    [
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-32-le"),
        lambda text: json.dumps(text).encode(),
        lambda text: text.replace("artifact", "\\u0061rtifact").encode(),
        lambda text: text.replace('"value"', '"value": "mlflow-artifacts:/", "value"').encode(),
        lambda text: b" " * 100_000 + text.encode(),
    ],
)
def test_the_body_is_read_as_mlflow_reads_it(alpha: Tenant, spelt: Callable[[str], bytes]) -> None:
    text = json.dumps({"key": "mlflow.artifactLocation", "value": ELSEWHERE[0]})
    assert refused(alpha.send("PATCH", f"{V3}/traces/{alpha.trace}/tags", spelt(text)))


def test_what_cannot_be_read_is_not_passed_on(alpha: Tenant) -> None:
    tags = f"{V3}/traces/{alpha.trace}/tags"
    assert alpha.send("PATCH", tags, b"{").error == (400, "BAD_REQUEST")
    assert alpha.send("PATCH", tags, b"[]").error == (400, "BAD_REQUEST")
    assert alpha.send("PATCH", tags, b" " * 5_000_000).error == (413, "BAD_REQUEST")


def test_where_spans_are_is_not_written(direct: Callable[..., Response], alpha: Tenant) -> None:
    """With a location that is older than the rule, it would be judged before it changes, and
    followed after."""
    for place in ("ARCHIVE_REPO", "ARTIFACT_REPO", "tracking_store", ""):
        pair = {"key": "mlflow.trace.spansLocation", "value": place}
        end = {"request_id": alpha.trace, "timestamp_ms": 2, "status": "OK", "tags": [pair]}
        assert refused(alpha.send("PATCH", f"{V2}/traces/{alpha.trace}", end), "spansLocation")
        start = {"experiment_id": alpha.experiment, "timestamp_ms": 1, "tags": [pair]}
        assert refused(alpha.send("POST", f"{V2}/traces", start), "spansLocation")
        info = trace_info(alpha.trace, alpha.experiment) | {"tags": {pair["key"]: place}}
        info = {"trace": {"trace_info": info}}
        assert refused(alpha.send("POST", f"{V3}/traces", info), "spansLocation")
    pair["value"] = "TRACKING_STORE"
    assert alpha.send("PATCH", f"{V2}/traces/{alpha.new_trace()}", end).status == 200


def test_a_model_version_has_no_source_elsewhere(alpha: Tenant) -> None:
    name = secrets.token_hex(8)
    alpha.post("registered-models/create", name=name)
    for source in (*ELSEWHERE[:-1], "gs://b/x", "dbfs:/x", "file:///etc"):
        version = {"name": name, "source": source, "run_id": alpha.run}
        assert refused(alpha.send("POST", f"{V2}/model-versions/create", version))
    alpha.post("model-versions/create", name=name, source=f"{alpha.root}/m", run_id=alpha.run)
    alpha.post("model-versions/create", name=name, source=f"runs:/{alpha.run}/m", run_id=alpha.run)
    alpha.post(
        "model-versions/create", name=name, source=f"models:/{alpha.model}", model_id=alpha.model
    )
    is_prompt = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    alpha.post("model-versions/create", name=name, source="dummy-source", tags=is_prompt)


def test_an_experiment_is_made_nowhere_else(alpha: Tenant) -> None:
    for place in ELSEWHERE[:-1]:
        made = {"name": secrets.token_hex(8), "artifact_location": place}
        assert refused(alpha.send("POST", f"{V2}/experiments/create", made))


# --- OTLP ----------------------------------------------------------------------------------------


def spans(tag: str, value: str) -> dict[str, Any]:
    attribute = {"key": f"mlflow.traceTag.{tag}", "value": {"stringValue": value}}
    span = {
        "traceId": secrets.token_hex(16),
        "spanId": secrets.token_hex(8),
        "name": "root",
        "startTimeUnixNano": "1",
        "endTimeUnixNano": "2",
        "attributes": [{"key": "k", "value": {"stringValue": "v" * 70_000}}, attribute],
    }
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


def protobuf(document: dict[str, Any]) -> bytes:
    """The same in protobuf, whose JSON has ids in base64."""
    text = re.sub(
        r'"(traceId|spanId)": "([0-9a-f]+)"',
        lambda id: f'"{id[1]}": "{b64encode(bytes.fromhex(id[2])).decode()}"',
        json.dumps(document),
    )
    return bytes(json_format.Parse(text, TracesData()).SerializeToString())


@pytest.mark.parametrize(
    ("field", "packed"),
    [
        ([MPB], protobuf),
        ([MPB, "Content-Encoding: gzip"], lambda found: gzip.compress(protobuf(found))),
        (
            [MPB, "Content-Encoding: gzip"],
            lambda found: gzip.compress(b"") + gzip.compress(protobuf(found)),
        ),
        ([JSON], lambda found: json.dumps(found).encode()),
    ],
)
def test_spans_set_no_tag_of_mlflows_own(
    alpha: Tenant,
    tenants_proxy: Proxy,
    tenants_keys: dict[str, Key],
    field: list[str],
    packed: Callable[[Any], bytes],
) -> None:
    export = partial(
        call,
        tenants_proxy.url,
        "POST",
        "/api/mlflow/v1/traces",
        bearer(tenants_keys["alpha"].key),
        f"x-mlflow-experiment-id: {alpha.experiment}",
        *field,
    )
    for tag in ("mlflow.artifactLocation", "mlflow.trace.archiveLocation"):
        assert export(body=packed(spans(tag, ELSEWHERE[0]))).status == 403
    document = spans("team", "mlflow.artifactLocation")
    assert export(body=packed(document)).status == 200
    span = document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    found = alpha.send("GET", f"{V3}/traces/tr-{span['traceId']}")
    assert found.json["trace"]["trace_info"]["tags"]["team"] == "mlflow.artifactLocation"


# --- locations that are followed -----------------------------------------------------------------


def planted(direct: Callable[..., Response], alpha: Tenant, **tags: str) -> str:
    """A trace of alpha's with tags that its key could not write."""
    name = alpha.new_trace()
    pairs = [{"key": f"mlflow.{key.replace('__', '.')}", "value": tags[key]} for key in tags]
    end = {"request_id": name, "timestamp_ms": 2, "status": "OK", "tags": pairs}
    assert direct("PATCH", f"{V2}/traces/{name}", end).status == 200
    return name


def test_no_attachment_is_read_elsewhere(
    direct: Callable[..., Response], alpha: Tenant, beta: Tenant
) -> None:
    trace = planted(direct, alpha, artifactLocation=beta.root)
    for path in (f"&path={PICTURE}", "", "&path=", f"&path=&path={PICTURE}"):
        for version in ("2.0", "3.0"):
            for method in ("GET", "HEAD"):
                target = f"/ajax-api/{version}/mlflow/get-trace-artifact?request_id={trace}{path}"
                answer = alpha.send(method, target)
                assert answer.status == 403, (method, target, answer)
    through = direct("GET", f"/ajax-api/3.0/mlflow/get-trace-artifact?request_id={trace}")
    assert through.body == SECRET  # so MLflow would have


def test_archived_spans_elsewhere_are_neither_read_nor_deleted(
    direct: Callable[..., Response], alpha: Tenant, archive: Any
) -> None:
    tags = {"trace__spansLocation": "ARCHIVE_REPO", "trace__archiveLocation": str(archive)}
    trace = planted(direct, alpha, **tags)
    for path in (
        f"{V3}/traces/get?trace_id={trace}",
        f"{V3}/traces/batchGet?trace_ids={alpha.trace}&trace_ids={trace}",
        f"/ajax-api/3.0/mlflow/get-trace-artifact?request_id={trace}",
    ):
        assert refused(alpha.send("GET", path), "archiveLocation")
    for path, document in (
        ("get", {"trace_id": trace}),
        ("batchGet", {"traceIds": [trace]}),
    ):
        assert refused(alpha.send("GET", f"{V3}/traces/{path}", document))
    assert direct("GET", f"{V3}/traces/get?trace_id={trace}").status == 200
    for version in (V2, V3):
        for which in (
            {"request_ids": [trace]},
            {"requestIds": [trace]},
            {"max_timestamp_millis": 9_999_999_999_999, "max_traces": 100},
        ):
            delete = {"experiment_id": alpha.experiment} | which
            assert refused(alpha.send("POST", f"{version}/traces/delete-traces", delete))
    assert (archive / "traces.pb").exists()
    delete = {"experiment_id": alpha.experiment, "request_ids": [trace]}
    assert direct("POST", f"{V3}/traces/delete-traces", delete).json == {"traces_deleted": 1}
    assert not (archive / "traces.pb").exists()  # so MLflow would have


def test_own_traces_are_deleted_by_id_and_by_time(alpha: Tenant) -> None:
    experiment = alpha.post("experiments/create", name=secrets.token_hex(8))["experiment_id"]
    place = trace_info("", experiment)["trace_location"]
    first, second = (alpha.new_trace(trace_location=place) for _ in range(2))
    delete = partial(alpha.post, "traces/delete-traces", experiment_id=experiment)
    assert delete(request_ids=[first]) == {"traces_deleted": 1}
    assert delete(max_timestamp_millis=9_999_999_999_999, max_traces=9) == {"traces_deleted": 1}
    assert alpha.send("GET", f"{V3}/traces/{second}").status == 404


def test_what_is_not_there_is_mlflows_to_say(alpha: Tenant, beta: Tenant) -> None:
    for trace in ("tr-none", beta.trace):
        assert alpha.send("GET", f"{V3}/traces/get?trace_id={trace}").status == 404
        target = f"/ajax-api/3.0/mlflow/get-trace-artifact?request_id={trace}"
        assert alpha.send("GET", target).status in (404, 500)
    for experiment in ("999", beta.experiment):
        delete = {"experiment_id": experiment, "max_timestamp_millis": 1}
        answer = alpha.send("POST", f"{V3}/traces/delete-traces", delete)
        assert answer.status in (200, 404)
        assert answer.json.get("traces_deleted", 0) == 0


def test_no_file_of_a_model_version_is_read_elsewhere(
    direct: Callable[..., Response], alpha: Tenant, beta: Tenant
) -> None:
    name = secrets.token_hex(8)
    alpha.post("registered-models/create", name=name)
    version = {"name": name, "source": "s3://bucket/workspaces/alpha"}
    assert direct("POST", f"{V2}/model-versions/create", version).status == 200
    get = f"/model-versions/get-artifact?path=MLmodel&name={name}&version="
    assert refused(alpha.send("GET", f"{get}1"), "root of this model version")
    rename = {"name": name, "new_name": f"{name}-2"}
    answer = alpha.send("POST", f"{V2}/registered-models/rename", rename)
    assert refused(answer, "root of this model version")
    tag = {"name": name, "version": "1", "key": "mlflow.prompt.is_prompt", "value": "true"}
    alpha.post("model-versions/set-tag", **tag)  # MLflow's search would leave it out
    assert alpha.send("POST", f"{V2}/registered-models/rename", rename).error == REFUSED
    alpha.post("model-versions/create", name=name, source=f"{alpha.root}/m", run_id=alpha.run)
    path = f"{alpha.root.partition(':/')[2]}/m/MLmodel"
    assert alpha.send("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}", b"own").status == 200
    assert alpha.send("GET", f"{get}2").body == b"own"
    assert alpha.send("GET", f"{get}3").status == 404
    assert alpha.send("GET", f"{get}2&version=1").error == REFUSED


@pytest.mark.parametrize("name", ["a b", "it's", 'a "b"', "ü = 1 AND name = x", "50%_"])
def test_an_own_model_is_renamed(alpha: Tenant, name: str) -> None:
    name = f"{name}{secrets.token_hex(4)}"
    alpha.post("registered-models/create", name=name)
    alpha.post("model-versions/create", name=name, source=f"{alpha.root}/m", run_id=alpha.run)
    is_prompt = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    alpha.post("model-versions/create", name=name, source="dummy-source", tags=is_prompt)
    alpha.post("registered-models/rename", name=name, new_name=f"{name}-2")


def test_own_artifacts_are_listed_and_read(alpha: Tenant, beta: Tenant) -> None:
    path = f"{alpha.root.partition(':/')[2]}/own"
    assert alpha.send("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{path}", b"own").status == 200
    for _ in range(2):  # asked, and remembered
        assert alpha.send("GET", f"/get-artifact?path=own&run_uuid={alpha.run}").body == b"own"
        assert alpha.send("GET", f"{V2}/artifacts/list?run_id={alpha.run}").json["files"]
    assert alpha.send("GET", f"/get-artifact?path=own&run_uuid={beta.run}").status == 404
    listed = f"{V2}/logged-models/{alpha.model}/artifacts/directories"
    assert alpha.send("GET", listed).status == 200
    assert alpha.send("GET", listed.replace(alpha.model, beta.model)).status == 404


# --- ids of another's ----------------------------------------------------------------------------


def test_no_metric_is_logged_to_anothers_model(alpha: Tenant, beta: Tenant) -> None:
    metric = {"key": "m", "value": 1, "timestamp": 1}
    for spelling in ("model_id", "modelId", "\\u006dodel_id"):
        for model in (beta.model, "m-unknown", "../x"):
            one = {"run_id": alpha.run, **metric, spelling: model}
            many = {"run_id": alpha.run, "metrics": [metric, {**metric, spelling: model}]}
            for path, document in (("log-metric", one), ("log-batch", many)):
                text = json.dumps(document).replace("\\\\u", "\\u")
                for body in (text.encode(), text.encode("utf-16"), json.dumps(text).encode()):
                    answer = alpha.send("POST", f"{V2}/runs/{path}", body)
                    assert refused(answer, "leave model_id out")
    assert beta.model_metrics() == []
    alpha.post("runs/log-metric", run_id=alpha.run, model_id=alpha.model, **metric)
    alpha.post("runs/log-batch", run_id=alpha.run, metrics=[{**metric, "model_id": alpha.model}])
    alpha.post("runs/log-batch", run_id=alpha.run, metrics=[metric])
    assert len(alpha.model_metrics()) == 1


def test_no_assessment_of_anothers_is_taken(alpha: Tenant, beta: Tenant) -> None:
    theirs, own = beta.assess(), alpha.assess()
    for name in (alpha.trace, f"tr-{secrets.token_hex(16)}"):
        for spelling in ("assessment_id", "assessmentId"):
            found = [assessment(**{spelling: theirs})]
            info = trace_info(name, alpha.experiment) | {"assessments": found}
            answer = alpha.send("POST", f"{V3}/traces", {"trace": {"trace_info": info}})
            assert refused(answer, "Leave assessment_id out")
    assert beta.send("GET", f"{V3}/traces/{beta.trace}/assessments/{theirs}").status == 200
    for name, fields in ((alpha.trace, {"assessment_id": own}), (alpha.trace, {})):
        info = trace_info(name, alpha.experiment) | {"assessments": [assessment(**fields)]}
        alpha.post("traces", trace={"trace_info": info})
    alpha.new_trace(assessments=[assessment()])


def test_graphql_lists_no_artifacts(alpha: Tenant) -> None:
    query = 'query Q { mlflowListArtifacts(input: {runId: "x"}) { rootUri } }'
    assert refused(alpha.send("POST", "/graphql", {"query": query}), "artifacts/list")
    run = query.replace("x", alpha.run).replace("ListArtifacts", "GetRun")
    run = run.replace("rootUri", "run { info { runId } }")
    assert alpha.run in alpha.send("POST", "/graphql", {"query": run}).body.decode()


def test_the_admin_scope_is_not_judged(
    tenants_proxy: Proxy, auth_service: KeyedAuthService, alpha: Tenant, beta: Tenant
) -> None:
    admin = bearer(auth_service.create_key(scopes=["admin"]).key)
    through = sender(tenants_proxy.url, admin, "X-MLFLOW-WORKSPACE: alpha", prefix="/api/mlflow")
    pair = {"key": "mlflow.artifactLocation", "value": beta.root}
    trace = alpha.new_trace()
    assert through("PATCH", f"{V3}/traces/{trace}/tags", pair).status == 200
    target = f"/ajax-api/3.0/mlflow/get-trace-artifact?request_id={quote(trace)}"
    assert through("GET", target).body == SECRET
    assert refused(alpha.send("GET", target))


# --- MLflow's SDK in the own workspace -----------------------------------------------------------

MODEL = """
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class Twice(PythonModel):
    def predict(self, context, model_input: list[float], params=None):
        return [2 * number for number in model_input]


set_model(Twice())
"""


@pytest.fixture
def client(
    connect: Callable[..., Any],
    tenants_proxy: Proxy,
    tenants_keys: dict[str, Key],
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """The SDK's client with alpha's key, in a new experiment."""
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    client = connect(f"{tenants_proxy.url}/api/mlflow", tenants_keys["alpha"].key)
    mlflow.set_experiment(unique("sdk"))
    return client


def test_a_model_is_logged_with_metrics_registered_and_loaded(
    client: Any, pyfunc: Any, tmp_path: Path
) -> None:
    source = tmp_path / "model.py"
    source.write_text(MODEL)
    name = unique("twice")
    with mlflow.start_run() as run:
        logged = pyfunc.log_model(
            name="model",
            python_model=str(source),
            pip_requirements=["mlflow"],
            registered_model_name=name,
        )
        mlflow.log_metric("m", 1.0, model_id=logged.model_id)
        mlflow.log_metrics({"n": 2.0}, model_id=logged.model_id)
        mlflow.log_text("text", "note.txt")
    assert {each.key for each in client.get_logged_model(logged.model_id).metrics} == {"m", "n"}
    mlflow.register_model(f"runs:/{run.info.run_id}/model", name)
    for uri in (f"models:/{name}/1", f"models:/{name}/2", logged.model_uri):
        assert pyfunc.load_model(uri).predict([1.5]) == [3.0]
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/note.txt") == "text"


def test_a_trace_is_kept_with_its_attachment_and_assessments(client: Any) -> None:
    from mlflow.tracing.attachments import Attachment

    with mlflow.start_span("answer") as span:
        picture = Attachment(content_type="image/png", content_bytes=b"picture")
        span.set_inputs({"picture": picture})
        mlflow.log_feedback(trace_id=span.trace_id, name="during", value=True)
    mlflow.log_feedback(trace_id=span.trace_id, name="after", value=False)
    trace = client.get_trace(span.trace_id)
    assert {each.name for each in trace.info.assessments} == {"during", "after"}
    assert trace.data.spans[0].inputs["picture"].startswith("mlflow-attachment://")
    ajax = f"{mlflow.get_tracking_uri()}/ajax-api/3.0/mlflow/get-trace-artifact"
    found = requests.get(
        ajax,
        {"request_id": span.trace_id, "path": picture.id},
        headers={"Authorization": f"Bearer {os.environ['MLFLOW_TRACKING_TOKEN']}"},
        timeout=60,
    )
    assert found.content == b"picture"
    experiment = trace.info.experiment_id
    assert len(client.search_traces(locations=[experiment])) == 1
    assert client.delete_traces(experiment, trace_ids=[span.trace_id]) == 1
    assert client.search_traces(locations=[experiment]) == []
