"""Storage locations without workspaces: what stands elsewhere is neither made nor followed.

The shared MLflow keeps artifacts behind mlflow-artifacts:/; a location elsewhere is planted in it
directly, as if it were older than the rule.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devstack.mlflow import MLflow
from devstack.proxy import Proxy
from tests.conftest import KeyedAuthService
from tests.pipeline.conftest import unique
from tests.wire import Response, bearer, call

V2 = "/api/2.0/mlflow"
Send = Callable[..., Response]


def sender(url: str, *fields: str) -> Send:
    def send(method: str, path: str, document: Any = None) -> Response:
        body = b"" if document is None else json.dumps(document).encode()
        return call(url, method, path, *fields, "Content-Type: application/json", body=body)

    return send


@pytest.fixture(scope="module")
def elsewhere(
    mlflow_server: MLflow, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str]]:
    """A folder beside MLflow's with a file, and the ids of what has it as its root."""
    direct = sender(mlflow_server.url, "Host: localhost")

    def post(path: str, **document: Any) -> Any:
        answer = direct("POST", f"{V2}/{path}", document)
        assert answer.status == 200, answer
        return answer.json

    folder = tmp_path_factory.mktemp("elsewhere")
    place = {"name": unique("elsewhere"), "artifact_location": f"file://{folder}"}
    experiment = post("experiments/create", **place)["experiment_id"]
    run = post("runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
    model = post("logged-models", experiment_id=experiment)["model"]["info"]["model_id"]
    for path in (folder / run / "artifacts", folder / "models" / model / "artifacts"):
        path.mkdir(parents=True)
        (path / "note").write_text("kept elsewhere")
    name = unique("version")
    post("registered-models/create", name=name)
    source = f"file://{folder}/{run}/artifacts"
    post("model-versions/create", name=name, source=source, run_id=run)
    post("model-versions/create", name=name, source=f"models:/{model}", model_id=model)
    return folder, {"experiment": experiment, "run": run, "model": model, "version": name}


@pytest.mark.parametrize(
    ("method", "path", "document"),
    [
        ("GET", "/get-artifact?path=note&run_id={run}", None),
        ("GET", "/get-artifact?path=note&run_id=&run_uuid={run}", None),
        ("HEAD", "/get-artifact?path=note&run_id={run}", None),
        ("GET", f"{V2}/artifacts/list?run_id={{run}}", None),
        ("GET", f"{V2}/artifacts/list", {"run_id": "{run}"}),
        ("GET", f"{V2}/artifacts/list", {"run_uuid": "{run}"}),
        ("POST", f"/ajax-api{V2[4:]}/upload-artifact?run_uuid={{run}}&path=x", "text"),
        ("POST", f"{V2}/artifacts/presigned-download-url", {"run_id": "{run}", "path": "note"}),
        ("POST", f"{V2}/artifacts/presigned-upload-url", {"modelId": "{model}", "path": "note"}),
        ("GET", f"{V2}/logged-models/{{model}}/artifacts/directories", None),
        (
            "GET",
            f"/ajax-api{V2[4:]}/logged-models/{{model}}/artifacts/files?artifact_file_path=note",
            None,
        ),
        ("GET", "/model-versions/get-artifact?path=note&name={version}&version=1", None),
        ("GET", "/model-versions/get-artifact?path=note&name={version}&version=2", None),
        (
            "POST",
            f"/ajax-api{V2[4:]}/runs/create-promptlab-run",
            {
                "experiment_id": "{experiment}",
                "prompt_template": "t",
                "prompt_parameters": [{"key": "k", "value": "v"}],
                "model_route": "r",
                "model_input": "i",
                "mlflow_version": "3",
            },
        ),
        (
            "POST",
            "/graphql",
            {"query": 'query Q { mlflowListArtifacts(input: {runId: "{run}"}) { rootUri } }'},
        ),
    ],
)
def test_a_root_elsewhere_is_not_followed(
    proxy: Proxy,
    writer: str,
    mlflow_server: MLflow,
    elsewhere: tuple[Path, dict[str, str]],
    method: str,
    path: str,
    document: Any,
) -> None:
    folder, ids = elsewhere
    before = sorted(folder.rglob("*"))
    text = json.dumps(document)
    for name, value in ids.items():
        path, text = path.replace(f"{{{name}}}", value), text.replace(f"{{{name}}}", value)
    answer = sender(proxy.url, bearer(writer))(method, f"/api/mlflow{path}", json.loads(text))
    assert answer.status == 403, answer
    assert sorted(folder.rglob("*")) == before
    if method == "GET":
        through = sender(mlflow_server.url, "Host: localhost")(method, path, json.loads(text))
        assert b"note" in through.body or b"kept" in through.body, through  # so MLflow would have


def test_an_experiment_and_a_version_elsewhere_are_not_made(
    proxy: Proxy, writer: str, auth_service: KeyedAuthService
) -> None:
    send = sender(proxy.url, bearer(writer))
    place = {"name": unique("made"), "artifact_location": "s3://user:hk_test_secret@bucket/x"}
    answer = send("POST", f"/api/mlflow{V2}/experiments/create", place)
    assert answer.error == (403, "PERMISSION_DENIED")
    for word in ("artifact_location", "ALLOWED_LOCATIONS", "ask the operator"):
        assert word in answer.json["message"]
    assert "secret" not in answer.json["message"]
    for own in ("", "mlflow-artifacts:/own"):
        made = {"name": unique("made"), "artifact_location": own}
        assert send("POST", f"/api/mlflow{V2}/experiments/create", made).status == 200
    admin = sender(proxy.url, bearer(auth_service.create_key(admin=True).key))
    assert admin("POST", f"/api/mlflow{V2}/experiments/create", place).status == 200


def test_the_operator_allows_a_place(
    start_proxy: Callable[..., Proxy], writer: str, elsewhere: tuple[Path, dict[str, str]]
) -> None:
    folder, ids = elsewhere
    proxy = start_proxy(ALLOWED_LOCATIONS=f"mlflow-artifacts:/, {folder}", WEB_CONCURRENCY=1)
    send = sender(proxy.url, bearer(writer))
    path = f"/api/mlflow/get-artifact?path=note&run_id={ids['run']}"
    assert send("GET", path).body == b"kept elsewhere"
