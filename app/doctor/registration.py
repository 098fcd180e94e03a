"""The registration check: everything between an empty experiment and a model that predicts."""

import contextlib
import os
import random
import time
from functools import partial
from pathlib import Path

import mlflow
import mlflow.pyfunc
from mlflow.entities import Metric, Param

from app.doctor import explain, model
from app.doctor.connection import ACCEPTED
from app.doctor.model import MAKES, MIB, RUNS, Model, compare
from app.doctor.steps import Failed, Steps
from app.doctor.wire import Wire

ALIAS = "checked"
BATCH = [step / 2 for step in range(100)]  # metrics in one log-batch call
PARAMS = {"solver": "none", "note": "a=b & c"}
INPUT = [1.0, 2.5, -3.0]
MODEL_FILE = Path(__file__).with_name("sample_model.py")

FOLDER = "check"  # of the artifacts
# What the SDK itself sends correctly. It puts names into an address unquoted, so `#` and `?` do
# not survive it, with or without a proxy (3.17.2): those go over REST.
AWKWARD = "naïve 模型 100% done.txt"
AWKWARD_FOR_REST = "50% done? a+b & c.txt"
FORBIDDEN = "report #1.txt"  # MLflow refuses `#`; a hop that cuts the name there hides that


class Registration:
    """One pass with the SDK. `rest` does over REST what needs no SDK: names that the SDK garbles,
    and deleting."""

    def __init__(self, wire: Wire, scratch: Path, name: str) -> None:
        """`scratch` is an empty local folder, `name` that of the experiment and of the model."""
        self.wire, self.scratch, self.name = wire, scratch, name
        self.offset = float(random.randint(1, 10**6))  # of this pass's model
        self.rest = Model(wire, name)
        self.client = mlflow.MlflowClient()

    def door(self) -> str:
        """Over REST, because the SDK hides the message of an answer that it retries."""
        got = self.wire.mlflow("/version")
        if got.status != 200 or got.is_page:
            raise explain.response(got, "200 with MLflow's version")
        return f"MLflow {got.text.strip()}, SDK {mlflow.__version__}"

    def make_experiment(self) -> str:
        """With artifacts that are reached through the proxy: only it has access to MLflow."""
        experiment_id = self.client.create_experiment(self.name)
        found = self.client.get_experiment(experiment_id)
        if found.name != self.name:
            raise Failed(f"Experiment {experiment_id} is called {found.name}.")
        self.rest.experiment_id, self.rest.location = experiment_id, found.artifact_location
        self.rest.keeps_artifacts()
        return f"id {experiment_id}"

    def start_run(self) -> str:
        info = self.client.create_run(self.rest.experiment_id).info
        self.rest.run_id, self.rest.artifact_uri = info.run_id, f"{info.artifact_uri}/{FOLDER}"
        return str(info.run_id)

    def log_params(self) -> str:
        for key, value in PARAMS.items():
            self.client.log_param(self.rest.run_id, key, value)
        return ", ".join(PARAMS)

    def log_metric(self) -> str:
        self.client.log_metric(self.rest.run_id, "single", 0.5)
        return "single"

    def log_batch(self) -> str:
        now = int(time.time() * 1000)
        metrics = [Metric("batch", value, now, step) for step, value in enumerate(BATCH)]
        self.client.log_batch(self.rest.run_id, metrics, [Param("batch_size", str(len(BATCH)))])
        return f"{len(BATCH)} metrics, 1 param"

    def read_back(self) -> str:
        data = self.client.get_run(self.rest.run_id).data
        history = self.client.get_metric_history(self.rest.run_id, "batch")
        right = {
            "params": data.params == {**PARAMS, "batch_size": str(len(BATCH))},
            "metric single": data.metrics.get("single") == 0.5,
            "metric batch": sorted(point.value for point in history) == BATCH,
        }
        if wrong := [name for name, is_right in right.items() if not is_right]:
            raise Failed(f"Read back otherwise than logged: {', '.join(wrong)}.")
        return "params and metrics as logged"

    # --- artifacts ---------------------------------------------------------------------------

    def round_trip(self, name: str, size: int) -> str:
        """Send a file of `size` random bytes with the SDK and compare what comes back."""
        content, path = os.urandom(size), f"{FOLDER}/{name}"
        (self.scratch / name).write_bytes(content)
        (folder := self.scratch / f"down-{name}").mkdir()
        started = time.perf_counter()
        self.client.log_artifact(self.rest.run_id, str(self.scratch / name), FOLDER)
        sent = time.perf_counter()
        found = self.client.download_artifacts(self.rest.run_id, path, str(folder))
        took = f"up {sent - started:.2f} s, down {time.perf_counter() - sent:.2f} s"
        compare(name, content, Path(found).read_bytes())
        self._is_listed(path, size)
        return f"{f'{size // MIB} MiB' if size >= MIB else f'{size} bytes'}, {took}, same checksum"

    def round_trip_over_rest(self, name: str) -> str:
        """The same with a correctly encoded address."""
        result = self.rest.round_trip(name, 1024)
        self._is_listed(f"{FOLDER}/{name}", 1024)
        return result

    def forbidden_name(self) -> str:
        """MLflow itself refuses the name; a hop that shortens it would let it through."""
        try:
            return self.round_trip_over_rest(FORBIDDEN)
        except Failed as failed:
            if "400" in failed.message and "INVALID_PARAMETER_VALUE" in failed.message:
                return "refused by MLflow itself, in its own words"
            raise

    def _is_listed(self, path: str, size: int) -> None:
        files = self.client.list_artifacts(self.rest.run_id, FOLDER)
        found = {file.path: file.file_size or 0 for file in files}
        if path not in found:
            raise Failed(
                f"«{path}» was sent but is not in the list ({', '.join(sorted(found))}).",
                "A hop re-encodes the path, or the store lost the file.",
            )
        if found[path] != size:
            raise Failed(
                f"«{path}» has {found[path]} bytes in the store instead of {size}.",
                "A hop loses bodies or cuts them: look for one that drops Content-Length.",
            )

    # --- the model ---------------------------------------------------------------------------

    def log_model(self) -> str:
        with mlflow.start_run(run_id=self.rest.run_id):
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
        if [(str(one.version), one.run_id) for one in found] != [(self.version, self.rest.run_id)]:
            seen = ", ".join(f"{one.version} of run {one.run_id}" for one in found)
            raise Failed(f"The search finds {seen or 'nothing'}, not version {self.version}.")
        return f"version {self.version} of run {self.rest.run_id}"

    def set_alias(self) -> str:
        self.client.set_registered_model_alias(self.name, ALIAS, self.version)
        found = self.client.get_model_version_by_alias(self.name, ALIAS)
        if str(found.version) != self.version:
            raise Failed(f"@{ALIAS} points to version {found.version}.")
        return f"@{ALIAS} → version {self.version}"

    def load_and_predict(self) -> str:
        (folder := self.scratch / "loaded").mkdir()
        loaded = mlflow.pyfunc.load_model(f"models:/{self.name}@{ALIAS}", dst_path=str(folder))
        got, wanted = list(loaded.predict(INPUT)), [number + self.offset for number in INPUT]
        if got != wanted:
            raise Failed(f"The loaded model predicts {got} instead of {wanted}.")
        return "predicts what was logged"


def run(steps: Steps, flow: Registration, large_mib: int) -> None:
    """Make everything; each step needs the one it builds upon."""
    steps.run(MAKES, flow.make_experiment, needs=ACCEPTED)
    steps.run(RUNS, flow.start_run, needs=MAKES)
    steps.run("params", flow.log_params, needs=RUNS)
    steps.run("metric, single", flow.log_metric, needs=RUNS)
    steps.run("metrics, in a batch", flow.log_batch, needs=RUNS)
    steps.run("read back", flow.read_back, needs="metrics, in a batch")
    for kind, name, size in (
        ("small", "small.bin", 1024),
        ("large", "large.bin", large_mib * MIB),
        ("empty", "empty.bin", 0),
        ("awkward name", AWKWARD, 1024),
    ):
        steps.run(f"artifact, {kind}", partial(flow.round_trip, name, size), needs=RUNS)
    over_rest = partial(flow.round_trip_over_rest, AWKWARD_FOR_REST)
    steps.run("artifact, ? in its name (REST)", over_rest, needs=RUNS)
    steps.run("artifact, # in its name (REST)", flow.forbidden_name, needs=RUNS)
    steps.run("model logged", flow.log_model, needs=RUNS)
    steps.run("model registered", flow.register, needs="model logged")
    steps.run("version found", flow.find_version, needs="model registered")
    steps.run("alias set", flow.set_alias, needs="model registered")
    steps.run("loaded by its alias, predicts", flow.load_and_predict, needs="alias set")


def clean_up(steps: Steps, flow: Registration) -> None:
    """Delete what there is, whatever happened before; all begins with the experiment."""
    rest = flow.rest
    with contextlib.suppress(Exception):
        mlflow.end_run()
        if flow.client.get_experiment_by_name(flow.name) is None:
            return  # a call that failed may have made it all the same
    rest.artifact_uri, rest.stored = rest.location, bool(rest.location)
    model.clean_up(steps, rest)
