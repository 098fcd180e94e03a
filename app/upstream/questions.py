"""Ask MLflow about an object, before a request about it is forwarded.

A question goes through the circuit, and is repeated like a GET: it changes nothing.
"""

import time
from typing import Any

import orjson

from app.request.errors import BadRequest, NotForwarded, UpstreamReset, UpstreamUnreachable
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
        self, path: str, workspace: str, document: dict[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """MLflow's JSON answer to a GET, or to a POST of `document`; None if it has no such
        object. Raises a ProxyError if it does not answer."""
        body = None if document is None else orjson.dumps(document)
        answer = self._answer(path, workspace, body)
        if error := answers.unrelated(None, answer.status, answer.headers, answer.data, workspace):
            raise error
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
            "Before this request the proxy must ask MLflow about an object in it, and MLflow "
            f"failed ({answer.status}). Nothing was done; repeat the request.",
            RETRY_AFTER,
        )

    def _answer(self, path: str, workspace: str, body: bytes | None) -> answers.ProbeResponse:
        upstream, began, tries = self._upstream, time.monotonic(), 0
        self._retries.request_made()
        while True:
            tries += 1
            try:
                closed = upstream.circuit.attempt(FAILURES, upstream.is_there)
                with closed, upstream.liveness.waiting():
                    return upstream.ask(path, self._timeout, workspace, body)
            except circuit.Open as why:
                raise paused(why.retry_after) from None
            except (UpstreamUnreachable, UpstreamReset) as why:
                if not self._retries.again(tries, began, isinstance(why, UpstreamReset)):
                    raise
