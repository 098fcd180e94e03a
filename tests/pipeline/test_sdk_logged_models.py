"""Logged models with MLflow's SDK."""

from typing import Any

import pytest
from mlflow.exceptions import MlflowException


def test_a_logged_model_is_made_found_changed_and_deleted(
    client: Any, experiment: str, run: str
) -> None:
    made = client.create_logged_model(
        experiment, name="naïve-模型", source_run_id=run, params={"depth": "3"}, model_type="tree"
    )
    client.log_model_params(made.model_id, {"note": "a=b & c"})
    client.set_logged_model_tags(made.model_id, {"stage": "trial", "a b/100%": "x"})
    client.delete_logged_model_tag(made.model_id, "stage")
    client.finalize_logged_model(made.model_id, "READY")

    (found,) = client.search_logged_models([experiment], filter_string="params.depth = '3'")
    assert (found.name, found.source_run_id, found.status) == ("naïve-模型", run, "READY")
    assert found.params == {"depth": "3", "note": "a=b & c"}
    assert found.tags["a b/100%"] == "x"
    assert "stage" not in found.tags

    client.delete_logged_model(made.model_id)
    assert client.search_logged_models([experiment]) == []
    with pytest.raises(MlflowException, match="not found"):
        client.get_logged_model(made.model_id)


def test_a_tag_of_a_logged_model_is_deleted_whatever_its_name(client: Any, experiment: str) -> None:
    made = client.create_logged_model(experiment, name="m", tags={"100% a+b": "x", "kept": "y"})
    client.delete_logged_model_tag(made.model_id, "100% a+b")
    assert client.get_logged_model(made.model_id).tags.keys() & {"100% a+b", "kept"} == {"kept"}


def test_logged_models_come_in_pages(client: Any, experiment: str) -> None:
    made = {client.create_logged_model(experiment, name=f"m{n}").model_id for n in range(5)}
    found, token, pages = set(), None, 0
    while pages == 0 or token:
        page = client.search_logged_models([experiment], max_results=2, page_token=token)
        found |= {model.model_id for model in page}
        token, pages = page.token, pages + 1
    assert (found, pages) == (made, 3)


def test_metrics_of_a_run_are_found_at_its_model(client: Any, experiment: str, run: str) -> None:
    model = client.create_logged_model(experiment, name="m", source_run_id=run)
    client.log_metric(run, "accuracy", 0.75, model_id=model.model_id)
    client.finalize_logged_model(model.model_id, "READY")
    (metric,) = client.get_logged_model(model.model_id).metrics
    assert (metric.key, metric.value, metric.run_id) == ("accuracy", 0.75, run)
