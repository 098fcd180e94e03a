"""The fence: what a key without the admin scope may neither name nor make MLflow follow.

MLflow keeps the rows of its workspaces apart, but not what a request names beside them: storage
locations, and the ids of another's logged models and assessments. What would be written is judged
by the body, what MLflow would follow by asking it first: an object may be older than this rule. All
that can change the location of a trace, or of a version of a name, is judged, so it cannot change
between question and request.

Locations are judged without workspaces, too. checks.py has the routes.
"""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from app.auth.authorization import is_admin
from app.auth.checks import CHECKS, Check
from app.auth.inquiry import Inquiry, Known
from app.auth.locations import Locations
from app.auth.otlp_tags import watched
from app.request.errors import BadRequest
from app.request.json_body import parse
from app.request.permit import Permit
from app.upstream.streaming import Body

#: The operation whose body is OTLP, and those whose body is no JSON.
EXPORT, NOT_JSON = "ExportTraces", ("UploadArtifactToRun",)

#: Operations that are judged with workspaces only, and only where their body has this field.
ACROSS, FIELD = ("LogMetric", "LogBatch"), (b"model_id", b"modelId")

AskFor = Callable[[str, Permit, dict[str, Any] | None], dict[str, Any] | None]


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
        try:
            check(inquiry)
        except RecursionError:  # orjson reads what Python cannot show as text
            raise BadRequest("The request's body is nested too deeply.") from None
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
    if "content-encoding" in environ.get("HTTP_CONNECTION", "").lower():
        raise BadRequest("Connection must not name Content-Encoding, which is for MLflow.")
    pieces = watched(
        [content] if isinstance(content, bytes) else content,
        environ.get("CONTENT_TYPE", ""),
        environ.get("HTTP_CONTENT_ENCODING", ""),
    )
    return Body(b"".join(pieces) if isinstance(content, bytes) else pieces, body.length)
