"""How often each call of MLflow waits for a database connection, as JSON: [[method, path, waits]].

Run this with the server environment's python. MLflow runs in this process, on SQLite in a temporary
folder. Each wait may take 30 s (SQLAlchemy's pool_timeout), so a call with two of them may take a
minute before MLflow answers.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

V2, V3 = "/api/2.0/mlflow", "/api/3.0/mlflow"
TRACE = "tr-" + "ab" * 16
SERVER = "com.example/tools"


class Counted:
    """A client of MLflow in this process, which counts the waits of each call."""

    def __init__(self, app: Any, waits: list[int]) -> None:
        """`app` is ASGI: MLflow's FastAPI, with its Flask behind it."""
        self._app = app
        self._loop = asyncio.new_event_loop()
        self._waits = waits
        self.seen: list[tuple[str, str, int]] = []

    def ask(self, method: str, path: str, **fields: Any) -> dict[str, Any]:
        """Makes a call; exits where MLflow refuses it."""
        del self._waits[:]
        status, body = self._loop.run_until_complete(self._call(method, path, fields))
        if status != 200:
            raise SystemExit(f"{method} {path}: {status} {body[:300]!r}")
        self.seen.append((method, path, len(self._waits)))
        document: dict[str, Any] = json.loads(body)
        return document

    async def _call(self, method: str, path: str, fields: dict[str, Any]) -> tuple[int, bytes]:
        query, body = urlencode(fields).encode(), json.dumps(fields).encode()
        query, body = (query, b"") if method == "GET" else (b"", body)
        headers = {"host": "localhost", "content-type": "application/json"}
        headers["content-length"] = str(len(body))
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "root_path": "",
            "query_string": query,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "server": ("localhost", 80),
            "client": ("localhost", 1),
        }
        asked = [{"type": "http.request", "body": body}]
        told: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not asked:  # it waits for the end of the client
                await asyncio.Event().wait()
            return asked.pop()

        async def send(message: dict[str, Any]) -> None:
            told.append(message)

        await self._app(scope, receive, send)
        return told[0]["status"], b"".join(message.get("body", b"") for message in told)


def walk(mlflow: Counted) -> None:
    """Calls what a client calls, each with what the calls before it have made."""
    ask = mlflow.ask
    ask("POST", f"{V2}/experiments/create", name="first")
    experiment = ask("POST", f"{V2}/experiments/create", name="second")["experiment_id"]
    ask("POST", f"{V2}/experiments/search", max_results=10)
    ask("GET", f"{V2}/experiments/get", experiment_id=experiment)
    ask(
        "POST", f"{V2}/experiments/set-experiment-tag", experiment_id=experiment, key="k", value="v"
    )
    ask("POST", f"{V2}/experiments/update", experiment_id=experiment, new_name="third")
    run = ask("POST", f"{V2}/runs/create", experiment_id=experiment, start_time=1)
    run_id = run["run"]["info"]["run_id"]
    _runs(ask, experiment, run_id)
    model_id = _logged_models(ask, experiment, run_id)
    _registry(ask, run_id, model_id)
    _traces(ask, experiment, run_id)
    _datasets(ask, experiment)
    _evaluation(ask, experiment)
    _mcp_servers(ask)
    _gateway(ask)
    ask("POST", f"{V2}/runs/delete", run_id=run_id)
    ask("POST", f"{V2}/runs/restore", run_id=run_id)
    ask("POST", f"{V2}/experiments/delete", experiment_id=experiment)
    ask("POST", f"{V2}/experiments/restore", experiment_id=experiment)


def _runs(ask: Any, experiment: str, run_id: str) -> None:
    metric = {"key": "m", "value": 1, "timestamp": 1, "step": 1}
    dataset = {"name": "d", "digest": "x", "source_type": "s", "source": "{}"}
    ask("GET", f"{V2}/runs/get", run_id=run_id)
    ask("POST", f"{V2}/runs/search", experiment_ids=[experiment])
    ask("POST", f"{V2}/runs/log-parameter", run_id=run_id, key="p", value="1")
    ask("POST", f"{V2}/runs/log-metric", run_id=run_id, **metric)
    ask("POST", f"{V2}/runs/log-batch", run_id=run_id, metrics=[metric], params=[], tags=[])
    ask("POST", f"{V2}/runs/set-tag", run_id=run_id, key="t", value="1")
    ask("POST", f"{V2}/runs/delete-tag", run_id=run_id, key="t")
    ask("POST", f"{V2}/runs/log-inputs", run_id=run_id, datasets=[{"tags": [], "dataset": dataset}])
    ask("POST", f"{V2}/runs/update", run_id=run_id, status="FINISHED", end_time=3)
    ask("GET", f"{V2}/metrics/get-history", run_id=run_id, metric_key="m")
    ask("GET", f"{V2}/artifacts/list", run_id=run_id)
    ask(
        "POST",
        "/ajax-api/2.0/mlflow/experiments/search-datasets",
        experiment_ids=[experiment],
    )


def _logged_models(ask: Any, experiment: str, run_id: str) -> str:
    fields = {"experiment_id": experiment, "name": "lm", "source_run_id": run_id}
    made = ask("POST", f"{V2}/logged-models", **fields)["model"]["info"]["model_id"]
    model = f"{V2}/logged-models/{made}"
    ask("GET", model)
    ask("PATCH", model, model_id=made, status="LOGGED_MODEL_READY")
    ask("POST", f"{model}/params", model_id=made, params=[{"key": "c", "value": "d"}])
    ask("PATCH", f"{model}/tags", tags=[{"key": "x", "value": "y"}])
    ask("DELETE", f"{model}/tags/x")
    ask("POST", f"{V2}/logged-models/search", experiment_ids=[experiment])
    ask("POST", f"{V2}/runs/outputs", run_id=run_id, models=[{"model_id": made, "step": 1}])
    return str(made)


def _registry(ask: Any, run_id: str, model_id: str) -> None:
    models, versions = f"{V2}/registered-models", f"{V2}/model-versions"
    first, tag = {"name": "rm", "version": "1"}, {"key": "a", "value": "b"}
    made_of = {"model_id": model_id, "run_id": run_id}
    ask("POST", f"{models}/create", name="first")
    ask("POST", f"{models}/create", name="rm")
    ask("POST", f"{versions}/create", name="rm", source=f"models:/{model_id}", **made_of)
    ask("GET", f"{versions}/get", **first)
    ask("GET", f"{versions}/get-download-uri", **first)
    ask("GET", f"{versions}/search", max_results=10)
    ask("POST", f"{versions}/set-tag", **first, **tag)
    ask("DELETE", f"{versions}/delete-tag", **first, key="a")
    ask("POST", f"{versions}/transition-stage", **first, stage="Staging")
    ask("PATCH", f"{versions}/update", **first, description="d")
    ask("POST", f"{models}/alias", **first, alias="al")
    ask("GET", f"{models}/alias", name="rm", alias="al")
    ask("DELETE", f"{models}/alias", name="rm", alias="al")
    ask("GET", f"{models}/get", name="rm")
    ask("GET", f"{models}/search", max_results=10)
    ask("POST", f"{models}/get-latest-versions", name="rm")
    ask("POST", f"{models}/set-tag", name="rm", **tag)
    ask("DELETE", f"{models}/delete-tag", name="rm", key="a")
    ask("PATCH", f"{models}/update", name="rm", description="d")
    ask("POST", f"{models}/rename", name="rm", new_name="other")
    ask("DELETE", f"{versions}/delete", name="other", version="1")
    ask("DELETE", f"{models}/delete", name="other")


def _traces(ask: Any, experiment: str, run_id: str) -> None:
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
    info = {
        "trace_id": TRACE,
        "trace_location": place,
        "request_time": "2026-01-01T00:00:00Z",
        "execution_duration": "1s",
        "state": "OK",
    }
    source = {"source_type": "HUMAN", "source_id": "ann"}
    assessment = {"assessment_name": "q", "source": source, "feedback": {"value": 1}}
    trace, links = f"{V3}/traces/{TRACE}", {"trace_ids": [TRACE], "run_id": run_id}
    ask("POST", f"{V3}/traces", trace={"trace_info": info})
    ask("GET", trace)
    ask("POST", f"{V3}/traces/batchGetInfos", trace_ids=[TRACE])
    ask("POST", f"{V3}/traces/search", locations=[place])
    made = ask("POST", f"{trace}/assessments", assessment={"trace_id": TRACE, **assessment})
    ask("GET", f"{trace}/assessments/{made['assessment']['assessment_id']}")
    ask("PATCH", f"{trace}/tags", key="k", value="v")
    ask("DELETE", f"{trace}/tags", key="k")
    ask("POST", f"{V2}/traces/link-to-run", **links)
    old = ask("POST", f"{V2}/traces", experiment_id=experiment, timestamp_ms=1)
    request_id = old["trace_info"]["request_id"]
    ask("PATCH", f"{V2}/traces/{request_id}", timestamp_ms=2, status="OK")
    ask("GET", f"{V2}/traces/{request_id}/info")
    queues, owner = f"{V3}/review-queues", {"experiment_id": experiment, "user": "bob"}
    queue = ask("POST", f"{queues}/get-or-create-user", **owner)["review_queue"]["queue_id"]
    ask("POST", f"{queues}/items/add", queue_id=queue, item_ids=[TRACE])
    ask("GET", f"{queues}/items/list", queue_id=queue)
    ask(
        "POST",
        f"{V3}/traces/delete-traces",
        experiment_id=experiment,
        max_timestamp_millis=10**13,
    )


def _datasets(ask: Any, experiment: str) -> None:
    made = ask("POST", f"{V3}/datasets/create", name="d", experiment_ids=[experiment])
    dataset = f"{V3}/datasets/{made['dataset']['dataset_id']}"
    ask("GET", dataset)
    ask("POST", f"{V3}/datasets/search", experiment_ids=[experiment])
    ask("POST", f"{dataset}/records", records=json.dumps([{"inputs": {"a": 1}}]))
    ask("GET", f"{dataset}/records")
    ask("GET", f"{dataset}/experiment-ids")
    ask("POST", f"{dataset}/add-experiments", experiment_ids=["0"])
    ask("POST", f"{dataset}/remove-experiments", experiment_ids=["0"])
    ask("PATCH", f"{dataset}/tags", tags=json.dumps({"q": "r"}))
    ask("DELETE", f"{dataset}/tags/q")
    ask("DELETE", dataset)


def _evaluation(ask: Any, experiment: str) -> None:
    scorer = {"experiment_id": experiment, "name": "sc"}
    ask("POST", f"{V3}/issues", experiment_id=experiment, name="i", description="x")
    ask("POST", f"{V3}/issues/search", experiment_id=experiment)
    ask("POST", f"{V3}/scorers/register", **scorer, serialized_scorer="{}")
    ask("GET", f"{V3}/scorers/list", experiment_id=experiment)
    ask("GET", f"{V3}/scorers/get", **scorer)
    ask("GET", f"{V3}/scorers/versions", **scorer)
    ask("DELETE", f"{V3}/scorers/delete", **scorer)


def _mcp_servers(ask: Any) -> None:
    server, version = (
        f"{V3}/mcp-servers/{SERVER}",
        {"name": SERVER, "version": "1.0.0", "description": "d"},
    )
    ask("POST", f"{V3}/mcp-servers", name=SERVER)
    ask("POST", f"{server}/versions", server_json=version)
    ask("PATCH", f"{server}/versions/1.0.0", status="active")
    ask("POST", f"{server}/aliases", alias="al", version="1.0.0")
    ask("GET", f"{server}/aliases/al")
    ask("GET", server)


def _gateway(ask: Any) -> None:
    gateway, value = f"{V3}/gateway", {"api_key": "none"}
    openai = {"provider": "openai", "model_name": "gpt-4o"}
    secret = ask(
        "POST", f"{gateway}/secrets/create", secret_name="s", secret_value=value, provider="openai"
    )["secret"]["secret_id"]
    model = ask("POST", f"{gateway}/model-definitions/create", name="m", secret_id=secret, **openai)
    linked = {"model_definition_id": model["model_definition"]["model_definition_id"]}
    configs = [{**linked, "linkage_type": "PRIMARY"}]
    ask("POST", f"{gateway}/endpoints/create", name="e", model_configs=configs)
    ask("GET", f"{gateway}/endpoints/list")
    ask("GET", "/gateway/mlflow/v1/models")
    ask("POST", "/ajax-api/3.0/jobs/search")


@contextlib.contextmanager
def counted_waits() -> Iterator[list[int]]:
    """A list that grows by one with each wait for a connection of any pool."""
    from sqlalchemy.pool.impl import QueuePool

    waits: list[int] = []
    get: Any = QueuePool._do_get

    def counted(pool: Any) -> Any:
        waits.append(1)
        return get(pool)

    QueuePool._do_get = counted
    try:
        yield waits
    finally:
        QueuePool._do_get = get


def main() -> None:
    """Prints the list; MLflow's own output goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ.update(
            _MLFLOW_SERVER_FILE_STORE=f"sqlite:///{folder}/mlflow.db",
            _MLFLOW_SERVER_ARTIFACT_ROOT="mlflow-artifacts:/",
            _MLFLOW_SERVER_ARTIFACT_DESTINATION=f"{folder}/artifacts",
            _MLFLOW_SERVER_SERVE_ARTIFACTS="true",
            MLFLOW_DISABLE_TELEMETRY="true",
            MLFLOW_CRYPTO_KEK_PASSPHRASE="for-these-calls-only-0123456789",
        )
        from mlflow.server.fastapi_app import app

        with counted_waits() as waits:
            mlflow = Counted(app, waits)
            walk(mlflow)
        os.chdir("/")
    print(json.dumps(mlflow.seen))


if __name__ == "__main__":
    main()
