"""The registration check: everything between an empty experiment and a model that predicts."""

import contextlib
import random
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import mlflow.pyfunc
from artifact_checks import AWKWARD, AWKWARD_FOR_REST, FORBIDDEN, MIB, Artifacts
from mlflow.entities import Metric, Param
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from app.doctor import explain
from app.doctor.steps import Failed, Skipped, Steps
from app.doctor.wire import Wire, credential

DOOR = "the key is accepted"
ALIAS = "checked"
BATCH = 100  # metrics in one log-batch call
PARAMS = {"solver": "none", "note": "a=b & c"}
INPUT = [1.0, 2.5, -3.0]
MODEL_FILE = Path(__file__).with_name("sample_model.py")


@dataclass
class Registration:
    """One pass; `name` is for experiment and model, the ids become known on the way."""

    wire: Wire
    scratch: Path
    name: str
    offset: float = field(default_factory=lambda: float(random.randint(1, 10**6)))
    experiment_id: str = ""
    run_id: str = ""
    artifact_uri: str = ""
    model_uri: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        self.client = mlflow.MlflowClient()

    def door(self) -> str:
        """Over plain HTTP, for the SDK hides the words of an answer that it tries again."""
        got = self.wire.get(f"{self.wire.target.prefix}/version", credential(self.wire.options.key))
        if got.status != 200 or got.is_page:
            raise explain.response(got, "200 with MLflow's version")
        return f"MLflow {got.text.strip()}, SDK {mlflow.__version__}"

    def make_experiment(self) -> str:
        self.experiment_id = self.client.create_experiment(self.name)
        found = self.client.get_experiment(self.experiment_id)
        if found.name != self.name:
            raise Failed(f"Experiment {self.experiment_id} is called {found.name}.")
        _is_reachable(found.artifact_location)
        return f"id {self.experiment_id}"

    def start_run(self) -> str:
        run = self.client.create_run(self.experiment_id)
        self.run_id, self.artifact_uri = run.info.run_id, run.info.artifact_uri
        return self.run_id

    def log_params(self) -> str:
        for key, value in PARAMS.items():
            self.client.log_param(self.run_id, key, value)
        return ", ".join(PARAMS)

    def log_metric(self) -> str:
        self.client.log_metric(self.run_id, "single", 0.5)
        return "single"

    def log_batch(self) -> str:
        now = int(time.time() * 1000)
        metrics = [Metric("batch", step / 2, now, step) for step in range(BATCH)]
        self.client.log_batch(self.run_id, metrics, [Param("batch_size", str(BATCH))])
        return f"{BATCH} metrics, 1 param"

    def read_back(self) -> str:
        data = self.client.get_run(self.run_id).data
        history = [point.value for point in self.client.get_metric_history(self.run_id, "batch")]
        wrong = [
            name
            for name, same in (
                ("params", data.params == {**PARAMS, "batch_size": str(BATCH)}),
                ("metric single", data.metrics.get("single") == 0.5),
                ("metric batch", sorted(history) == [step / 2 for step in range(BATCH)]),
            )
            if not same
        ]
        if wrong:
            raise Failed(f"Read back otherwise than logged: {', '.join(wrong)}.")
        return "params and metrics as logged"

    def artifacts(self) -> Artifacts:
        return Artifacts(self.client, self.wire, self.run_id, self.artifact_uri, self.scratch)

    def log_model(self) -> str:
        with mlflow.start_run(run_id=self.run_id):
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(MODEL_FILE),
                model_config={"offset": self.offset},
                pip_requirements=["mlflow"],  # else MLflow starts a process to guess them
            )
        self.model_uri = str(info.model_uri)
        return self.model_uri

    def register(self) -> str:
        found = mlflow.register_model(self.model_uri, self.name)
        self.version = str(found.version)
        if found.status != "READY":
            raise Failed(f"Version {self.version} is {found.status} instead of READY.")
        return f"version {self.version}, READY"

    def find_version(self) -> str:
        found = self.client.search_model_versions(f"name = '{self.name}'")
        if [str(version.version) for version in found] != [self.version]:
            raise Failed(f"The search finds versions {[v.version for v in found]}.")
        if found[0].run_id != self.run_id:
            raise Failed(f"Version {self.version} belongs to run {found[0].run_id}.")
        return f"version {self.version} of run {self.run_id}"

    def set_alias(self) -> str:
        self.client.set_registered_model_alias(self.name, ALIAS, self.version)
        found = self.client.get_model_version_by_alias(self.name, ALIAS)
        if str(found.version) != self.version:
            raise Failed(f"@{ALIAS} points to version {found.version}.")
        return f"@{ALIAS} → version {self.version}"

    def load_and_predict(self) -> str:
        folder = self.scratch / "loaded"
        folder.mkdir()
        model = mlflow.pyfunc.load_model(f"models:/{self.name}@{ALIAS}", dst_path=str(folder))
        got = list(model.predict(INPUT))
        wanted = [number + self.offset for number in INPUT]
        if got != wanted:
            raise Failed(f"The loaded model predicts {got} instead of {wanted}.")
        return "predicts what was logged"

    def delete_registered_model(self) -> str:
        if not self.client.search_registered_models(f"name = '{self.name}'"):
            raise Skipped("there is none")
        self.client.delete_registered_model(self.name)
        if self.client.search_registered_models(f"name = '{self.name}'"):
            raise Failed(f"Registered model {self.name} is still there.")
        return "and its version"

    def delete_artifacts(self) -> str:
        """MLflow's deletions keep the files until someone runs `mlflow gc`; these go first."""
        experiment = self._experiment()
        models = self.client.search_logged_models([experiment.experiment_id])
        runs = self.client.search_runs([experiment.experiment_id])
        uris = [model.artifact_location for model in models]
        uris += [run.info.artifact_uri for run in runs]
        for uri in uris:
            repository: Any = get_artifact_repository(uri)
            repository.delete_artifacts()
        return f"of {len(runs)} run and {len(models)} model"

    def delete_run(self) -> str:
        experiment = self._experiment()
        for model in self.client.search_logged_models([experiment.experiment_id]):
            self.client.delete_logged_model(model.model_id)
        runs = self.client.search_runs([experiment.experiment_id])
        for run in runs:
            self.client.delete_run(run.info.run_id)
        if self.client.search_runs([experiment.experiment_id]):
            raise Failed(f"A run of experiment {experiment.experiment_id} is still there.")
        return ", ".join(run.info.run_id for run in runs) or "there is none"

    def delete_experiment(self) -> str:
        experiment_id = self._experiment().experiment_id
        self.client.delete_experiment(experiment_id)
        if self.client.get_experiment(experiment_id).lifecycle_stage != "deleted":
            raise Failed(f"Experiment {experiment_id} is still there.")
        return f"id {experiment_id}"

    def _experiment(self) -> Any:
        """Looked up by name: a call that made it may have failed all the same."""
        found = self.client.get_experiment_by_name(self.name)
        if found is None:
            raise Skipped("there is none")
        return found


def _is_reachable(location: str) -> None:
    """Raises Failed if the SDK would leave the proxy for artifacts: only it holds credentials."""
    parts = urlsplit(location)
    if parts.scheme != "mlflow-artifacts" or parts.netloc:
        raise Failed(
            f"Artifacts of new experiments are at {parts.scheme}://{parts.netloc}, past the proxy.",
            "Start MLflow with --serve-artifacts and --artifacts-destination, and without a "
            "--default-artifact-root of its own.",
        )


def opens(steps: Steps, flow: Registration) -> bool:
    """The first step; where it fails nothing has been made that would have to be cleaned up."""
    return steps.run(DOOR, flow.door)


def run(steps: Steps, flow: Registration, large_mib: int) -> None:
    """Make everything; each step needs the one it builds upon."""
    steps.run("experiment created", flow.make_experiment, needs=DOOR)
    steps.run("run started", flow.start_run, needs="experiment created")
    steps.run("params", flow.log_params, needs="run started")
    steps.run("metric, single", flow.log_metric, needs="run started")
    steps.run("metrics, in a batch", flow.log_batch, needs="run started")
    steps.run("read back", flow.read_back, needs="metrics, in a batch")
    files = {"small": 1024, "large": large_mib * MIB, "empty": 0}
    for kind, size in files.items():
        check = partial(_round_trip, flow, f"{kind}.bin", size)
        steps.run(f"artifact, {kind}", check, needs="run started")
    steps.run("artifact, awkward name", partial(_round_trip, flow, AWKWARD, 1024), "run started")
    steps.run("artifact, ? in its name (REST)", partial(_over_rest, flow), "run started")
    steps.run("artifact, # in its name (REST)", partial(_forbidden, flow), "run started")
    steps.run("model logged", flow.log_model, needs="run started")
    steps.run("model registered", flow.register, needs="model logged")
    steps.run("version found", flow.find_version, needs="model registered")
    steps.run("alias set", flow.set_alias, needs="model registered")
    steps.run("loaded by its alias, predicts", flow.load_and_predict, needs="alias set")


def _round_trip(flow: Registration, name: str, size: int) -> str:
    return flow.artifacts().round_trip(name, size)


def _over_rest(flow: Registration) -> str:
    return flow.artifacts().round_trip_over_rest(AWKWARD_FOR_REST)


def _forbidden(flow: Registration) -> str:
    return flow.artifacts().forbidden_name(FORBIDDEN)


def clean_up(steps: Steps, flow: Registration) -> None:
    """Delete what there is, whatever happened before."""
    with contextlib.suppress(Exception):
        mlflow.end_run()
    steps.run("deleted: registered model", flow.delete_registered_model, always=True)
    steps.run("deleted: artifacts", flow.delete_artifacts, always=True)
    steps.run("deleted: run", flow.delete_run, always=True)
    steps.run("deleted: experiment", flow.delete_experiment, always=True)
