"""MLflow's SDK through nginx and two proxies, as a user of the composed stack sees it."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import unique
from tests.topology.conftest import Topology

MEBIBYTE = 1024 * 1024


@pytest.fixture
def client(connect: Callable[..., Any], topology: Topology, auth_service: Any) -> Any:
    """The SDK, at nginx, with a key that may read and write."""
    key = auth_service.create_key(scopes=["read", "write"]).key
    return connect(f"http://localhost:{topology.nginx.port}/api/mlflow", key)


@pytest.mark.slow
def test_a_model_version_is_registered(client: Any) -> None:
    experiment = client.create_experiment(unique("topology"))
    info = client.create_run(experiment).info
    run = info.run_id
    client.log_metric(run, "loss", 0.25)
    client.log_param(run, "depth", "3")
    name = client.create_registered_model(unique("model")).name
    version = client.create_model_version(name, f"{info.artifact_uri}/model", run)
    assert client.get_run(run).data.metrics == {"loss": 0.25}
    assert [v.version for v in client.search_model_versions(f"name='{name}'")] == [version.version]


@pytest.mark.slow
def test_sixty_megabytes_go_up_and_come_down_as_they_were(client: Any, tmp_path: Path) -> None:
    run = client.create_run(client.create_experiment(unique("large"))).info.run_id
    file = tmp_path / "weights.bin"
    block = hashlib.sha256(run.encode()).digest() * (MEBIBYTE // 32)
    with file.open("wb") as out:
        for number in range(60):
            out.write(number.to_bytes(4, "big") + block[4:])
    client.log_artifact(run, str(file))
    (tmp_path / "down").mkdir()
    down = Path(client.download_artifacts(run, "weights.bin", str(tmp_path / "down")))
    assert down.stat().st_size == 60 * MEBIBYTE
    assert _digest(down) == _digest(file)


def _digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
