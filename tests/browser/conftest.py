"""A real browser in front of the session's servers, and something in MLflow to look at."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.browser.chromium import Chromium, programs
from tests.conftest import DEVELOPERS_ENVIRONMENT

MISSING = (
    "there is no Chromium with chromedriver on this machine; on Debian: "
    "apt install chromium chromium-driver"
)


@pytest.fixture(scope="session")
def _chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    found = programs()
    if found is None:
        if DEVELOPERS_ENVIRONMENT.get("REQUIRE_BROWSER") == "1":
            pytest.fail(f"REQUIRE_BROWSER=1, and {MISSING}")
        pytest.skip(MISSING)
    with Chromium(tmp_path_factory.mktemp("chromium"), *found) as browser:
        yield browser


@pytest.fixture
def browser(_chromium: Chromium) -> Chromium:
    """A browser that was never here."""
    _chromium.forget()
    return _chromium


@dataclass(frozen=True)
class Exhibits:
    """What stands in MLflow: an experiment of 100 runs, the last one with an artifact that is a
    model's version."""

    experiment: str
    experiment_id: str
    run_id: str
    run_name: str
    model: str


@pytest.fixture(scope="session")
def exhibits(mlflow_server: Any) -> Exhibits:
    """Put there past the proxy, once."""
    name = f"waves-{time.monotonic_ns()}"
    with requests.Session() as session:

        def post(path: str, **content: Any) -> Any:
            answer = session.post(f"{mlflow_server.url}/api/2.0/mlflow/{path}", json=content)
            answer.raise_for_status()
            return answer.json()

        experiment_id = post("experiments/create", name=name)["experiment_id"]
        now = int(time.time() * 1000)
        for number in range(100):
            run = post(
                "runs/create",
                experiment_id=experiment_id,
                start_time=now - 1000 * (100 - number),
                run_name=f"view-{number:02}",
            )["run"]["info"]
            steps = [
                {"key": "loss", "value": 1 / (step + 1), "timestamp": now + step, "step": step}
                for step in range(5)
            ]
            post("runs/log-batch", run_id=run["run_id"], metrics=steps)
        folder = f"{experiment_id}/{run['run_id']}/artifacts"
        artifact = f"{mlflow_server.url}/api/2.0/mlflow-artifacts/artifacts/{folder}/notes.txt"
        session.put(artifact, data=b"thirty-six views of a mountain").raise_for_status()
        model = f"kanagawa-{experiment_id}"
        post("registered-models/create", name=model)
        source = f"mlflow-artifacts:/{folder}"
        post("model-versions/create", name=model, source=source, run_id=run["run_id"])
    return Exhibits(name, experiment_id, run["run_id"], run["run_name"], model)


@pytest.fixture
def reader(auth_service: Any) -> Any:
    """A fresh key that may read: `.key`, `.key_id`."""
    return auth_service.create_key(user="katsushika", scopes=["read"])
