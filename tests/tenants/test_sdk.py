"""Two tenants with MLflow's own client, and with OpenTelemetry's exporter, which names no
workspace."""

from collections.abc import Callable, Iterator
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from requests import HTTPError

from devstack.proxy import Proxy
from tests.conftest import Key, KeyedAuthService
from tests.pipeline.conftest import connect as connect  # fixtures
from tests.pipeline.conftest import pyfunc as pyfunc
from tests.pipeline.conftest import unique

FOREIGN = "This API key has no access to the workspace 'alpha'; it has beta."

Connect = Callable[..., mlflow.MlflowClient]


@pytest.fixture
def owned(tenants_ids: dict[str, dict[str, str]]) -> dict[str, str]:
    """One of everything that is alpha's."""
    return tenants_ids["alpha"]


@pytest.fixture
def as_beta(
    connect: Connect, tenants_proxy: Proxy, tenants_keys: dict[str, Key]
) -> Iterator[Connect]:
    """The client with beta's key. Keywords are environment variables."""
    yield lambda **environment: connect(tenants_proxy.api, tenants_keys["beta"].key, **environment)
    mlflow.set_workspace(None)


@pytest.mark.parametrize("environment", [{}, {"MLFLOW_WORKSPACE": "beta"}], ids=["unset", "own"])
def test_a_client_works_in_the_workspace_of_its_key(
    as_beta: Connect, owned: dict[str, str], environment: dict[str, str]
) -> None:
    client = as_beta(**environment)
    experiment = client.create_experiment(unique("waves"))
    found = client.get_experiment(experiment)
    assert found.artifact_location == f"mlflow-artifacts:/workspaces/beta/{experiment}"
    names = {each.experiment_id for each in mlflow.search_experiments()}
    assert (experiment in names, owned["experiment"] in names) == (True, False)


def test_a_client_that_names_anothers_workspace_is_told_so(as_beta: Connect) -> None:
    client = as_beta(MLFLOW_WORKSPACE="alpha")
    with pytest.raises(MlflowException, match=FOREIGN):
        client.create_experiment(unique("waves"))
    mlflow.set_workspace("beta")
    assert client.create_experiment(unique("waves"))
    mlflow.set_workspace("alpha")
    with pytest.raises(MlflowException, match=FOREIGN):
        client.search_experiments()


def test_the_list_of_workspaces_is_the_keys_own(as_beta: Connect) -> None:
    as_beta()
    assert [each.name for each in mlflow.list_workspaces()] == ["beta"]
    assert mlflow.get_workspace("beta").name == "beta"
    with pytest.raises(MlflowException, match=FOREIGN):
        mlflow.get_workspace("alpha")
    with pytest.raises(MlflowException, match="admin"):
        mlflow.create_workspace("gamma")


def test_a_key_with_two_workspaces_goes_from_one_to_the_other(
    connect: Connect,
    as_beta: Connect,
    tenants_proxy: Proxy,
    auth_service: KeyedAuthService,
    owned: dict[str, str],
) -> None:
    both = auth_service.create_key(scopes=["read", "workspace:beta", "workspace:alpha"]).key
    client = as_beta(MLFLOW_TRACKING_TOKEN=both)
    with pytest.raises(MlflowException, match="not found"):  # the first one is its own
        client.get_run(owned["run"])
    mlflow.set_workspace("alpha")
    assert client.get_run(owned["run"]).info.run_id == owned["run"]
    assert {each.name for each in mlflow.list_workspaces()} == {"alpha", "beta"}


@pytest.mark.parametrize(
    "reach",
    [
        lambda client, its: client.get_experiment(its["experiment"]),
        lambda client, its: client.get_run(its["run"]),
        lambda client, its: client.set_tag(its["run"], "k", "new"),
        lambda client, its: client.log_metric(its["run"], "m", 1.0),
        lambda client, its: client.create_run(its["experiment"]),
        lambda client, its: client.delete_experiment(its["experiment"]),
        lambda client, its: client.list_artifacts(its["run"]),
        lambda client, its: client.log_text(its["run"], "new", "note"),
        lambda client, its: mlflow.artifacts.download_artifacts(
            run_id=its["run"], artifact_path="note"
        ),
        lambda client, its: mlflow.artifacts.download_artifacts(its["run_location"]),
        lambda client, its: client.get_logged_model(its["model"]),
        lambda client, its: client.get_registered_model(its["registered_model"]),
        lambda client, its: client.get_model_version_by_alias(its["registered_model"], "best"),
        lambda client, its: mlflow.genai.load_prompt(f"prompts:/{its['prompt']}/1"),
        lambda client, its: client.get_trace(its["trace"]),
        lambda client, its: client.set_trace_tag(its["trace"], "k", "new"),
        lambda client, its: mlflow.log_feedback(trace_id=its["trace"], name="quality", value=True),
    ],
)
def test_anothers_objects_are_not_there(
    as_beta: Connect, owned: dict[str, str], reach: Any
) -> None:
    with pytest.raises((MlflowException, HTTPError)) as refused:
        reach(as_beta(), owned)
    assert "private-alpha" not in str(refused.value)


def test_searches_find_nothing_of_anothers(as_beta: Connect, owned: dict[str, str]) -> None:
    client, experiments = as_beta(), [owned["experiment"]]
    assert list(client.search_runs(experiments)) == []
    assert list(client.search_logged_models(experiments)) == []
    assert list(client.search_traces(locations=experiments)) == []
    assert "private-alpha" not in str([*client.search_registered_models()])
    assert "private-alpha" not in str([*client.search_model_versions()])
    assert "private-alpha" not in str([*mlflow.genai.search_prompts()])


def test_an_exporter_lands_in_the_workspace_of_its_key(
    as_beta: Connect, owned: dict[str, str], tenants_proxy: Proxy, tenants_keys: dict[str, Key]
) -> None:
    client = as_beta()
    own = client.create_experiment(unique("waves"))
    ended = [
        export(tenants_proxy, tenants_keys["beta"].key, experiment)
        for experiment in (own, owned["experiment"])
    ]
    assert ended == [SpanExportResult.SUCCESS, SpanExportResult.FAILURE]
    (trace,) = client.search_traces(locations=[own])
    assert [span.name for span in trace.data.spans] == ["carve"]


class Told(OTLPSpanExporter):
    """An exporter that remembers how its export ended."""

    ended = None

    def export(self, spans: Any) -> SpanExportResult:
        self.ended = super().export(spans)
        return self.ended


def export(proxy: Proxy, key: str, experiment: str) -> SpanExportResult | None:
    """One span, with nothing but the key and the experiment; whether it was taken."""
    headers = {"Authorization": f"Bearer {key}", "x-mlflow-experiment-id": experiment}
    exporter = Told(f"{proxy.api}/v1/traces", headers=headers)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.get_tracer("test").start_span("carve").end()
    provider.shutdown()
    return exporter.ended
