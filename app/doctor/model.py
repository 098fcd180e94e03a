"""From an empty experiment to a registered model over plain REST, and everything deleted again."""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

from app.doctor import explain
from app.doctor.behind import ARTIFACTS, READS, SERVED
from app.doctor.broken_upload import send_half
from app.doctor.steps import Failed, Skipped, Steps
from app.doctor.wire import Wire, credential, expect

MIB = 1024 * 1024
OVER_ONE_MIB = 3 * MIB // 2
METRIC = {"key": "checked", "value": 0.25, "step": 3}

MAKES = "experiment created"
RUNS = "run started"
STORES = "artifacts are kept by MLflow"
SMALL = "artifact of 1 KB, up and down"


def unique_name(kind: str = "doctor") -> str:
    """A name that no run beside this one has, and that tells when it was made (UTC)."""
    now = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return f"hokusai-{kind}-{now}-{secrets.token_hex(4)}"


@dataclass
class Model:
    """One pass; `name` is for experiment and model, the ids become known on the way."""

    wire: Wire
    name: str = field(default_factory=unique_name)
    experiment_id: str = ""
    run_id: str = ""
    location: str = ""
    artifact_uri: str = ""
    stored: bool = False  # whether there may be artifacts
    tried: bool = False  # whether there may be something to delete

    # --- making ------------------------------------------------------------------------------

    def make_experiment(self) -> str:
        """The first write: a key that only reads ends here."""
        self.tried = True
        got = self._call("POST", "experiments/create", {"name": self.name})
        if got.status == 403 and (got.document() or {}).get("error_code") == "PERMISSION_DENIED":
            failed = explain.answer(got, "200")
            failed.fault, self.tried = "read-only-key", False
            raise failed
        self.experiment_id = str(expect(got)["experiment_id"])
        found = self._get("experiments/get", experiment_id=self.experiment_id)["experiment"]
        self.location = str(found["artifact_location"])
        return f"id {self.experiment_id}, {self.name}"

    def start_run(self) -> str:
        """A run in it."""
        body = {"experiment_id": self.experiment_id, "start_time": int(time.time() * 1000)}
        info = expect(self._call("POST", "runs/create", body))["run"]["info"]
        self.run_id, self.artifact_uri = str(info["run_id"]), str(info["artifact_uri"])
        return self.run_id

    def log_metric(self) -> str:
        """Written, and read back."""
        now = int(time.time() * 1000)
        body = METRIC | {"run_id": self.run_id, "timestamp": now}
        expect(self._call("POST", "runs/log-metric", body))
        data = self._get("runs/get", run_id=self.run_id)["run"]["data"]
        found = [metric["value"] for metric in data.get("metrics", [])]
        if found != [METRIC["value"]]:
            raise Failed(f"Read back as {found} instead of {METRIC['value']}.", fault="bodies-lost")
        return "read back as logged"

    def keeps_artifacts(self) -> str:
        """Where clients reach them: through MLflow, to which only the proxy has access."""
        parts = urlsplit(self.location)
        if parts.scheme != "mlflow-artifacts" or parts.netloc:
            raise Failed(
                f"Artifacts of new experiments are kept at {parts.scheme or 'a folder'}:, past the "
                "proxy.",
                "Start MLflow without a --default-artifact-root of its own.",
                fault="artifacts-elsewhere",
            )
        return "by MLflow, below the proxy"

    def round_trip(self, name: str, size: int, chunked: bool = False) -> str:
        """Up, and down again with the same checksum."""
        content = os.urandom(size)
        self._put(name, content, chunked)
        got = self.wire.get(self._path(name), self._key())
        if got.status != 200:
            raise explain.answer(got, "200")
        compare(name, content, got.body, got.request_id)
        return f"{size} bytes, same checksum"

    def _put(self, name: str, content: bytes, chunked: bool) -> None:
        self.stored = True
        data = _pieces(content) if chunked else content
        try:
            got = self.wire.send("PUT", self._path(name), self._key(), data=data)
        except Failed as failed:  # who refuses a body by its size may hang up before it is sent
            failed.fault = _fault_of_size(len(content), chunked) or failed.fault
            raise
        if got.status in (413, 400, 411, 501) and (fault := _fault_of_size(len(content), chunked)):
            refused = explain.answer(got, "200")
            refused.fault = fault
            raise refused
        if got.status != 200:
            raise explain.answer(got, "200")

    def send_half(self) -> str:
        """An upload that ends in the middle; looked for at the end."""
        if not self.wire.is_direct:
            raise Skipped("goes through the environment's proxy")
        send_half(self.wire.options, self._path("half.bin"), self._key(), os.urandom(MIB))
        return "sent; looked for below"

    def half_is_not_there(self) -> str:
        """MLflow must not have taken it for the whole."""
        got = self.wire.get(self._path("half.bin"), self._key())
        if got.status == 200:
            raise Failed(
                f"An upload that broke off is stored, as {len(got.body)} bytes.",
                "A hop hides that uploads break off: do not let it near artifacts.",
                got.request_id,
                "breaks-hidden",
            )
        return "not stored"

    def register(self) -> str:
        """A registered model, by the name of this pass."""
        expect(self._call("POST", "registered-models/create", {"name": self.name}))
        return self.name

    def make_version(self) -> str:
        """A version of it, out of the run, found by a search."""
        source = self.artifact_uri or self.location
        body = {"name": self.name, "source": source, "run_id": self.run_id}
        made = expect(self._call("POST", "model-versions/create", body))["model_version"]
        found = self._get("model-versions/search", filter=f"name='{self.name}'")
        versions = [version["version"] for version in found.get("model_versions", [])]
        if versions != [made["version"]]:
            raise Failed(f"Version {made['version']} was made; the search finds {versions}.")
        return f"version {made['version']}, {made.get('status')}"

    # --- deleting ----------------------------------------------------------------------------

    def delete_model(self) -> str:
        """And its versions."""
        got = self._call("DELETE", "registered-models/delete", {"name": self.name})
        return _deleted(got)

    def delete_artifacts(self) -> str:
        """MLflow's deletions would keep the files until someone runs `mlflow gc`."""
        if not self.stored:
            raise Skipped("there are none")
        got = self.wire.send("DELETE", self._path(""), self._key())
        return _deleted(got)

    def delete_run(self) -> str:
        """Looked up: a call that made it may have failed all the same."""
        experiment_id = self._experiment_id()
        body = {"experiment_ids": [experiment_id]}
        found = expect(self._call("POST", "runs/search", body)).get("runs", [])
        for run in found:
            expect(self._call("POST", "runs/delete", {"run_id": run["info"]["run_id"]}))
        return f"{len(found)} run" if found else "there is none"

    def delete_experiment(self) -> str:
        """The last thing."""
        body = {"experiment_id": self._experiment_id()}
        return _deleted(self._call("POST", "experiments/delete", body))

    def _experiment_id(self) -> str:
        path = f"experiments/get-by-name?experiment_name={quote(self.name)}"
        got = self._call("GET", path)
        if got.status == 404:
            raise Skipped("there is none")
        return str(expect(got)["experiment"]["experiment_id"])

    # --- how ---------------------------------------------------------------------------------

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> explain.Answer:
        content: dict[str, Any] = {} if body is None else {"json": body}
        path = f"{self.wire.target.prefix}/api/2.0/mlflow/{path}"
        return self.wire.send(method, path, self._key(), **content)

    def _get(self, path: str, **query: str) -> dict[str, Any]:
        asked = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        return expect(self._call("GET", f"{path}?{asked}"))

    def _path(self, name: str) -> str:
        root = urlsplit(self.artifact_uri).path.strip("/")
        tail = f"/{quote(name, safe='')}" if name else ""
        return f"{self.wire.target.prefix}{ARTIFACTS}/{quote(root)}{tail}"

    def _key(self) -> dict[str, str]:
        return credential(self.wire.options.key)


def compare(name: str, sent: bytes, got: bytes, request_id: str = "") -> None:
    """Raises Failed if what came back has another SHA-256 sum than what was sent."""
    if hashlib.sha256(got).digest() != hashlib.sha256(sent).digest():
        raise Failed(
            f"{name} came back different: {len(got)} bytes instead of {len(sent)}.",
            "The transfer was cut or changed on the way and looked whole: do not use this way.",
            request_id,
            "changed-on-the-way",
        )


def _pieces(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), 64 * 1024):
        yield content[start : start + 64 * 1024]


def _fault_of_size(size: int, chunked: bool) -> str:
    """Whose fault it is that an upload fails where a small one did not; "" for the small one."""
    if chunked:
        return "chunked-lost"
    return "body-limit" if size > MIB else ""


def _deleted(got: explain.Answer) -> str:
    if got.status == 404:
        raise Skipped("there is none")
    if got.status != 200:
        raise explain.answer(got, "200")
    return ""


def run(steps: Steps, model: Model, large_mib: int) -> None:
    """Make everything; each step needs the one it builds upon."""
    steps.run(MAKES, model.make_experiment, needs=READS)
    steps.run(RUNS, model.start_run, needs=MAKES)
    steps.run("metric", model.log_metric, needs=RUNS)
    steps.run(STORES, model.keeps_artifacts, needs=(RUNS, SERVED))
    steps.run(SMALL, partial(model.round_trip, "small.bin", 1024), needs=STORES)
    steps.run("artifact, broken off halfway", model.send_half, needs=SMALL)
    over = "artifact of 1.5 MB"
    steps.run(over, partial(model.round_trip, "over.bin", OVER_ONE_MIB), needs=SMALL)
    chunked = partial(model.round_trip, "chunked.bin", 300_000, chunked=True)
    steps.run("artifact, chunked", chunked, needs=SMALL)
    if large_mib:
        large = partial(model.round_trip, "large.bin", large_mib * MIB)
        steps.run(f"artifact of {large_mib} MB", large, needs=over)
    steps.run("registered model", model.register, needs=RUNS)
    steps.run("model version", model.make_version, needs="registered model")
    half = "artifact, broken off halfway"
    steps.run("what broke off is not there", model.half_is_not_there, needs=half)


def clean_up(steps: Steps, model: Model) -> None:
    """Delete what there is, whatever happened before."""
    steps.run("deleted: registered model", model.delete_model, always=True)
    steps.run("deleted: artifacts", model.delete_artifacts, always=True)
    steps.run("deleted: run", model.delete_run, always=True)
    steps.run("deleted: experiment", model.delete_experiment, always=True)
