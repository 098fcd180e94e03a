"""What a user of MLflow's SDK reads when the proxy refuses a call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException, RestException
from requests import HTTPError

from devstack.proxy import Proxy
from tests.pipeline.conftest import eventually, unique

Connect = Callable[..., Any]
UNKNOWN_KEY = "hk_test_thisKeyWasNeverMadeByAnybody0123456789"


def test_a_bad_key_is_named_as_such_and_found_in_the_log_by_its_request_id(
    connect: Connect, tracking_uri: str, proxy: Proxy
) -> None:
    with pytest.raises(RestException, match=r"^UNAUTHENTICATED: This API key is not valid") as bad:
        connect(tracking_uri, UNKNOWN_KEY).search_experiments()
    assert bad.value.get_http_status_code() == 401  # type: ignore[no-untyped-call]
    assert UNKNOWN_KEY not in str(bad.value.json)
    logged = line_of(bad.value, proxy)
    assert (logged["status"], logged["outcome"]) == (401, "unauthenticated")
    assert UNKNOWN_KEY not in proxy.log.read_text()


def line_of(error: RestException, proxy: Proxy) -> dict[str, Any]:
    """The log's line about the request that an error tells of. It is written after the answer."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        lines = [line for line in proxy.log_lines() if line["logger"] == "hokusai.access"]
        found[:] = [line for line in lines if line.get("request_id") == error.json["request_id"]]
        return bool(found)

    assert eventually(is_there)
    (line,) = found
    return line


def test_without_a_key_the_user_is_told_how_to_give_one(
    connect: Connect, tracking_uri: str
) -> None:
    with pytest.raises(RestException, match=r"^UNAUTHENTICATED: .*MLFLOW_TRACKING_TOKEN"):
        connect(tracking_uri).search_experiments()


@pytest.fixture
def reader(connect: Connect, tracking_uri: str, auth_service: Any) -> Any:
    """The SDK's client with a key that may only read."""
    return connect(tracking_uri, auth_service.create_key(scopes=["read"]).key)


@pytest.fixture
def model(client: Any) -> str:
    """The name of a registered model; the SDK looks whether it is there before it changes it."""
    return str(client.create_registered_model(unique("model")).name)


WRITES = {
    "POST, a model": lambda client, model: client.create_registered_model(unique("no")),
    "POST, an alias": lambda client, model: client.set_registered_model_alias(model, "a", "1"),
    "POST, a metric": lambda client, model: client.log_metric("0" * 32, "a", 1),
    "PATCH": lambda client, model: client.update_registered_model(model, "no"),
    "PATCH, version 3": lambda client, model: client.set_trace_tag("tr-1", "a", "b"),
    "DELETE": lambda client, model: client.delete_registered_model(model),
    "DELETE, version 3": lambda client, model: client.delete_trace_tag("tr-1", "a"),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_key_that_may_only_read_is_told_which_scope_writing_needs(
    model: str, reader: Any, proxy: Proxy, write: str
) -> None:
    scope = "delete" if write == "DELETE" else "write"
    with pytest.raises(RestException, match=rf"^PERMISSION_DENIED: .* scope '{scope}'") as refused:
        WRITES[write](reader, model)
    assert refused.value.get_http_status_code() == 403  # type: ignore[no-untyped-call]
    assert line_of(refused.value, proxy)["outcome"] == "forbidden"
    assert not reader.get_registered_model(model).description


def test_a_key_that_may_only_read_reads_also_what_is_asked_by_post(reader: Any) -> None:
    (default,) = reader.search_experiments(max_results=1, filter_string="name = 'Default'")
    reader.search_runs([default.experiment_id])
    reader.search_traces(locations=[default.experiment_id])
    reader.search_logged_models([default.experiment_id])


@pytest.mark.parametrize("size", [0, 1, 20_000_000])
def test_the_refusal_of_an_upload_says_which_scope_it_needs(
    client: Any, run: str, reader: Any, tmp_path: Path, size: int
) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(size))
    with pytest.raises(HTTPError, match=r"(?s)403.*PERMISSION_DENIED.*'write'.*request_id"):
        reader.log_artifact(run, str(tmp_path / "a.bin"))
    assert reader.list_artifacts(run) == []


def test_webhooks_need_an_administrators_key(
    connect: Connect, tracking_uri: str, writer: str, key: str
) -> None:
    with pytest.raises(RestException, match=r"^PERMISSION_DENIED: .* needs the scope 'admin'"):
        connect(tracking_uri, writer).list_webhooks()
    assert list(connect(tracking_uri, key).list_webhooks()) == []


def test_what_mlflow_itself_refuses_is_told_in_its_own_words(client: Any) -> None:
    with pytest.raises(RestException, match=r"^RESOURCE_DOES_NOT_EXIST: ") as missing:
        client.get_run("0" * 32)
    assert "request_id" not in missing.value.json


def test_an_error_that_the_sdk_repeats_keeps_no_words(
    connect: Connect, tracking_uri: str, auth_service: Any
) -> None:
    """It says how often it tried, and which status it met; the proxy's words are lost in it."""
    limited = auth_service.create_key(limit=1).key
    client = connect(tracking_uri, limited)
    client.search_experiments(max_results=1)
    with pytest.raises(MlflowException, match="too many 429 error responses"):
        client.search_experiments(max_results=1)
