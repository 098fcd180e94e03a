"""What the rows of rows.py are made of, and what holds for many of them."""

from typing import Any

from tests.tenants.belongings import assessment, spans
from tests.tenants.tenant import Fields

#: What stands in a path, by the name of the parameter there.
PARAMETERS = {
    "alias": "best",
    "artifact_path": "$artifact",
    "assessment_id": "$assessment",
    "dataset_id": "$dataset",
    "endpoint_id": "$mcp_endpoint",
    "endpoint_name": "$gateway_endpoint",
    "filename": "index.js",
    "issue_id": "$issue",
    "job_id": "$job",
    "key": "k",
    "model_id": "$model",
    "name": "$mcp_server",
    "path": "favicon.ico",
    "provider": "openai",
    "request_id": "$trace",
    "rest": "rest",
    "session_id": "session",
    "tag_key": "k",
    "trace_id": "$trace",
    "version": "1.0.0",
    "webhook_id": "webhook",
    "workspace_name": "$workspace",
}

#: What MLflow here answers with an error to the owner, too, and why.
UNAVAILABLE = {
    "AbortMultipartUpload": "the store is a folder",
    "CompleteMultipartUpload": "the store is a folder",
    "CreateMultipartUpload": "the store is a folder",
    "CreatePresignedDownloadUrl": "the store is a folder",
    "CreatePresignedUploadUrl": "the store is a folder",
    "GatewayAnthropicMessages": "the provider speaks as OpenAI does",
    "GatewayGeminiGenerateContent": "the provider speaks as OpenAI does",
    "GatewayTypesafeSystemOne": "the provider speaks as OpenAI does",
    "GetOnlineTraceDetails": "MLflow declares it, and has it not",
    "GetPresignedDownloadUrl": "the store is a folder",
    "SearchDatasetsMisspelt": "MLflow declares it, and has it not",
    "SearchUnifiedTraces": "MLflow declares it, and has it not",
    "ServeBuildFile": "there is no such file",
}

#: The same with PostgreSQL.
UNAVAILABLE_ON_POSTGRESQL = {
    "AddDatasetToExperiments": "MLflow compares a number with a text, which psycopg 3 refuses",
}

#: What would take away what others need; the owner does it last, in this order.
LAST = (
    "RemoveItemsFromReviewQueue",
    "DeleteReviewQueue",
    "DeleteTraces",
    "DeleteTracesV3",
    "DeleteDataset",
    "DeleteMcpServerVersion",
    "DeleteMcpServer",
    "DeleteRegisteredModel",
    "DeleteExperiment",
)

#: What is sent beside the fields: as headers, or as a body that is no JSON.
HEADERS = {"ExportTraces": {"x-mlflow-experiment-id": "$experiment", "x-mlflow-run-id": "$run"}}
BODIES = {"UploadArtifact": b"overwritten", "UploadArtifactToRun": b"overwritten"}

TAG = {"key": "k", "value": "new"}
TAGS = [TAG]
METRIC = {"key": "m2", "value": 1.0, "timestamp": 1, "step": 0, "model_id": "$model"}
METRIC |= {"dataset_name": "d", "dataset_digest": "1"}
DATASET = {"name": "d", "digest": "2", "source_type": "local", "source": "s"}
LOCATION = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "$experiment"}}
LOCATIONS = [
    {"mlflow.artifactLocation": "$trace_location"},
    {"mlflow.artifactLocation": "$trace_folder"},
    {
        "mlflow.trace.spansLocation": "ARCHIVE_REPO",
        "mlflow.trace.archiveLocation": "$trace_location",
    },
    {"mlflow.trace.spansLocation": "ARCHIVE_REPO", "mlflow.trace.archiveLocation": "$trace_folder"},
]
ASSESSMENT = assessment("new") | {"trace_id": "$trace", "overrides": "$assessment"}
VERSION = {"name": "$registered_model", "version": "1"}
MODEL = '{"run_id": "$run", "artifact_path": "m", "flavors": {}, "utc_time_created": "now"}'
PROMPT = {"mlflow.prompt.is_prompt": "true", "mlflow.prompt.text": "t"}
CALL = {"model": "$gateway_endpoint", "messages": [{"role": "user", "content": "hello"}]}
GRAPHQL = [
    {
        "query": """{
            mlflowGetExperiment(input: {experimentId: "$experiment"}) {experiment {name}}
            mlflowGetRun(input: {runId: "$run"}) {run {info {runName} data {params {value}}}}
            mlflowSearchModelVersions(input: {}) {modelVersions {name tags {value}}}
            mlflowGetMetricHistoryBulkInterval(input: {runIds: ["$run"], metricKey: "m"})
                {metrics {key value}}}"""
    },
    {"query": '{mlflowListArtifacts(input: {runId: "$run"}) {files {path}}}'},
    {
        "query": """mutation {
            mlflowSearchRuns(input: {experimentIds: ["$experiment"]}) {runs {info {runName}}}
            mlflowSearchDatasets(input: {experimentIds: ["$experiment"]})
                {datasetSummaries {name}}}"""
    },
]


def trace_info(tags: Fields, **more: Any) -> Fields:
    """A trace, as StartTraceV3 takes it."""
    times = {"request_time": "2026-11-28T00:00:00Z", "execution_duration": "1s"}
    info = {"trace_id": "$trace", "trace_location": LOCATION, "state": "OK", "tags": tags}
    return {"trace": {"trace_info": info | times | more}}


def tag_list(tags: Fields) -> list[Fields]:
    """Tags as protobuf's lists have them."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def export_with(tags: Fields) -> Fields:
    """An export of a span under the trace's id that carries these tags of its trace."""
    export = spans("$otel_trace", "$span", "new")
    root = export["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    root["attributes"] = [
        {"key": f"mlflow.traceTag.{key}", "value": {"stringValue": value}}
        for key, value in tags.items()
    ]
    return export


def planted(kind: str) -> list[str]:
    """Statements of SQL after which objects have locations of another tenant's (`$their_…`), as if
    they were older than the rules. `kind` is "folder" or "location"."""
    return [
        f"UPDATE runs SET artifact_uri = '$their_run_{kind}' WHERE run_uuid = '$run'",
        f"UPDATE logged_models SET artifact_location = '$their_model_{kind}'"
        " WHERE model_id = '$model'",
        f"UPDATE model_versions SET source = '$their_model_{kind}',"
        f" storage_location = '$their_model_{kind}' WHERE name = '$registered_model'",
        f"UPDATE trace_tags SET value = '$their_trace_{kind}'"
        " WHERE request_id = '$trace' AND key = 'mlflow.artifactLocation'",
    ]


def archived(kind: str) -> list[str]:
    """The same of a trace whose spans are in an archive."""
    return [
        "UPDATE trace_tags SET value = 'ARCHIVE_REPO'"
        " WHERE request_id = '$trace' AND key = 'mlflow.trace.spansLocation'",
        "DELETE FROM trace_tags"
        " WHERE request_id = '$trace' AND key = 'mlflow.trace.archiveLocation'",
        "INSERT INTO trace_tags (key, value, request_id)"
        f" VALUES ('mlflow.trace.archiveLocation', '$their_trace_{kind}', '$trace')",
    ]
