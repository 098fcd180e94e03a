"""Ask MLflow about a request, before it is forwarded.

A question goes through the circuit, and is repeated like a GET: it changes nothing.
"""

import time
from typing import Any

import orjson

from app.request.errors import (
    BadRequest,
    Forbidden,
    LoopDetected,
    NotForwarded,
    UpstreamReset,
    UpstreamUnreachable,
)
from app.request.inbound import LOOP
from app.request.permit import Permit
from app.upstream import answers, circuit
from app.upstream.forwarding import FAILURES, Upstream, paused
from app.upstream.retries import Retries
from config import Settings

#: Seconds in Retry-After if MLflow fails to answer.
RETRY_AFTER = 5


class Questions:
    """The proxy's own questions to MLflow. Shared by all threads."""

    def __init__(self, upstream: Upstream, settings: Settings) -> None:
        self._upstream = upstream
        self._timeout = settings.mlflow_read_timeout
        self._retries = Retries(settings.mlflow_retry_deadline)

    def ask(
        self, path: str, permit: Permit | None = None, document: dict[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """MLflow's JSON answer to a GET, or to a POST of `document`, for a permit's caller; None if
        it has no such object. Raises a ProxyError if it does not answer."""
        answer = self._answer(path, permit, None if document is None else orjson.dumps(document))
        if answer.status == LoopDetected.status:
            raise LoopDetected(LOOP)
        workspace, signed = permit.workspace if permit else "", self._upstream.signs
        if error := answers.unrelated(
            None, answer.status, answer.headers, answer.data, workspace, signed=signed
        ):
            raise error
        if signed and answer.status == 403:
            raise Forbidden("MLflow does not let this user see an object that the request names.")
        if answer.status == 404:
            return None
        try:
            found = orjson.loads(answer.data) if answer.status == 200 else None
        except ValueError:
            found = None
        if isinstance(found, dict):
            return found
        if 400 <= answer.status < 500:
            raise BadRequest("MLflow cannot read a name or an id in this request.")
        raise NotForwarded(
            "Before this request the proxy must ask MLflow about it, and MLflow failed "
            f"({answer.status}). Nothing was done; repeat the request.",
            RETRY_AFTER,
        )

    def _answer(
        self, path: str, permit: Permit | None, body: bytes | None
    ) -> answers.ProbeResponse:
        upstream, began, tries = self._upstream, time.monotonic(), 0
        self._retries.request_made()
        while True:
            tries += 1
            try:
                closed = upstream.circuit.attempt(FAILURES, upstream.is_there)
                with closed, upstream.liveness.waiting():
                    return upstream.ask(path, self._timeout, permit, body)
            except circuit.Open as why:
                raise paused(why.retry_after) from None
            except (UpstreamUnreachable, UpstreamReset) as why:
                if not self._retries.again(tries, began, isinstance(why, UpstreamReset)):
                    raise
