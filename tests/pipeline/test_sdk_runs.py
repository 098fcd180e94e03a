"""Experiments, runs and what is logged to them, with MLflow's SDK."""

from typing import Any

import mlflow
import pytest
import requests
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

from tests.pipeline.conftest import unique

METRIC = "validation/mean squared error"


def test_an_experiment_is_made_found_changed_deleted_and_restored(client: Any) -> None:
    name = unique("naïve 模型 100% a+b")
    made = client.create_experiment(name, tags={"team": "ops & dev"})
    found = client.get_experiment_by_name(name)
    assert (found.experiment_id, found.tags["team"]) == (made, "ops & dev")
    assert found.artifact_location.startswith("mlflow-artifacts:/")

    client.rename_experiment(made, unique("renamed"))
    client.set_experiment_tag(made, "team", "all")
    assert client.get_experiment(made).tags["team"] == "all"
    assert client.get_experiment_by_name(name) is None

    client.delete_experiment(made)
    assert client.get_experiment(made).lifecycle_stage == "deleted"
    client.restore_experiment(made)
    assert client.get_experiment(made).lifecycle_stage == "active"


def test_an_experiment_of_the_same_name_is_refused_in_mlflows_own_words(client: Any) -> None:
    name = unique("experiment")
    client.create_experiment(name)
    with pytest.raises(MlflowException, match="already exists") as refused:
        client.create_experiment(name)
    assert refused.value.error_code == "RESOURCE_ALREADY_EXISTS"


def test_experiments_come_in_pages(client: Any) -> None:
    family = unique("paged")
    made = {client.create_experiment(f"{family}-{number}") for number in range(5)}
    found, token, pages = set(), None, 0
    while pages == 0 or token:
        page = client.search_experiments(
            filter_string=f"name LIKE '{family}%'", max_results=2, page_token=token
        )
        found |= {experiment.experiment_id for experiment in page}
        token, pages = page.token, pages + 1
    assert (found, pages) == (made, 3)


def test_the_three_lines_of_the_documentation_work(client: Any) -> None:
    mlflow.set_experiment(unique("fluent"))
    with mlflow.start_run(run_name="first") as run:
        mlflow.log_param("alpha", 0.5)
        mlflow.log_metric("loss", 0.25)
    kept = client.get_run(run.info.run_id)
    assert (kept.info.run_name, kept.info.status) == ("first", "FINISHED")
    assert kept.data.params == {"alpha": "0.5"}
    assert kept.data.metrics == {"loss": 0.25}


def test_what_is_logged_one_by_one_is_read_back(client: Any, run: str) -> None:
    client.log_param(run, "note", "a=b & c + 100% naïve 模型")
    for step in range(3):
        client.log_metric(run, "loss/train", 1 / (step + 1), step=step)
    client.set_tag(run, "stage", "trial")
    client.set_tag(run, "wrong", "yes")
    client.delete_tag(run, "wrong")

    data = client.get_run(run).data
    assert data.params == {"note": "a=b & c + 100% naïve 模型"}
    assert data.tags["stage"] == "trial"
    assert "wrong" not in data.tags
    history = client.get_metric_history(run, "loss/train")
    assert [(point.step, point.value) for point in history] == [(0, 1), (1, 1 / 2), (2, 1 / 3)]


def test_a_full_batch_is_logged_in_one_call(client: Any, run: str) -> None:
    metrics = [Metric(f"m{number}", number, 1_700_000_000_000, 0) for number in range(800)]
    params = [Param(f"p{number}", "x" * 500) for number in range(100)]
    tags = [RunTag(f"t{number}", "y" * 500) for number in range(100)]
    client.log_batch(run, metrics, params, tags)
    data = client.get_run(run).data
    assert data.metrics == {metric.key: metric.value for metric in metrics}
    assert data.params == {param.key: param.value for param in params}
    assert {tag.key: tag.value for tag in tags}.items() <= data.tags.items()


def test_a_dataset_is_logged_as_the_input_of_a_run(client: Any, run: str) -> None:
    dataset = mlflow.entities.Dataset("numbers", "digest", "local", "somewhere", profile="{}")
    tags = [mlflow.entities.InputTag("context", "training")]
    client.log_inputs(run, [mlflow.entities.DatasetInput(dataset, tags)])
    (kept,) = client.get_run(run).inputs.dataset_inputs
    assert (kept.dataset.name, kept.tags[0].value) == ("numbers", "training")


def test_a_run_ends_is_deleted_and_restored(client: Any, experiment: str, run: str) -> None:
    client.update_run(run, name="renamed")
    client.set_terminated(run, "FAILED")
    info = client.get_run(run).info
    assert (info.run_name, info.status) == ("renamed", "FAILED")

    client.delete_run(run)
    assert client.search_runs([experiment]) == []
    deleted = client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)
    assert [found.info.run_id for found in deleted] == [run]
    client.restore_run(run)
    assert [found.info.run_id for found in client.search_runs([experiment])] == [run]


def test_runs_are_searched_by_filter_and_order(client: Any, experiment: str) -> None:
    for loss in (0.3, 0.1, 0.2):
        run = client.create_run(experiment, tags={"kind": "it's 100% a+b"})
        client.log_metric(run.info.run_id, "loss", loss)
    found = client.search_runs(
        [experiment],
        """metrics.loss < 0.25 AND tags.kind = "it's 100% a+b" """,
        order_by=["metrics.loss ASC"],
    )
    assert [run.data.metrics["loss"] for run in found] == [0.1, 0.2]


@pytest.fixture
def many_runs(client: Any, experiment: str) -> list[str]:
    """The ids of 120 runs with one metric each."""
    ids = [client.create_run(experiment).info.run_id for _ in range(120)]
    for value, run_id in enumerate(ids):
        client.log_metric(run_id, METRIC, value)
    return ids


@pytest.mark.slow
def test_more_than_a_hundred_runs_are_found_by_id_in_pages_and_in_one_long_address(
    client: Any, experiment: str, many_runs: list[str], tracking_uri: str, writer: str
) -> None:
    assert by_id(client, experiment, many_runs) == set(many_runs)
    assert in_pages(client, experiment, 50) == (set(many_runs), 3)
    assert histories(tracking_uri, writer, many_runs[:100]) == set(range(100))


def by_id(client: Any, experiment: str, ids: list[str]) -> set[str]:
    """Those runs of an experiment, by a filter that names each."""
    listed = ", ".join(f"'{run_id}'" for run_id in ids)
    found = client.search_runs([experiment], f"attributes.run_id IN ({listed})")
    return {run.info.run_id for run in found}


def in_pages(client: Any, experiment: str, size: int) -> tuple[set[str], int]:
    """All runs of an experiment, and in how many pages they came."""
    ids, token, pages = set(), None, 0
    while pages == 0 or token:
        page = client.search_runs([experiment], max_results=size, page_token=token)
        ids |= {run.info.run_id for run in page}
        token, pages = page.token, pages + 1
    return ids, pages


def histories(tracking_uri: str, key: str, ids: list[str]) -> set[float]:
    """The metric of each run, asked for as MLflow's UI does: the same name once for each run, in
    a request line of over 4 KB (gunicorn would answer 414 by default)."""
    query = [("run_id", run_id) for run_id in ids]
    query += [("metric_key", METRIC), ("max_results", "25000")]
    answer = requests.get(
        f"{tracking_uri}/ajax-api/2.0/mlflow/metrics/get-history-bulk",
        params=query,
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    )
    assert len(f"GET {answer.request.path_url} HTTP/1.1") > 4094
    assert answer.status_code == 200, answer.text
    return {point["value"] for point in answer.json()["metrics"]}
