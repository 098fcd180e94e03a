"""The audit log: who changed what. One line for each write that reached MLflow, or that a key was
not allowed to make, on a logger of its own (AUDIT_LOG is its destination).

To MLflow every caller is the proxy, so only this log has the user. A line names what MLflow acts
on: the names and ids in the path, and in a JSON body that was read whole anyway; never a value of a
parameter, metric or tag. A body that streams is not read for it, nor is a response: the id of
something new is in MLflow's response only.

Fails open: a line that cannot be written does not undo the write. See docs/observability.md.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

import orjson

from app.observability.record import Record, shown
from app.request.errors import Forbidden, UpstreamUnreachable

log = logging.getLogger("hokusai.audit")

#: Fields of MLflow's requests, and parameters of its paths, that name something. The first ones
#: are always shown.
NAMES = tuple(
    """experiment_id run_id run_uuid name version model_id new_name alias model_name model_version
    trace_id trace_ids request_id request_ids dataset_id dataset_ids experiment_ids run_ids
    model_ids assessment_id artifact_path path stage run_name source_run_id issue_id job_id queue_id
    item_id item_ids schema_id webhook_id workspace_name secret_id secret_name endpoint_id
    endpoint_name resource_id model_definition_id budget_policy_id guardrail_id scorer_id username
    role_id role""".split()
)

#: Routes whose handler reads the names from the query.
NAMED_IN_QUERY = frozenset(("UploadArtifactToRun",))

#: Characters of one name, items of one list, and characters of all in JSON. They keep a line below
#: 4096 bytes: several workers can write that much to one pipe without mixing lines.
LONGEST, MOST_ITEMS, MOST = 250, 20, 2000

ACCEPTED, REFUSED, UNKNOWN = "accepted", "refused", "unknown"
REFUSED_BY_PROXY = "refused by proxy"


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


#: Name by every spelling that MLflow takes: `runId` is `run_id` to protobuf.
SPELLINGS = {spelling: name for name in NAMES for spelling in (name, _camel(name))}


def write(record: Record) -> None:
    """Log a finished write, unless MLflow never heard of it."""
    if log.isEnabledFor(logging.INFO) and (outcome := result(record)):
        log.info("write", extra={"fields": line(record, outcome)})


def result(record: Record) -> str | None:
    """The result of a write: MLflow accepted or refused it, or the proxy refused it for lack of a
    scope; "unknown" if it was sent and got no response. None if MLflow never heard of it."""
    if record.principal is None:
        return None
    if record.outcome == Forbidden.outcome:
        return REFUSED_BY_PROXY
    if not record.attempts or record.outcome == UpstreamUnreachable.outcome:
        return None
    if record.error_code is not None:
        return UNKNOWN
    return ACCEPTED if record.status < 400 else REFUSED


def line(record: Record, outcome: str) -> dict[str, Any]:
    """The line's fields. The caller of `record` must be known."""
    principal, inbound = record.principal, record.inbound
    assert principal is not None
    assert inbound is not None
    fields = {
        "request_id": record.request_id,
        "trace_id": record.trace_id,
        "user_id": principal.user_id,
        "key_id": principal.key_id,
        "client_ip": record.client_ip,
        "operation": record.operation,
        "kind": record.kind,
        "method": record.method,
        "upstream_path": shown(inbound.path),
        "resource": resource(record),
        "result": outcome,
        "status": record.status,
    }
    return {name: value for name, value in fields.items() if value not in (None, {})}


def resource(record: Record) -> dict[str, Any]:
    """What a request names, by MLflow's own field names."""
    named: dict[str, Any] = {}
    if record.inbound is not None and record.operation in NAMED_IN_QUERY:
        named.update(parse_qsl(record.inbound.query))
    named.update(_in_body(record.body))
    named.update(record.parameters)
    return dict(_within_limits(named))


def _within_limits(named: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    left = MOST
    known = {SPELLINGS[name]: value for name, value in named.items() if name in SPELLINGS}
    for name in sorted(known, key=NAMES.index):
        if value := _presentable(known[name]):
            left -= len(name) + len(json.dumps(value))
            if left > 0:
                yield name, value


def _presentable(value: Any) -> str | list[str] | None:
    """An id or a name as text, several as a list; None for what is neither."""
    if isinstance(value, list):
        texts = [text for item in value[:MOST_ITEMS] if isinstance(text := _presentable(item), str)]
        return texts + ([f"and {len(value) - MOST_ITEMS} more"] if value[MOST_ITEMS:] else [])
    if isinstance(value, str | int | float):
        return shown(str(value), LONGEST)
    return None


def _in_body(body: bytes | None) -> Mapping[str, Any]:
    """The fields of a JSON object, parsed as MLflow does: Python's json takes more than orjson
    (NaN, UTF-16), and old clients send the object as a string."""
    if not body:
        return {}
    try:
        found = _parsed(body)
        if isinstance(found, str):
            found = _parsed(found.encode())
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)
