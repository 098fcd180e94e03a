"""The audit log: who changed what. One line per write that reached MLflow, or that was forbidden
for the key, on a separate logger (AUDIT_LOG is its destination).

MLflow sees the proxy as every caller, so only this log has the user. A line names the objects of
the write: names and ids from the path, and from a JSON body that was buffered anyway; never a value
of a parameter, metric or tag. Streamed bodies and responses are not read: the id of a new object is
in MLflow's response only.

Fails open: a line that cannot be written does not undo the write. See docs/observability.md.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

from app.observability.record import Record, shown
from app.request.errors import Forbidden, NoSuchWorkspace, UpstreamUnreachable
from app.request.json_body import camel, parse

log = logging.getLogger("hokusai.audit")

#: Fields of MLflow's requests and parameters of its paths that name an object, in order of
#: priority: a full line omits the last ones.
NAMES = tuple(
    """experiment_id run_id run_uuid name version model_id new_name alias model_name model_version
    trace_id trace_ids request_id request_ids dataset_id dataset_ids experiment_ids run_ids
    model_ids assessment_id artifact_path path stage run_name source_run_id issue_id job_id queue_id
    item_id item_ids schema_id webhook_id workspace_name secret_id secret_name endpoint_id
    endpoint_name resource_id model_definition_id budget_policy_id guardrail_id scorer_id username
    role_id role""".split()
)

#: Operations whose handler reads the names from the query.
NAMED_IN_QUERY = frozenset(("UploadArtifactToRun",))

#: Characters of one name, items of one list, and characters of all in JSON. A line stays below 4096
#: bytes, so writes of several workers to one pipe stay atomic.
LONGEST, MOST_ITEMS, MOST = 250, 20, 2000

#: Types of an id or a name.
PLAIN = (str, int, float)

ACCEPTED, REFUSED, UNKNOWN = "accepted", "refused", "unknown"
REFUSED_BY_PROXY = "refused by proxy"

#: The name for every spelling that MLflow accepts: protobuf takes `runId` for `run_id`.
SPELLINGS = {spelling: name for name in NAMES for spelling in (name, camel(name))}


def write(record: Record) -> None:
    """Log a finished write, unless it never reached MLflow."""
    if log.isEnabledFor(logging.INFO) and (outcome := result(record)):
        log.info("write", extra={"fields": line(record, outcome)})


def result(record: Record) -> str | None:
    """The result of a write: MLflow accepted or refused it, or the proxy refused it for a missing
    scope; "unknown" if it was sent and got no response. None if it never reached MLflow."""
    if record.principal is None:
        return None
    if record.outcome == Forbidden.outcome:
        return REFUSED_BY_PROXY
    if record.outcome == NoSuchWorkspace.outcome:
        return REFUSED
    if not record.attempts or record.outcome == UpstreamUnreachable.outcome:
        return None
    if record.error_code is not None:
        return UNKNOWN
    return ACCEPTED if record.status < 400 else REFUSED


def line(record: Record, outcome: str) -> dict[str, Any]:
    """The line's fields. `record` must have a principal."""
    principal, inbound = record.principal, record.inbound
    assert principal is not None
    assert inbound is not None
    fields = {
        "request_id": record.request_id,
        "trace_id": record.trace_id,
        "user_id": principal.user_id,
        "key_id": principal.key_id,
        "workspace": record.workspace or None,
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
    """The objects that a request names, by MLflow's own field names."""
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
    """An id or name as text, several as a list; None for any other value. A list in a list is no
    name: it may be nested deeper than Python can follow."""
    if isinstance(value, list):
        texts = [_text(item) for item in value[:MOST_ITEMS] if isinstance(item, PLAIN)]
        return texts + ([f"and {len(value) - MOST_ITEMS} more"] if value[MOST_ITEMS:] else [])
    return _text(value) if isinstance(value, PLAIN) else None


def _text(value: object) -> str:
    return shown(str(value), LONGEST)


def _in_body(body: bytes | None) -> Mapping[str, Any]:
    """The fields of a JSON object, as MLflow reads it."""
    try:
        found = parse(body) if body else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
