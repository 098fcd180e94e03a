"""The fence: what a key without the admin scope may neither name nor make MLflow follow.

MLflow keeps the rows of its workspaces apart, but not what a request names beside them: storage
locations, and the ids of another's logged models and assessments. What would be written is judged
by the body, what MLflow would follow by asking it first: an object may be older than this rule. All
that can change the location of a trace, or of a version of a name, is judged, so it cannot change
between question and request.

Locations are judged without workspaces, too. CHECKS has the routes; each was run against 3.17.2.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from app.auth.authorization import is_admin
from app.auth.inquiry import (
    ARCHIVE,
    ARTIFACTS,
    EXPERIMENT,
    MODEL,
    RUN,
    TAGS,
    VERSION,
    Inquiry,
    Known,
    is_reference,
    tags_of,
)
from app.auth.locations import Locations, folded
from app.auth.otlp_tags import watched
from app.request.errors import BadRequest, Forbidden
from app.request.json_body import at, parse
from app.request.permit import Permit
from app.upstream.streaming import Body

#: The tag that says where a trace's spans are, and two of its values.
SPANS, IN_DATABASE, ARCHIVED = "mlflow.trace.spansLocation", "TRACKING_STORE", "ARCHIVE_REPO"

#: What MLflow's client writes as the source of a prompt; nothing is stored there.
PLACEHOLDERS = ("dummy-source", "prompt-template")

#: The most objects that one request may name, and the most metrics that MLflow takes; traces: see
#: Inquiry.
MOST, METRICS = 64, 1000

#: The operation whose body is OTLP, and those whose body is no JSON.
EXPORT, NOT_JSON = "ExportTraces", ("UploadArtifactToRun",)

#: Operations that are judged with workspaces only, and only where their body has this field.
ACROSS, FIELD = ("LogMetric", "LogBatch"), (b"model_id", b"modelId")

AskFor = Callable[[str, Permit, dict[str, Any] | None], dict[str, Any] | None]
Check = Callable[[Inquiry], None]
T = TypeVar("T")


class Fence:
    """Judges requests before they are forwarded. Shared by all threads."""

    def __init__(self, ask: AskFor, allowed: str) -> None:
        """`ask` is Questions.ask; `allowed` is ALLOWED_LOCATIONS."""
        self._ask = ask
        self._locations = Locations(allowed)
        self._known = Known()

    def reads(self, permit: Permit) -> bool:
        """Whether the request's body is judged, so it must be read whole."""
        return _check(permit) is not None and _operation(permit) not in NOT_JSON

    def checked(self, permit: Permit, body: Body, parameters: Mapping[str, str]) -> Body:
        """The body to forward. `parameters` are those of the route's template.

        Raises Forbidden or BadRequest, and what keeps MLflow from answering a question.
        """
        if _operation(permit) == EXPORT and not is_admin(permit.principal):
            return _watched(permit, body)
        check, operation = _check(permit), _operation(permit)
        content = body.content if isinstance(body.content, bytes) else b""
        if check is None or (operation in ACROSS and _is_clean(content)):
            return body
        inquiry = Inquiry(
            ask=lambda path, document=None: self._ask(path, permit, document),
            locations=self._locations,
            known=self._known,
            workspace=permit.workspace,
            parameters=parameters,
            query=parse_qsl(permit.inbound.query, keep_blank_values=True),
            body=_document(b"" if operation in NOT_JSON else content),
        )
        check(inquiry)
        return body


def _operation(permit: Permit) -> str:
    return permit.route.operation if permit.route else ""


def _check(permit: Permit) -> Check | None:
    """The check of the route; None if it, or this key, has none."""
    operation = _operation(permit)
    if operation not in CHECKS or is_admin(permit.principal):
        return None
    return CHECKS[operation] if permit.workspace or operation not in ACROSS else None


def _is_clean(body: bytes) -> bool:
    """Whether the body cannot have the field, in any encoding of JSON. One byte is found fast."""
    is_plain = b"\0" not in body and (b"\\" not in body or b"\\u" not in body)
    return is_plain and not any(field in body for field in FIELD)


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = parse(body) if body else {}
    except ValueError:
        found = ""
    if found is not None and not isinstance(found, dict):
        raise BadRequest("The request's body must be a JSON object. Nothing was forwarded.")
    return found or {}


def _watched(permit: Permit, body: Body) -> Body:
    """The same spans, looked at for tags of MLflow's own."""
    environ, content = permit.inbound.environ, body.content
    if content is None:
        return body
    pieces = watched(
        [content] if isinstance(content, bytes) else content,
        environ.get("CONTENT_TYPE", ""),
        environ.get("HTTP_CONTENT_ENCODING", ""),
    )
    return Body(b"".join(pieces) if isinstance(content, bytes) else pieces, body.length)


def _few(names: Iterable[T], most: int = MOST) -> list[T]:
    found = [*names]
    if len(found) > most:
        raise BadRequest(f"The request names more than {most} objects; name fewer at once.")
    return found


# --- what is written -----------------------------------------------------------------------------


def _create_experiment(inquiry: Inquiry) -> None:
    for location in filter(None, at(inquiry.body, "artifact_location")):
        inquiry.judge("The field artifact_location", location)


def _create_model_version(inquiry: Inquiry) -> None:
    """A reference is judged when it is followed."""
    for source in at(inquiry.body, "source"):
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
    """MLflow moves an assessment that another trace has, whoever's it is. Its client leaves the id
    to MLflow."""
    for info in at(inquiry.body, "trace", "trace_info"):
        for tags in at(info, "tags"):
            _judge_written(inquiry, tags.items() if isinstance(tags, dict) else ())
        named = [*filter(None, at(info, "assessments", "assessment_id"))]
        if not (named and inquiry.workspace):
            continue
        traces = [*inquiry.traces([id for id in at(info, "trace_id") if isinstance(id, str)])]
        has = [*at(traces, "assessments", "assessment_id")]
        if any(id not in has for id in named):
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
        for experiment in inquiry.named("experiment_id"):
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
