"""One of everything that MLflow keeps, made in a workspace by its own key.

A secret is a text that its owner alone writes: it is looked for in every answer to others. Names
are no secrets; others use the same ones.
"""

import json
import re
import secrets
import time
import uuid
from pathlib import Path
from typing import Any

from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from tests.tenants.databases import Database
from tests.tenants.tenant import Tenant

#: The name of an attachment, which MLflow wants to be a UUID.
PICTURE = "0f8fad5b-d9cb-469f-a165-70867728950e"


def secrets_in(body: bytes, workspace: str) -> set[str]:
    """What of a workspace's secrets stands in an answer."""
    return set(re.findall(f"private-{workspace}-[a-z-]+", body.decode("latin-1")))


class Belongings:
    """`ids`: what rows.py can name, the ids and names of the objects in one workspace."""

    def __init__(self, tenant: Tenant, workspace: str, artifacts: Path) -> None:
        """Make everything that the tenant may make. `artifacts` is the folder of MLflow's files."""
        self._tenant, self._post, self._workspace = tenant, tenant.post, workspace
        self._artifacts = artifacts
        self._suffix = secrets.token_hex(4)
        self.ids: dict[str, str] = {"workspace": workspace, "user": workspace}
        self._experiment()
        self._model()
        self._trace()
        self._evaluation()
        self._dataset()
        self._mcp_server()

    def _secret(self, what: str) -> str:
        return f"private-{self._workspace}-{what}"

    def _tags(self, what: str) -> list[dict[str, str]]:
        return [{"key": "k", "value": self._secret(f"{what}-tag")}]

    def _name(self, what: str) -> str:
        return self.ids.setdefault(what, f"{what.replace('_', '-')}-{self._suffix}")

    def _file(self, folder: str, name: str, content: bytes) -> str:
        """Put an artifact, and return its path. `folder` is below the experiment."""
        path = f"workspaces/{self._workspace}/{self.ids['experiment']}/{folder}/{name}"
        target = f"/api/2.0/mlflow-artifacts/artifacts/{path}"
        assert self._tenant.send("PUT", target, body=content).status == 200
        return path

    def _locations(self, what: str, path: str) -> None:
        """The folder of a file, as MLflow names it and as it is on its disk."""
        folder = path.rpartition("/")[0]
        self.ids[f"{what}_location"] = f"mlflow-artifacts:/{folder}"
        self.ids[f"{what}_folder"] = str(self._artifacts / folder)

    def _experiment(self) -> None:
        """With a run that has everything a run can have."""
        name = self._name("experiment_name")
        tags, now = self._tags("experiment"), int(time.time() * 1000)
        made = self._post("2.0/mlflow/experiments/create", name=name, tags=tags)
        experiment = self.ids["experiment"] = made["experiment_id"]
        run = self._post(
            "2.0/mlflow/runs/create",
            experiment_id=experiment,
            start_time=now,
            run_name=self._secret("run-name"),
            tags=self._tags("run"),
        )["run"]["info"]["run_id"]
        self.ids["run"] = run
        made = self._post("2.0/mlflow/experiments/create", name=self._name("deleted_name"))
        gone = self.ids["deleted_experiment"] = made["experiment_id"]
        self._post("2.0/mlflow/experiments/delete", experiment_id=gone)
        made = self._post("2.0/mlflow/runs/create", experiment_id=experiment)
        gone = self.ids["deleted_run"] = made["run"]["info"]["run_id"]
        self._post("2.0/mlflow/runs/delete", run_id=gone)
        note = self._file(f"{run}/artifacts", "note", self._secret("artifact").encode())
        self.ids |= {"artifact": note, "artifact_folder": note.rpartition("/")[0]}
        self._locations("run", note)
        self._post(
            "2.0/mlflow/runs/log-batch",
            run_id=run,
            metrics=[{"key": "m", "value": 0.5, "timestamp": now, "step": 1}],
            params=[{"key": "p", "value": self._secret("param")}],
        )
        data = {"name": self._secret("data"), "digest": "1", "source_type": "local", "source": "s"}
        self._post("2.0/mlflow/runs/log-inputs", run_id=run, datasets=[{"dataset": data}])

    def _model(self) -> None:
        """A logged model, its version in the registry, and a prompt, which stands there too."""
        model = self._post(
            "2.0/mlflow/logged-models",
            experiment_id=self.ids["experiment"],
            source_run_id=self.ids["run"],
            tags=self._tags("model"),
            params=[{"key": "p", "value": self._secret("model-param")}],
        )["model"]["info"]["model_id"]
        self.ids["model"] = model
        content = self._secret("mlmodel").encode()
        self._locations("model", self._file(f"models/{model}/artifacts", "MLmodel", content))
        self._register("registered_model", [], source=f"models:/{model}", model_id=model)
        is_prompt = {"key": "mlflow.prompt.is_prompt", "value": "true"}
        text = {"key": "mlflow.prompt.text", "value": self._secret("prompt")}
        self._register("prompt", [is_prompt, text], source="prompt-template")

    def _register(self, what: str, tags: list[dict[str, str]], **version: str) -> None:
        name, text = self._name(what), self._secret("description")
        tags = [*self._tags("registered"), *tags]
        self._post("2.0/mlflow/registered-models/create", name=name, description=text, tags=tags)
        self._post("2.0/mlflow/model-versions/create", name=name, tags=tags, **version)
        self._post("2.0/mlflow/registered-models/alias", name=name, alias="best", version="1")

    def _trace(self) -> None:
        """A trace of one span, with an attachment and an assessment, in the run."""
        otel, span = secrets.token_hex(16), secrets.token_hex(8)
        trace = f"tr-{otel}"
        self.ids |= {"trace": trace, "otel_trace": otel, "span": span}
        answer = self._tenant.send(
            "POST",
            "/v1/traces",
            headers={
                "Content-Type": "application/json",
                "x-mlflow-experiment-id": self.ids["experiment"],
            },
            body=json.dumps(spans(otel, span, self._secret("span"))).encode(),
        )
        assert answer.status == 200, answer
        folder, export = (
            f"traces/{trace}/artifacts",
            spans(otel, span, self._secret("archived-span")),
        )
        self._file(f"{folder}/attachments", PICTURE, self._secret("attachment").encode())
        archive = json_format.ParseDict(export, TracesData(), ignore_unknown_fields=True)
        self._locations("trace", self._file(folder, "traces.pb", archive.SerializeToString()))
        made = self._post(
            f"3.0/mlflow/traces/{trace}/assessments",
            assessment=assessment(self._secret("assessment")),
        )
        self.ids["assessment"] = made["assessment"]["assessment_id"]
        self._post("2.0/mlflow/traces/link-to-run", trace_ids=[trace], run_id=self.ids["run"])

    def _evaluation(self) -> None:
        within = {"experiment_id": self.ids["experiment"]}
        scorer = '{{"name": "{}", "description": "{}"}}'.format(
            self._name("scorer"),
            self._secret("scorer"),
        )
        self._post(
            "3.0/mlflow/scorers/register",
            **within,
            name=self.ids["scorer"],
            serialized_scorer=scorer,
        )
        schema = self._post(
            "3.0/mlflow/label-schemas/create",
            **within,
            name=self._name("schema_name"),
            type="FEEDBACK",
            input={"text": {}},
            instruction=self._secret("schema"),
        )["label_schema"]["schema_id"]
        queue = self._post(
            "3.0/mlflow/review-queues/create",
            **within,
            name=self._name("queue_name"),
            queue_type="CUSTOM",
            users=[self._secret("reviewer")],
            schema_ids=[schema],
        )["review_queue"]["queue_id"]
        self._post(
            "3.0/mlflow/review-queues/items/add",
            queue_id=queue,
            item_type="TRACE",
            item_ids=[self.ids["trace"]],
        )
        text = {"name": self._secret("issue"), "description": self._secret("issue-text")}
        issue = self._post("3.0/mlflow/issues", **within, **text)["issue"]["issue_id"]
        self.ids |= {"schema": schema, "queue": queue, "issue": issue}

    def _dataset(self) -> None:
        made = self._post(
            "3.0/mlflow/datasets/create",
            name=self._name("dataset_name"),
            experiment_ids=[self.ids["experiment"]],
            tags='{{"k": "{}"}}'.format(self._secret("dataset-tag")),
        )
        self.ids["dataset"] = made["dataset"]["dataset_id"]
        records = f"3.0/mlflow/datasets/{self.ids['dataset']}/records"
        self._post(records, records='[{{"inputs": {{"q": "{}"}}}}]'.format(self._secret("record")))
        found = self._tenant.get(records)["records"]
        self.ids["record"] = json.loads(found)[0]["dataset_record_id"]

    def _mcp_server(self) -> None:
        name = f"org/{self._name('mcp')}"
        path = f"3.0/mlflow/mcp-servers/{name}"
        self.ids["mcp_server"] = name
        self._post("3.0/mlflow/mcp-servers", name=name, description=self._secret("mcp"))
        document = {"name": name, "version": "1.0.0", "description": self._secret("mcp-version")}
        self._post(f"{path}/versions", server_json=document, status="active")
        self._post(f"{path}/tags", key="k", value=self._secret("mcp-tag"))
        self._post(f"{path}/versions/1.0.0/tags", key="k", value=self._secret("mcp-version-tag"))
        self._post(f"{path}/aliases", alias="best", version="1.0.0")
        url = f"https://mcp.test/{self._secret('mcp-endpoint')}"
        made = self._post(f"{path}/endpoints", server_version="1.0.0", url=url)
        self.ids["mcp_endpoint"] = made["id"]

    def given_by(self, operator: Tenant, database: Database, provider: str) -> None:
        """What an operator gives a workspace: an endpoint of the gateway, and a job. `operator` has
        the admin scope there; `provider` is the address of a language model."""
        secret = operator.post(
            "3.0/mlflow/gateway/secrets/create",
            secret_name=self._name("gateway_secret"),
            secret_value={"api_key": self._secret("provider-key")},
            provider="openai",
            auth_config={"api_base": provider},
        )["secret"]["secret_id"]
        model = operator.post(
            "3.0/mlflow/gateway/model-definitions/create",
            name=self._name("gateway_model"),
            secret_id=secret,
            provider="openai",
            model_name=self._secret("model-name"),
        )["model_definition"]["model_definition_id"]
        operator.post(
            "3.0/mlflow/gateway/endpoints/create",
            name=self._name("gateway_endpoint"),
            model_configs=[{"model_definition_id": model, "linkage_type": "PRIMARY", "weight": 1}],
        )
        judge = {
            "instructions": "{{ inputs }}",
            "model": f"gateway:/{self.ids['gateway_endpoint']}",
        }
        scorer = {"name": self._name("judge"), "instructions_judge_pydantic_data": judge}
        within = {"experiment_id": self.ids["experiment"], "name": self.ids["judge"]}
        made = operator.post(
            "3.0/mlflow/scorers/register", **within, serialized_scorer=json.dumps(scorer)
        )
        self.ids["scorer_id"] = made["scorer_id"]
        when = f"tags.k = '{self._secret('scoring')}'"
        operator.put(
            "3.0/mlflow/scorers/online-config", **within, sample_rate=0.5, filter_string=when
        )
        self.ids["job"] = str(uuid.uuid4())
        parameters = {"experiment_id": self.ids["experiment"], "text": self._secret("job")}
        database.execute(
            "INSERT INTO jobs (id, creation_time, job_name, params, status, retry_count,"
            f" last_update_time, workspace, result) VALUES ('{self.ids['job']}', 1,"
            f" 'optimize_prompts', '{json.dumps(parameters)}', 2, 0, 1, '{self._workspace}',"
            f" '\"{self._secret('job-result')}\"')"
        )


def assessment(value: str) -> dict[str, Any]:
    """Feedback on a trace."""
    return {
        "assessment_name": "quality",
        "source": {"source_type": "HUMAN", "source_id": "somebody"},
        "feedback": {"value": value},
        "create_time": "2026-11-28T00:00:00Z",
        "last_update_time": "2026-11-28T00:00:00Z",
    }


def spans(trace: str, span: str, value: str) -> dict[str, Any]:
    """An export of one root span, as OpenTelemetry's JSON has it."""
    now = time.time_ns()
    names = ("spanInputs", "spanOutputs", "traceTag.k")
    root = {
        "traceId": trace,
        "spanId": span,
        "name": value,
        "kind": 1,
        "startTimeUnixNano": str(now - 1000),
        "endTimeUnixNano": str(now),
        "attributes": [
            {"key": f"mlflow.{name}", "value": {"stringValue": f'"{value}"'}} for name in names
        ],
    }
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": [root]}]}]}
