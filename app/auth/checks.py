"""What the fence judges, by MLflow's operation: CHECKS. Each was run against MLflow 3.17.2.

A check raises Forbidden, or BadRequest for more than it can look at.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice, product
from typing import Any, TypeVar

from app.auth.inquiry import (
    ARCHIVE,
    ARTIFACTS,
    EXPERIMENT,
    MODEL,
    RUN,
    TAGS,
    VERSION,
    Inquiry,
    is_reference,
    tags_of,
)
from app.auth.locations import folded
from app.request.errors import BadRequest, Forbidden
from app.request.json_body import at

#: The tag that says where a trace's spans are, and two of its values.
SPANS, IN_DATABASE, ARCHIVED = "mlflow.trace.spansLocation", "TRACKING_STORE", "ARCHIVE_REPO"

#: What MLflow's client writes as the source of a prompt; nothing is stored there.
PLACEHOLDERS = ("dummy-source", "prompt-template")

#: The most objects that one request may name, also in lists where MLflow takes none: each may cost
#: a question; and the most metrics that MLflow takes. Traces: see Inquiry.
MOST, METRICS = 64, 1000

#: What a trace's id must not have.
_IN_PATHS = re.compile(r"[\x00-\x1f\x7f/\\%?#]")

Check = Callable[[Inquiry], None]
T = TypeVar("T")


def _few(names: Iterable[T], most: int = MOST) -> list[T]:
    found = [*islice(names, most + 1)]
    if len(found) > most:
        raise BadRequest(f"The request names more than {most} objects; name fewer at once.")
    return found


# --- what is written -----------------------------------------------------------------------------


def _create_experiment(inquiry: Inquiry) -> None:
    for location in _few(filter(None, at(inquiry.body, "artifact_location"))):
        inquiry.judge("The field artifact_location", location)


def _create_model_version(inquiry: Inquiry) -> None:
    """A reference is judged when it is followed."""
    for source in _few(at(inquiry.body, "source")):
        if source not in PLACEHOLDERS and not is_reference(str(source)):
            inquiry.judge("The field source", source)


def _rename_model(inquiry: Inquiry) -> None:
    """The new name may be that of an allowed version, whose place this one would take."""
    for name in inquiry.named("name"):
        for version in range(1, inquiry.newest(name) + 1):
            inquiry.judge_root(VERSION, name, str(version), unless=PLACEHOLDERS)


def _set_tag(inquiry: Inquiry) -> None:
    _judge_written(inquiry, _pairs([inquiry.body]))


def _write_trace(inquiry: Inquiry) -> None:
    _judge_written(inquiry, _pairs(at(inquiry.body, "tags")))


def _write_trace_v3(inquiry: Inquiry) -> None:
    """MLflow makes a trace's locations from its id, and moves an assessment that another trace has,
    whoever's it is. Its client leaves the assessment's id to MLflow."""
    for info in _few(at(inquiry.body, "trace", "trace_info")):
        ids = _few(id for id in at(info, "trace_id") if isinstance(id, str))
        if any(map(_IN_PATHS.search, ids)):
            raise Forbidden(
                "The trace_id has a character with a meaning in paths, so it could name a location "
                "elsewhere; nothing was stored. MLflow's own ids are tr- and 32 hexadecimal digits."
            )
        tags = (each.items() for each in at(info, "tags") if isinstance(each, dict))
        _judge_written(inquiry, chain.from_iterable(tags))
        named = [*filter(None, at(info, "assessments", "assessment_id"))]
        if not (named and inquiry.workspace):
            continue
        traces = [*inquiry.traces(ids)]
        if {*map(str, named)} - {*at(traces, "assessments", "assessment_id")}:
            raise Forbidden(
                "This trace has no assessment with the assessment_id that the request names; "
                "nothing was stored. Leave assessment_id out: MLflow makes one."
            )


def _judge_written(inquiry: Inquiry, tags: Iterable[tuple[object, object]]) -> None:
    """Where the spans are decides which location MLflow follows. Only MLflow moves them."""
    tags = [*tags]
    inquiry.judge_tags(tags, *TAGS)
    if any(folded(str(key)) == folded(SPANS) and value != IN_DATABASE for key, value in tags):
        raise Forbidden(
            f"The trace's tag {SPANS} is MLflow's own; nothing was stored. Leave it out."
        )


def _pairs(tags: Iterable[Any]) -> Iterator[tuple[object, object]]:
    """The tags of MLflow's lists of key and value. No value is an empty one."""
    return ((tag.get("key"), tag.get("value", "")) for tag in tags if isinstance(tag, dict))


def _log_metrics(inquiry: Inquiry) -> None:
    named = [*at(inquiry.body, "model_id"), *at(inquiry.body, "metrics", "model_id")]
    for name in _few({name for name in named if name and isinstance(name, str)}, METRICS):
        inquiry.judge_model(name)


# --- what is followed ----------------------------------------------------------------------------


def _root(kind: str, *parameters: str) -> Check:
    """A check of the root of an object that one of these parameters names."""

    def check(inquiry: Inquiry) -> None:
        for name in _few(inquiry.named(*parameters)):
            inquiry.judge_root(kind, name)

    return check


def _presigned(inquiry: Inquiry) -> None:
    for kind, parameter in ((RUN, "run_id"), (MODEL, "model_id")):
        _root(kind, parameter)(inquiry)


def _model_version(inquiry: Inquiry) -> None:
    for name, version in _few(product(inquiry.named("name"), inquiry.named("version"))):
        inquiry.judge_root(VERSION, name, version)


def _trace_artifact(inquiry: Inquiry) -> None:
    """With a path MLflow reads an attachment, without one the spans."""
    paths = [value for name, value in inquiry.query if name == "path"] or [""]
    for trace in inquiry.traces(inquiry.named("request_id")):
        tags = tags_of(trace)
        if any(paths):
            inquiry.judge_tags(tags, ARTIFACTS)
        if not all(paths) and (SPANS, IN_DATABASE) not in tags:
            inquiry.judge_tags(tags, *TAGS)


def _get_traces(inquiry: Inquiry) -> None:
    _archived(inquiry, inquiry.traces(inquiry.named("trace_id", "trace_ids")))


def _delete_traces(inquiry: Inquiry) -> None:
    """MLflow deletes archived spans, too."""
    if ids := inquiry.named("request_ids"):
        _archived(inquiry, inquiry.traces(ids))
    else:
        for experiment in _few(inquiry.named("experiment_id")):
            _archived(inquiry, inquiry.archived(experiment))


def _archived(inquiry: Inquiry, traces: Iterable[Mapping[str, Any]]) -> None:
    for trace in traces:
        tags = tags_of(trace)
        if any(folded(key + value) == folded(SPANS + ARCHIVED) for key, value in tags):
            inquiry.judge_tags(tags, ARCHIVE)


def _graphql(inquiry: Inquiry) -> None:
    if any("mlflowListArtifacts" in str(query) for query in at(inquiry.body, "query")):
        raise Forbidden("List artifacts by GET …/api/2.0/mlflow/artifacts/list, not by GraphQL.")


CHECKS: Mapping[str, Check] = {
    "CreateExperiment": _create_experiment,
    "CreateModelVersion": _create_model_version,
    "RenameRegisteredModel": _rename_model,
    "SetTraceTag": _set_tag,
    "SetTraceTagV3": _set_tag,
    "StartTrace": _write_trace,
    "EndTrace": _write_trace,
    "StartTraceV3": _write_trace_v3,
    "LogMetric": _log_metrics,
    "LogBatch": _log_metrics,
    "GetArtifact": _root(RUN, "run_id", "run_uuid"),
    "ListArtifacts": _root(RUN, "run_id", "run_uuid"),
    "UploadArtifactToRun": _root(RUN, "run_uuid"),
    "CreatePresignedDownloadUrl": _presigned,
    "CreatePresignedUploadUrl": _presigned,
    "GetLoggedModelArtifact": _root(MODEL, "model_id"),
    "ListLoggedModelArtifacts": _root(MODEL, "model_id"),
    "CreatePromptlabRun": _root(EXPERIMENT, "experiment_id"),
    "GetModelVersionArtifact": _model_version,
    "GetTraceArtifact": _trace_artifact,
    "GetTraceArtifactV3": _trace_artifact,
    "GetTrace": _get_traces,
    "BatchGetTraces": _get_traces,
    "DeleteTraces": _delete_traces,
    "DeleteTracesV3": _delete_traces,
    "GraphQL": _graphql,
}
