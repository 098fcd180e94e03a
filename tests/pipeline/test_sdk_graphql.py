"""GraphQL, which MLflow's web interface asks with: a POST that reads, for a key that may read."""

from typing import Any

import requests

QUERY = """
query GetRun($data: MlflowGetRunInput!) {
  mlflowGetRun(input: $data) { run { info { runUuid status } data { params { key value } } } }
}
"""


def ask(tracking_uri: str, key: str, variables: dict[str, Any]) -> requests.Response:
    """One question, as the web interface asks it."""
    return requests.post(
        f"{tracking_uri}/graphql",
        json={"operationName": "GetRun", "query": QUERY, "variables": variables},
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    )


def test_a_run_is_read(client: Any, run: str, tracking_uri: str, auth_service: Any) -> None:
    client.log_param(run, "note", "naïve 模型")
    reader = auth_service.create_key(scopes=["mlflow:read"]).key
    answer = ask(tracking_uri, reader, {"data": {"runId": run}})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"]["mlflowGetRun"]["run"] == {
        "info": {"runUuid": run, "status": "RUNNING"},
        "data": {"params": [{"key": "note", "value": "naïve 模型"}]},
    }


def test_a_wrong_question_gets_mlflows_own_answer(tracking_uri: str, writer: str) -> None:
    answer = ask(tracking_uri, writer, {"data": {"nonsense": 1}})
    assert answer.status_code == 200
    assert answer.json()["data"] is None
    assert "'nonsense' is not defined" in answer.json()["errors"][0]
