"""The forms in which a key comes: over plain HTTP, and as MLflow's SDK sends it."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
import requests


def basic(user: str, key: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()


FORMS: dict[str, Callable[[str], dict[str, str]]] = {
    "Bearer": lambda key: {"Authorization": f"Bearer {key}"},
    "bearer, in small letters": lambda key: {"authorization": f"bearer {key}"},
    "ApiKey": lambda key: {"Authorization": f"ApiKey {key}"},
    "Basic": lambda key: {"Authorization": basic("ann", key)},
    "Basic without a user": lambda key: {"Authorization": basic("", key)},
    "X-API-Key": lambda key: {"X-API-Key": key},
    "the same key twice": lambda key: {"Authorization": f"Bearer {key}", "X-API-Key": key},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_key_is_taken_in_each_form(tracking_uri: str, writer: str, form: str) -> None:
    assert version(tracking_uri, FORMS[form](writer)).status_code == 200
    unknown = version(tracking_uri, FORMS[form]("hk_test_thisKeyWasNeverMadeByAnybody"))
    assert (unknown.status_code, unknown.json()["error_code"]) == (401, "UNAUTHENTICATED")


def test_two_different_keys_are_one_too_many(tracking_uri: str, writer: str, key: str) -> None:
    answer = version(tracking_uri, {"Authorization": f"Bearer {writer}", "X-API-Key": key})
    assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")


def version(tracking_uri: str, headers: dict[str, str]) -> requests.Response:
    """A small request, without what .netrc or the environment might add."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"{tracking_uri}/version", headers=headers, timeout=60)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"MLFLOW_TRACKING_TOKEN": "{}"}, id="token"),
        pytest.param(
            {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "{}"}, id="password"
        ),
        pytest.param(
            {
                "MLFLOW_TRACKING_USERNAME": "ann",
                "MLFLOW_TRACKING_PASSWORD": "{}",
                "MLFLOW_TRACKING_TOKEN": "hk_test_thisKeyWasNeverMadeByAnybody",
            },
            id="password, which the SDK prefers to a token",
        ),
    ],
)
def test_the_sdk_shows_the_key(
    connect: Callable[..., Any], tracking_uri: str, writer: str, given: dict[str, str]
) -> None:
    client = connect(tracking_uri, **{name: value.format(writer) for name, value in given.items()})
    run = client.create_run("0").info.run_id
    client.log_text(run, "x", "a.txt")
    assert [item.path for item in client.list_artifacts(run)] == ["a.txt"]
