"""Prompts with MLflow's SDK: registered, loaded by version and alias, found and deleted."""

from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from tests.pipeline.conftest import unique

TEMPLATE = "Sum {{text}} up, in 100% naïve 模型 & plain words."


@pytest.fixture
def prompt(client: Any) -> str:
    """The name of a new prompt."""
    name = unique("prompt")
    mlflow.genai.register_prompt(name, TEMPLATE, commit_message="first & best", tags={"a": "b c"})
    return name


def test_a_prompt_is_loaded_by_its_version(prompt: str) -> None:
    loaded = mlflow.genai.load_prompt(f"prompts:/{prompt}/1")
    assert loaded.format(text="it") == "Sum it up, in 100% naïve 模型 & plain words."
    assert (loaded.version, loaded.commit_message) == (1, "first & best")
    assert loaded.tags["a"] == "b c"


def test_a_prompt_is_loaded_by_an_alias_that_moves(prompt: str) -> None:
    assert mlflow.genai.register_prompt(prompt, "Shorter: {{text}}").version == 2
    for version in (1, 2):
        mlflow.genai.set_prompt_alias(prompt, "production", version)
        # Without the SDK's cache, which remembers for a minute where an alias points.
        found = mlflow.genai.load_prompt(f"prompts:/{prompt}@production", cache_ttl_seconds=0)
        assert found.version == version
    mlflow.genai.delete_prompt_alias(prompt, "production")
    with pytest.raises(MlflowException, match="production"):
        mlflow.genai.load_prompt(f"prompts:/{prompt}@production", cache_ttl_seconds=0)


def test_a_chat_prompt_comes_back_as_messages(client: Any) -> None:
    name = unique("chat")
    messages = [{"role": "system", "content": "Be {{mood}}."}, {"role": "user", "content": "Hi"}]
    mlflow.genai.register_prompt(name, messages)
    assert mlflow.genai.load_prompt(f"prompts:/{name}/1").template == messages


def test_prompts_are_found_apart_from_models(client: Any, prompt: str) -> None:
    found = mlflow.genai.search_prompts(f"name = '{prompt}'")
    assert [entry.name for entry in found] == [prompt]
    assert client.search_registered_models(f"name = '{prompt}'") == []


def test_a_prompt_is_deleted_after_its_versions(client: Any, prompt: str) -> None:
    client.delete_prompt_version(prompt, "1")
    client.delete_prompt(prompt)
    assert list(mlflow.genai.search_prompts(f"name = '{prompt}'")) == []
