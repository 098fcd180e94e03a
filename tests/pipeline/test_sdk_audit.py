"""What the audit tells of a day's work with MLflow's SDK, against a real MLflow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from devstack.proxy import Proxy
from tests.pipeline.conftest import eventually, unique

Said = tuple[str, dict[str, Any], str]


def told(proxy: Proxy, key_id: str) -> list[Said]:
    """Operation, resource and result of each write of a key."""
    return [
        (line["operation"], line.get("resource", {}), line["result"])
        for line in proxy.log_lines()
        if line["logger"] == "hokusai.audit" and line["key_id"] == key_id
    ]


def test_each_write_of_the_sdk_is_told_with_what_it_wrote_to(
    proxy: Proxy, auth_service: Any, connect: Callable[..., Any], tmp_path: Path
) -> None:
    made = auth_service.create_key(user="ann")
    client = connect(proxy.api, made.key)
    name, model = unique("audited"), unique("model")
    experiment = client.create_experiment(name)
    run = client.create_run(experiment, run_name="first").info.run_id
    client.log_param(run, "alpha", "canary")
    client.log_metric(run, "loss", 0.25)
    client.log_batch(run, [Metric("a", 1.0, 0, 0)], [Param("b", "canary")])
    (tmp_path / "notes.txt").write_text("canary")
    client.log_artifact(run, str(tmp_path / "notes.txt"))
    client.get_run(run)
    client.search_runs([experiment])
    client.create_registered_model(model)
    source = f"{client.get_run(run).info.artifact_uri}/notes.txt"
    version = client.create_model_version(model, source, run).version
    client.set_registered_model_alias(model, "champion", version)
    client.update_model_version(model, version, "canary")
    client.delete_model_version(model, version)
    with pytest.raises(MlflowException, match="already exists"):
        client.create_experiment(name)
    client.delete_run(run)

    accepted: list[tuple[str, dict[str, Any]]] = [
        ("CreateExperiment", {"name": name}),
        ("CreateRun", {"experiment_id": experiment, "run_name": "first"}),
        ("LogParam", {"run_id": run, "run_uuid": run}),
        ("LogMetric", {"run_id": run, "run_uuid": run}),
        ("LogBatch", {"run_id": run}),
        ("UploadArtifact", {"artifact_path": f"{experiment}/{run}/artifacts/notes.txt"}),
        ("CreateRegisteredModel", {"name": model}),
        ("CreateModelVersion", {"name": model, "run_id": run}),
        ("SetRegisteredModelAlias", {"name": model, "version": version, "alias": "champion"}),
        ("UpdateModelVersion", {"name": model, "version": version}),
        ("DeleteModelVersion", {"name": model, "version": version}),
    ]
    expected = [(*what, "accepted") for what in accepted]
    expected.append(("CreateExperiment", {"name": name}, "refused"))
    expected.append(("DeleteRun", {"run_id": run}, "accepted"))
    assert eventually(lambda: len(told(proxy, made.key_id)) >= len(expected))
    assert told(proxy, made.key_id) == expected
    own = [line for line in proxy.log_lines() if line.get("key_id") == made.key_id]
    assert "canary" not in str(own)
