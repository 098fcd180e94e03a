"""The route table, against the MLflow that is installed and by itself.

The comparison fails in both directions: a route of MLflow that no row classifies, and a row for a
route that MLflow no longer has. Its message lists them, and that list is where an upgrade begins.
"""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from app.request.route_table import METHODS, Access, Route, RouteTable
from tests.app.samples import route_of

WALK = Path(__file__).with_name("mlflow_surface.py")
TABLE = RouteTable.load()

Served = dict[str, str]


@pytest.fixture(scope="session")
def mlflow(mlflow_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the installed MLflow serves, and how it resolves `probing_requests`."""
    folder = tmp_path_factory.mktemp("surface")
    finished = subprocess.run(
        [mlflow_python, "-B", WALK, "--resolve"],
        input=json.dumps(list(probing_requests())),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert finished.returncode == 0, finished.stderr
    assert list(folder.iterdir()) == [], "the walk left something behind"
    answer: dict[str, Any] = json.loads(finished.stdout)
    return answer


@pytest.fixture(scope="session")
def surface(mlflow: dict[str, Any]) -> list[Served]:
    """Every route, those of the optional basic-auth application included."""
    served: list[Served] = mlflow["surface"]
    assert len(served) > 500
    return served


# --- against the installed MLflow ----------------------------------------------------------------


def test_every_route_of_mlflow_falls_under_its_own_row(surface: list[Served]) -> None:
    assert unclassified(surface) == []


@pytest.mark.parametrize(
    "path", ["/api/2.0/mlflow/brand-new", "/api/3.0/mlflow/issues/{issue_id:path}/secrets"]
)
def test_a_route_that_nobody_has_classified_is_reported(path: str) -> None:
    planted = {"method": "GET", "path": path, "origin": "proto:BrandNew"}
    assert unclassified([planted]) == [f"GET {path} (proto:BrandNew)"]


def test_a_new_route_that_another_row_happens_to_match_is_reported() -> None:
    planted = {"method": "GET", "path": "/api/3.0/mlflow/issues/open", "origin": "proto:New"}
    assert match(planted["method"], planted["path"]) == "GetIssue"
    assert len(unclassified([planted])) == 1


def test_no_row_is_left_of_a_route_that_mlflow_no_longer_has(surface: list[Served]) -> None:
    served = {(route["method"], route["path"]) for route in surface}
    rows = [
        (method, template)
        for route in TABLE.routes
        if not route.optional
        for method, template in product(route.methods, route.templates)
    ]
    assert sorted(set(rows) - served) == []


def test_users_and_roles_are_the_routes_of_the_basic_auth_application(
    surface: list[Served],
) -> None:
    of_application = {r["path"] for r in surface if r["origin"].startswith("basic-auth:")}
    rows = [route for route in TABLE.routes if route.kind == "users"]
    assert {template for route in rows for template in route.templates} == of_application
    assert all(route.optional and route.access is Access.ADMIN for route in rows)


def test_operations_have_the_names_of_mlflows_messages(surface: list[Served]) -> None:
    ours = {"ListArtifactsMlflowArtifacts": "ListArtifacts"}
    ours["SearchDatasetsMisspelt"] = "SearchDatasets"
    for served in surface:
        if served["origin"].startswith("proto:"):
            operation = match(served["method"], sample(served["path"]))
            message = served["origin"].removeprefix("proto:").removesuffix("Request")
            assert ours.get(str(operation), operation) == message


def test_mlflows_routers_choose_the_same_template(mlflow: dict[str, Any]) -> None:
    """Where MLflow serves a path at all, the table says under which template."""
    chosen = zip(probing_requests(), mlflow["resolved"], strict=True)
    served = [(*request, template) for request, template in chosen if template is not None]
    assert len(served) > 3000
    assert [s for s in served if s[2] not in templates_of(route_of(TABLE, s[0], s[1]))] == []


def test_no_graphql_mutation_writes(mlflow: dict[str, Any]) -> None:
    """A name that is new here was read in MLflow's source, or /graphql is no longer a read."""
    searches_and_an_echo = ["mlflowSearchDatasets", "mlflowSearchRuns", "testMutation"]
    assert mlflow["mutations"] == searches_and_an_echo


def test_the_walk_refuses_a_route_class_that_it_does_not_know(mlflow_python: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(WALK.parent)!r}); import mlflow_surface, types;"
        "print(*mlflow_surface.fastapi_routes(types.SimpleNamespace(routes=['a new one'])))"
    )
    finished = subprocess.run(
        [mlflow_python, "-B", "-c", program], capture_output=True, text=True, timeout=100
    )
    assert finished.returncode != 0
    assert "route class that this walk does not know: 'a new one'" in finished.stderr


# --- who may do what -----------------------------------------------------------------------------


def test_the_posts_that_only_read_are_these() -> None:
    reads = {r.operation for r in TABLE.routes if r.access is Access.READ and "POST" in r.methods}
    assert reads == {
        "BatchGetTraceInfos",
        "CalculateTraceFilterCorrelation",
        "CreatePresignedDownloadUrl",
        "GetLatestVersions",
        "GraphQL",
        "PostUiTelemetry",
        "QueryTraceMetrics",
        "SearchDatasets",
        "SearchDatasetsMisspelt",
        "SearchEvaluationDatasets",
        "SearchExperiments",
        "SearchIssues",
        "SearchJobs",
        "SearchLoggedModels",
        "SearchPromptOptimizationJobs",
        "SearchRuns",
        "SearchTracesV3",
    }


def test_no_put_patch_or_delete_is_a_read() -> None:
    changing = {"PUT", "PATCH", "DELETE"}
    assert [r for r in TABLE.routes if r.access is Access.READ and r.methods & changing] == []


def test_no_get_is_a_write() -> None:
    changing = (Access.WRITE, Access.DELETE)
    assert [r for r in TABLE.routes if r.access in changing and "GET" in r.methods] == []


def test_what_deletes_an_object_needs_the_right_to_delete() -> None:
    """A tag or an alias is part of an object, and to change it is a write."""
    rows = [r for r in TABLE.routes if r.access in (Access.WRITE, Access.DELETE)]
    deleting = {r for r in rows if r.operation.startswith("Delete")}
    parts = {r for r in deleting if r.operation.removesuffix("V3").endswith(("Tag", "Alias"))}
    assert {r for r in rows if r.access is Access.DELETE} == deleting - parts
    elsewhere = {r.operation for r in rows if "DELETE" in r.methods} - {
        r.operation for r in deleting
    }
    assert elsewhere == set()


def test_calls_of_the_gateway_have_a_right_of_their_own() -> None:
    calls = [r for r in TABLE.routes if r.template.startswith("/gateway/")]
    assert [r for r in TABLE.routes if r.access is Access.GATEWAY] == calls


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/ajax-api/2.0/mlflow/gateway-proxy"),
        ("GET", "/api/3.0/mlflow/gateway/secrets/list"),
        ("POST", "/api/2.0/mlflow/webhooks/w1/test"),
        ("GET", "/api/2.0/mlflow/webhooks"),
        ("POST", "/ajax-api/3.0/mlflow/scorer/invoke"),
        ("PUT", "/api/3.0/mlflow/scorers/online-config"),
        ("POST", "/ajax-api/3.0/mlflow/genai/evaluate/invoke"),
        ("POST", "/ajax-api/3.0/mlflow/issues/invoke"),
        ("POST", "/ajax-api/3.0/jobs/"),
        ("PATCH", "/ajax-api/3.0/jobs/cancel/j1"),
        ("PATCH", "/ajax-api/3.0/mlflow/jobs/cancel/j1"),
        ("POST", "/api/3.0/mlflow/prompt-optimization/jobs"),
        ("POST", "/api/3.0/mlflow/prompt-optimization/jobs/j1/cancel"),
        ("POST", "/ajax-api/3.0/mlflow/demo/generate"),
        ("POST", "/api/3.0/mlflow/workspaces"),
        ("POST", "/api/2.0/mlflow/users/create"),
    ],
)
def test_what_executes_reaches_out_or_administers_needs_admin(method: str, path: str) -> None:
    route = route_of(TABLE, method, path)
    assert route is not None
    assert route.access is Access.ADMIN


@pytest.mark.parametrize("method", [*sorted(METHODS), "HEAD"])
@pytest.mark.parametrize(
    "rest", ["message", "config", "sessions/s1/stream", "new", "a/new/one", ""]
)
@pytest.mark.parametrize("prefix", ["/api", "/ajax-api"])
def test_everything_of_the_assistant_is_refused(prefix: str, rest: str, method: str) -> None:
    route = route_of(TABLE, method, f"{prefix}/3.0/mlflow/assistant/{rest}")
    assert route is not None
    assert route.access is Access.REFUSED


def test_every_artifact_route_has_an_artifacts_time_limit() -> None:
    """MLflow asks its object store on each of them, and copies whole files on some."""
    artifacts = [r for r in TABLE.routes if r.kind == "artifacts"]
    copies = {r.operation for r in artifacts if r.copies}
    assert {r.operation for r in artifacts} - copies == {
        "AbortMultipartUpload",
        "CreateMultipartUpload",
        "CreatePresignedDownloadUrl",
        "CreatePresignedUploadUrl",
        "GetPresignedDownloadUrl",
        "ListArtifacts",
        "ListArtifactsMlflowArtifacts",
        "ListLoggedModelArtifacts",
    }
    assert [r.operation for r in artifacts if not r.copies and not r.is_slow] == []
    assert [r.operation for r in TABLE.routes if r.copies and r.kind != "artifacts"] == []


def test_whoever_waits_twice_for_a_database_connection_has_time_for_it(mlflow_python: Path) -> None:
    """Each wait may take 30 s, so MLFLOW_READ_TIMEOUT (40 s) is too short for two."""
    command: list[str | Path]
    command = [mlflow_python, "-B", Path(__file__).with_name("mlflow_connections.py")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert finished.returncode == 0, finished.stderr
    waits = {(method, path): waits for method, path, waits in json.loads(finished.stdout)}
    assert len(waits) > 70
    assert waits["POST", "/api/2.0/mlflow/runs/search"] == 1, "it counts"
    several = [match_route(*call) for call, number in waits.items() if number > 1]
    assert len(several) > 15
    assert [route.operation for route in several if not route.is_slow] == []


def test_nearly_every_search_has_the_time_limit_of_searches() -> None:
    """MLFLOW_ARTIFACT_READ_TIMEOUT, as docs/configuration.md promises."""
    searches = [r for r in TABLE.routes if r.operation.startswith("Search")]
    quick = [r.operation for r in searches if not r.is_slow]
    few_rows, answered_404 = "SearchExperiments", "SearchDatasetsMisspelt"
    assert quick == [few_rows, answered_404]


def test_a_run_that_mlflow_writes_files_for_has_an_artifacts_time_limit() -> None:
    """MLflow saves a model for it in the artifact store (mlflow/utils/promptlab_utils.py)."""
    route = route_of(TABLE, "POST", "/ajax-api/2.0/mlflow/runs/create-promptlab-run")
    assert route is not None
    assert route.is_slow


def test_reading_an_archived_trace_has_an_artifacts_time_limit() -> None:
    """MLflow may keep spans in the artifact store, and reads them for these
    (_get_spans_with_trace_info in its store)."""
    readers = [r for r in TABLE.routes if r.operation in ("GetTrace", "BatchGetTraces")]
    assert [r.is_slow for r in readers] == [True, True]


def test_what_calls_a_model_has_the_time_limit_of_models() -> None:
    """MLflow's gateway itself gives up after 300 s; the one of old deployments, never."""
    calls = [r for r in TABLE.routes if r.template.startswith("/gateway/") and "POST" in r.methods]
    old = [r for r in TABLE.routes if r.template.endswith("/gateway-proxy")]
    assert len(calls) > 10
    assert len(old) == 2
    assert {r.operation for r in TABLE.routes if r.asks_model} == {r.operation for r in calls + old}


def test_a_chunked_body_goes_on_to_native_routes_only() -> None:
    others = [r.operation for r in TABLE.routes if r.takes_chunked and r.kind != "gateway"]
    assert others == ["UploadArtifact"]


def test_creations_in_several_steps_are_marked() -> None:
    """Their handlers call MLflow's stores more than once, or start something."""
    assert {r.operation for r in TABLE.routes if r.partial} == {
        "CreateModelVersion",
        "CreatePromptOptimizationJob",
        "CreatePromptlabRun",
        "GenerateDemo",
        "InvokeGenaiEvaluate",
        "InvokeIssueDetection",
        "InvokeScorer",
        "SubmitJob",
    }


def test_posts_that_mlflows_client_repeats_on_429_only_are_known() -> None:
    """MLflow 3.18 has the others in _RETRY_SAFE_POST_RESPONSES. Exporters of traces repeat on 503
    only."""
    writes = [r for r in TABLE.routes if "POST" in r.methods and r.access is not Access.READ]
    assert {r.operation for r in writes if not r.wants_429 and r.kind != "gateway"} == {
        "DeleteRun",
        "ExportTraces",
        "LogBatch",
        "LogMetric",
        "LogParam",
        "RestoreRun",
        "SetExperimentTag",
        "SetModelVersionTag",
        "SetRegisteredModelAlias",
        "SetRegisteredModelTag",
        "SetTag",
        "UpdateRun",
    }
    assert all(r in writes for r in TABLE.routes if r.wants_429)
    assert match_route("POST", "/api/2.0/mlflow/runs/outputs").wants_429
    assert not match_route("POST", "/api/2.0/mlflow/runs/search").wants_429


# --- matching ------------------------------------------------------------------------------------

MCP = "/api/3.0/mlflow/mcp-servers"
FILES = "/api/2.0/mlflow-artifacts/artifacts"


@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [
        # a literal row before one with parameters, if it has the method
        ("GET", "/api/3.0/mlflow/traces/get", "GetTrace"),
        ("GET", "/api/3.0/mlflow/traces/other", "GetTraceInfoV3"),
        ("POST", "/api/3.0/mlflow/issues/search", "SearchIssues"),
        ("GET", "/api/3.0/mlflow/issues/search", "GetIssue"),
        # as it stands after decoding: x%2Fassessments, a%2Fb, versions%2F1%2Ftags
        ("POST", "/api/3.0/mlflow/traces/x/assessments", "CreateAssessment"),
        ("GET", "/api/3.0/mlflow/traces/a/b", None),
        ("POST", MCP + "/com.example/server/versions/1/tags", "SetMcpServerVersionTag"),
        ("GET", FILES + "/1/run/artifacts/a?b#c d", "DownloadArtifact"),
        # the first of several rows with parameters
        ("POST", "/gateway/proxy/mlflow/invocations", "GatewayInvocations"),
        ("POST", "/gateway/proxy/mlflow/other", "GatewayRawProxy"),
        ("GET", MCP + "/a/versions/b/endpoints/c", "GetMcpServerVersion"),
        ("GET", MCP + "/a/endpoints/b", "GetMcpAccessEndpoint"),
        ("GET", MCP + "/a/endpoints/b/c", "GetMcpServer"),
        ("GET", MCP + "/endpoints", "SearchAllAccessEndpoints"),
        # a {name:path} may be empty, a {name} may not, nor hold a slash
        ("GET", FILES, "ListArtifactsMlflowArtifacts"),
        ("GET", FILES + "/", "DownloadArtifact"),
        ("DELETE", MCP + "/a/tags/", "DeleteMcpServerTag"),
        ("GET", "/api/3.0/mlflow/traces/", None),
        # part of a segment
        ("POST", "/gateway/gemini/v1beta/models/m:generateContent", "GatewayGeminiGenerateContent"),
        ("POST", "/gateway/gemini/v1beta/models/m:generateText", None),
        # exact in case, slash and prefix
        ("GET", "/version", "Version"),
        ("GET", "/version/", None),
        ("GET", "/Version", None),
        ("POST", "/ajax-api/3.0/jobs/", "SubmitJob"),
        ("POST", "/ajax-api/3.0/jobs", None),
        ("POST", "/api/3.0/jobs/", None),
        ("POST", "/api/2.0mlflow/experiments/search-datasets", "SearchDatasetsMisspelt"),
        ("GET", "/mlflow/api/2.0/mlflow/experiments/get", None),
        ("GET", "", None),
        # the method counts
        ("DELETE", "/api/2.0/mlflow/runs/create", None),
        ("OPTIONS", "/api/2.0/mlflow/runs/create", None),
        ("get", "/version", None),
        # a final line feed hides nothing, as Starlette overlooks it
        ("POST", "/ajax-api/3.0/mlflow/assistant/message\n", "AssistantSendMessage"),
        ("GET", FILES + "/a\nb", None),
    ],
)
def test_a_request_matches_as_in_mlflow(method: str, path: str, operation: str | None) -> None:
    assert match(method, path) == operation


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("segment", ["versions/", "versions/tags/", "versions/a/tags/"])
def test_a_long_path_costs_little(method: str, segment: str) -> None:
    """Nobody has shown a key yet, and the worker's other callers wait meanwhile. It was 1.2 s of
    the processor's time, and more in MLflow's own routers: such a path is no known route."""
    long = segment * (60_000 // len(segment))
    routes, began = RouteTable.load(), time.process_time()
    assert routes.match(method, f"/api/3.0/mlflow/mcp-servers/a/{long}x") is None
    assert time.process_time() - began < 0.02


def test_the_longest_names_are_found() -> None:
    name, version, key = f"{'n' * 127}/{'n' * 128}", "v" * 128, "k" * 250
    found = RouteTable.load().match(
        "DELETE", f"/api/3.0/mlflow/mcp-servers/{name}/versions/{version}/tags/{key}"
    )
    assert found is not None
    assert found.parameters == {"name": name, "version": version, "key": key}


def test_head_is_get() -> None:
    assert match("HEAD", "/health") == match("GET", "/health") == "Health"
    assert match("HEAD", FILES + "/a/b") == "DownloadArtifact"
    assert match("HEAD", "/api/2.0/mlflow/runs/create") is None


def test_both_api_prefixes_are_one_row() -> None:
    client = match_route("POST", "/api/2.0/mlflow/runs/create")
    assert match_route("POST", "/ajax-api/2.0/mlflow/runs/create") is client
    assert client.templates == tuple(
        prefix + "/2.0/mlflow/runs/create" for prefix in ("/api", "/ajax-api")
    )


# --- the file ------------------------------------------------------------------------------------

GOOD = "GET\t/a/{x}\tread\truns\tGetA"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("GET /b read runs GetB", "5 or 6 columns separated by tabs are needed, not 1"),
        ("GET\t/b\tread\truns\tGetB\t\tx", "5 or 6 columns separated by tabs are needed, not 7"),
        ("HEAD\t/b\tread\truns\tGetB", "unknown method 'HEAD'"),
        ("GET,GET\t/b\tread\truns\tGetB", "the same method twice"),
        ("GET\tb\tread\truns\tGetB", "'b' is not a path"),
        ("GET\t/b/{x:int}\tread\truns\tGetB", "'/b/{x:int}' is not a path"),
        ("GET\t/b/<x>/{y\tread\truns\tGetB", "is not a path"),
        ("GET\t/b \tread\truns\tGetB", "'/b ' is not a path"),
        ("GET\t/b\tnobody\truns\tGetB", "unknown access 'nobody'"),
        ("GET\t/b\tread\trun\tGetB", "unknown kind 'run'"),
        ("GET\t/b\tread\truns\tget b", "'get b' is not a name in CamelCase"),
        ("GET\t/b\tread\truns\tGetA", "line 2 has the operation GetA already"),
        ("GET\t/a/{y}\tread\truns\tGetB", "line 2 has GET /a/{} already"),
        ("GET\t/b\tread\truns\tGetB\tcreate", "unknown trait 'create'"),
        ("GET\t/b\tread\truns\tGetB\t", "unknown trait ''"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused_with_its_number(
    tmp_path: Path, line: str, complaint: str
) -> None:
    file = tmp_path / "routes.tsv"
    file.write_text(f"# comment\n{GOOD}\n\n{line}\n")
    with pytest.raises(ValueError, match=rf"line 4: .*{re.escape(complaint)}"):
        RouteTable.load(file)


def test_comments_and_empty_lines_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "routes.tsv"
    file.write_text(f"# comment\n\n{GOOD}\tchunked,optional\n")
    (route,) = RouteTable.load(file).routes
    assert (route.takes_chunked, route.optional, route.repeatable) == (True, True, False)


# --- helpers -------------------------------------------------------------------------------------


def match(method: str, path: str) -> str | None:
    """The operation of the row that matches."""
    route = route_of(TABLE, method, path)
    return route.operation if route else None


def match_route(method: str, path: str) -> Route:
    route = route_of(TABLE, method, path)
    assert route is not None
    return route


def templates_of(route: Route | None) -> tuple[str, ...]:
    return route.templates if route else ()


def unclassified(surface: Iterable[Served]) -> list[str]:
    """What no row has as its own, for a person to read."""
    found = []
    for served in surface:
        route = route_of(TABLE, served["method"], sample(served["path"]))
        if served["path"] not in templates_of(route):
            found.append(f"{served['method']} {served['path']} ({served['origin']})")
    return found


def sample(template: str) -> str:
    """A path that the template matches."""
    return fill(template, segment="s1", path="some/where")


def fill(template: str, segment: str, path: str) -> str:
    return re.sub(r"{\w+}", lambda _: segment, re.sub(r"{\w+:path}", lambda _: path, template))


def probing_requests() -> Iterable[tuple[str, str]]:
    """Paths on which two rows, two methods or two spellings could be confused."""
    segments = ["x", "search", "get", "cancel", "endpoints", "mlflow", "a:generateContent", "é {x}"]
    rests = ["a", "a/b", "", "a/", "a/versions", "versions/a/tags/b", "a/tags/b/endpoints/c"]
    rests += ["endpoints", "versions/versions/versions/tags", "a/aliases/versions/b"]
    spellings: list[Callable[[str], str]] = [str, str.upper, "{}/".format]
    paths = {
        spell(fill(template, segment, rest))
        for route in TABLE.routes
        for template in route.templates
        for segment, rest, spell in product(segments, rests, spellings)
    }
    clean = sorted(path for path in paths if "//" not in path)  # the proxy refuses the others
    return product([*sorted(METHODS), "HEAD"], clean)
