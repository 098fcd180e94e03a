"""The model registry with MLflow's SDK: models, versions, aliases, tags."""

from collections.abc import Callable
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from tests.pipeline.conftest import unique


@pytest.fixture
def model(client: Any) -> str:
    """The name of a new registered model."""
    return str(client.create_registered_model(unique("naïve 模型 100% a+b")).name)


@pytest.fixture
def add_version(client: Any, model: str, run: str) -> Callable[[], str]:
    """Add a version to the model; returns its number."""

    def add() -> str:
        client.log_text(run, "x", "model/MLmodel")
        source = f"{client.get_run(run).info.artifact_uri}/model"
        return str(client.create_model_version(model, source, run).version)

    return add


def test_a_registered_model_is_made_changed_found_and_renamed(client: Any, model: str) -> None:
    client.update_registered_model(model, "first & best")
    client.set_registered_model_tag(model, "task", "a=b, 100%")
    client.set_registered_model_tag(model, "wrong", "x")
    client.delete_registered_model_tag(model, "wrong")

    (found,) = client.search_registered_models(f"name = '{model}'")
    assert (found.description, found.tags) == ("first & best", {"task": "a=b, 100%"})

    name = unique("renamed")
    client.rename_registered_model(model, name)
    assert client.get_registered_model(name).description == "first & best"
    with pytest.raises(MlflowException, match="not found") as missing:
        client.get_registered_model(model)
    assert missing.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_registered_models_come_in_pages(client: Any) -> None:
    family = unique("paged")
    made = {client.create_registered_model(f"{family}-{number}").name for number in range(5)}
    found, token, pages = set(), None, 0
    while pages == 0 or token:
        page = client.search_registered_models(
            f"name LIKE '{family}%'", max_results=2, page_token=token
        )
        found |= {model.name for model in page}
        token, pages = page.token, pages + 1
    assert (found, pages) == (made, 3)


def test_versions_are_made_changed_and_found(
    client: Any, model: str, run: str, add_version: Callable[[], str]
) -> None:
    assert [add_version(), add_version()] == ["1", "2"]
    client.update_model_version(model, "2", "better")
    client.set_model_version_tag(model, "2", "checked by", "ann & bob")
    client.set_model_version_tag(model, "2", "wrong", "x")
    client.delete_model_version_tag(model, "2", "wrong")

    version = client.get_model_version(model, "2")
    assert (version.description, version.tags) == ("better", {"checked by": "ann & bob"})
    found = client.search_model_versions(f"name = '{model}'", order_by=["version_number ASC"])
    assert [(version.version, version.run_id) for version in found] == [("1", run), ("2", run)]
    assert client.get_model_version_download_uri(model, "1").startswith("mlflow-artifacts:/")


def test_versions_are_found_by_the_ids_of_many_runs(client: Any) -> None:
    """A GET whose query is over 10 KB; the proxy took 8 KB, and there is no such POST."""
    names = ", ".join(f"'{number:032x}'" for number in range(250))
    assert client.search_model_versions(f"run_id IN ({names})") == []


def test_an_alias_is_set_moved_and_deleted(
    client: Any, model: str, add_version: Callable[[], str]
) -> None:
    add_version(), add_version()
    for version in ("1", "2"):
        client.set_registered_model_alias(model, "champion", version)
        assert client.get_model_version_by_alias(model, "champion").version == version
    assert client.get_registered_model(model).aliases == {"champion": "2"}
    client.delete_registered_model_alias(model, "champion")
    with pytest.raises(MlflowException, match="champion"):
        client.get_model_version_by_alias(model, "champion")


def test_version_and_model_are_deleted_one_after_the_other(
    client: Any, model: str, add_version: Callable[[], str]
) -> None:
    add_version(), add_version()
    client.set_registered_model_alias(model, "champion", "2")

    client.delete_model_version(model, "2")
    assert [v.version for v in client.search_model_versions(f"name = '{model}'")] == ["1"]
    assert client.get_registered_model(model).aliases == {}

    client.delete_registered_model(model)
    assert client.search_registered_models(f"name = '{model}'") == []
    assert client.search_model_versions(f"name = '{model}'") == []
