"""From an empty experiment to a registered model over plain REST, and everything deleted again."""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from app.doctor import explain
from app.doctor.mlflow import ARTIFACTS, READS, SERVED
from app.doctor.steps import Failed, Skipped, Steps
from app.doctor.wire import Wire, expect

MIB = 1024 * 1024
METRIC = {"key": "checked", "value": 0.25, "step": 3}

MAKES = "experiment created"
RUNS = "run started"
STORES = "artifacts are kept by MLflow"
SMALL = "artifact of 1 KB, up and down"
HALF = "artifact, broken off halfway"
LARGER = "artifact of 1.5 MB"


def unique_name(kind: str = "doctor") -> str:
    """A name that no other run has, with the time of this one (UTC)."""
    now = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return f"hokusai-{kind}-{now}-{secrets.token_hex(4)}"


class Half:
    """A body that breaks off halfway: the connection is closed then."""

    def __len__(self) -> int:
        return MIB

    def __iter__(self) -> Iterator[bytes]:
        yield os.urandom(MIB // 2)
        raise ConnectionAbortedError


@dataclass
class Model:
    """One run; `name` is for experiment and model, the ids come with the first steps."""

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
        """The first write: a key that may only read fails here."""
        self.tried = True
        got = self._call("POST", "experiments/create", name=self.name)
        if got.status == 403 and (got.document() or {}).get("error_code") == "PERMISSION_DENIED":
            self.tried = False
            raise explain.response(got, "200", "read-only-key")
        self.experiment_id = str(expect(got)["experiment_id"])
        found = self._get("experiments/get", experiment_id=self.experiment_id)["experiment"]
        self.location = str(found["artifact_location"])
        return f"id {self.experiment_id}, {self.name}"

    def start_run(self) -> str:
        body = {"experiment_id": self.experiment_id, "start_time": _now()}
        info = expect(self._call("POST", "runs/create", **body))["run"]["info"]
        self.run_id, self.artifact_uri = str(info["run_id"]), str(info["artifact_uri"])
        return self.run_id

    def log_metric(self) -> str:
        """Written, and read back."""
        body = METRIC | {"run_id": self.run_id, "timestamp": _now()}
        expect(self._call("POST", "runs/log-metric", **body))
        data = self._get("runs/get", run_id=self.run_id)["run"]["data"]
        found = [metric["value"] for metric in data.get("metrics", [])]
        if found != [METRIC["value"]]:
            raise Failed.of("bodies-lost", f"Read back as {found}, not {METRIC['value']}.")
        return "read back as logged"

    def keeps_artifacts(self) -> str:
        """Clients reach them through MLflow only, which is behind the proxy."""
        parts = urlsplit(self.location)
        if parts.scheme != "mlflow-artifacts" or parts.netloc:
            raise Failed.of("artifacts-elsewhere", f"At {parts.scheme or 'a folder'}:.")
        return "by MLflow, below the proxy"

    def round_trip(self, name: str, size: int, chunked: bool = False) -> str:
        """Up, and down again with the same checksum."""
        content = os.urandom(size)
        self._put(name, content, chunked)
        got = self._artifact("GET", name)
        if got.status != 200:
            raise explain.response(got, "200")
        compare(name, content, got.body, got.request_id)
        return f"{size} bytes, same checksum"

    def _put(self, name: str, content: bytes, chunked: bool) -> None:
        """Uploads; where a small body would pass, the fault is that of a larger or chunked one."""
        self.stored = True
        key = "chunked-lost" if chunked else "body-limit" if len(content) > MIB else ""
        try:
            got = self._artifact("PUT", name, data=_pieces(content) if chunked else content)
        except Failed as failed:  # a hop may hang up before it has read the whole body
            raise Failed.of(key, failed.message, failed.request_id) if key else failed from None
        if got.status != 200:
            is_of_size = got.status in (413, 400, 411, 501)
            raise explain.response(got, "200", key if is_of_size else "")

    def send_half(self) -> str:
        with contextlib.suppress(Failed):
            self._artifact("PUT", "half.bin", data=Half())
        return "sent; looked for below"

    def half_is_not_there(self) -> str:
        """MLflow must not have stored it as complete."""
        got = self._artifact("GET", "half.bin")
        if got.status == 200:
            evidence = f"An upload that broke off is stored, as {len(got.body)} bytes."
            raise Failed.of("breaks-hidden", evidence, got.request_id)
        return "not stored"

    def register(self) -> str:
        """A registered model with the name of this run."""
        expect(self._call("POST", "registered-models/create", name=self.name))
        return self.name

    def make_version(self) -> str:
        """A version of it, from the run, found by a search."""
        body = {"name": self.name, "source": self.artifact_uri, "run_id": self.run_id}
        made = expect(self._call("POST", "model-versions/create", **body))["model_version"]
        found = self._get("model-versions/search", filter=f"name='{self.name}'")
        versions = [version["version"] for version in found.get("model_versions", [])]
        if versions != [made["version"]]:
            raise Failed(f"Version {made['version']} was made; the search finds {versions}.")
        return f"version {made['version']}, {made.get('status')}"

    # --- deleting ----------------------------------------------------------------------------

    def delete_model(self) -> str:
        """And its versions."""
        return _deleted(self._call("DELETE", "registered-models/delete", name=self.name))

    def delete_artifacts(self) -> str:
        """MLflow's deletions would keep the files until someone runs `mlflow gc`."""
        if not self.stored:
            raise Skipped("there are none")
        return _deleted(self._artifact("DELETE", ""))

    def delete_experiment(self) -> str:
        """With its runs. Looked up: a call that made it may have failed all the same."""
        path = f"experiments/get-by-name?{urlencode({'experiment_name': self.name})}"
        got = self._call("GET", path)
        if got.status == 404:
            raise Skipped("there is none")
        experiment_id = str(expect(got)["experiment"]["experiment_id"])
        return _deleted(self._call("POST", "experiments/delete", experiment_id=experiment_id))

    # --- requests ----------------------------------------------------------------------------

    def _call(self, method: str, path: str, **body: Any) -> explain.Response:
        """Call MLflow's REST API; the fields of the body are arguments."""
        content = {"json": body} if body else {}
        return self.wire.mlflow(f"/api/2.0/mlflow/{path}", method, **content)

    def _get(self, path: str, **query: str) -> dict[str, Any]:
        return expect(self._call("GET", f"{path}?{urlencode(query)}"))

    def _artifact(self, method: str, name: str, **body: Any) -> explain.Response:
        """`name` is a file of the run's, "" for all of them."""
        folder = quote(urlsplit(self.artifact_uri).path.strip("/"))
        path = f"{ARTIFACTS}/{folder}{name and '/'}{quote(name, safe='')}"
        return self.wire.mlflow(path, method, **body)


def compare(name: str, sent: bytes, got: bytes, request_id: str = "") -> None:
    """Raises Failed if what came back differs from what was sent."""
    if got != sent:
        evidence = f"{name}: {len(got)} bytes instead of {len(sent)}."
        raise Failed.of("changed-on-the-way", evidence, request_id)


def _pieces(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), 64 * 1024):
        yield content[start : start + 64 * 1024]


def _now() -> int:
    return int(time.time() * 1000)


def _deleted(got: explain.Response) -> str:
    if got.status == 404:
        raise Skipped("there is none")
    if got.status != 200:
        raise explain.response(got, "200")
    return ""


def run(steps: Steps, model: Model, large_mib: int) -> None:
    """Make everything; each step needs the one it builds upon."""
    steps.run(MAKES, model.make_experiment, needs=READS)
    steps.run(RUNS, model.start_run, needs=MAKES)
    steps.run("metric", model.log_metric, needs=RUNS)
    steps.run(STORES, model.keeps_artifacts, needs=(RUNS, SERVED))
    steps.run(SMALL, partial(model.round_trip, "small.bin", 1024), needs=STORES)
    steps.run(HALF, model.send_half, needs=SMALL)
    steps.run(LARGER, partial(model.round_trip, "over.bin", 3 * MIB // 2), needs=SMALL)
    chunked = partial(model.round_trip, "chunked.bin", 300_000, chunked=True)
    steps.run("artifact, chunked", chunked, needs=SMALL)
    if large_mib:
        large = partial(model.round_trip, "large.bin", large_mib * MIB)
        steps.run(f"artifact of {large_mib} MB", large, needs=LARGER)
    steps.run("registered model", model.register, needs=RUNS)
    steps.run("model version", model.make_version, needs="registered model")
    steps.run("what broke off is not there", model.half_is_not_there, needs=HALF)


def clean_up(steps: Steps, model: Model) -> None:
    """Delete what there is, whatever happened before."""
    steps.run("deleted: registered model", model.delete_model, always=True)
    steps.run("deleted: artifacts", model.delete_artifacts, always=True)
    steps.run("deleted: experiment", model.delete_experiment, always=True)
