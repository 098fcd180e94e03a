"""Refuse a request that names a workspace, with the cause; never ignore the name.

A client that sets MLFLOW_WORKSPACE would otherwise read and write in MLflow's `default` without
noticing. MLflow without workspaces refuses the header itself; MLflow with workspaces would obey it,
but a key must not choose its own workspace.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import orjson

from app.request.errors import FeatureDisabled, Forbidden, ProxyError

#: Path where MLflow reports whether it has workspaces; it accepts any header.
SERVER_INFO = "/mlflow/server-info"

#: Seconds for which MLflow's response is cached, and seconds for which a failure is cached.
KNOWN, UNKNOWN = 60.0, 5.0

NONE_HERE = "Workspace APIs are not available: workspaces are not enabled on this server"
NOT_YET = (
    "Workspaces are not yet supported through this proxy, so it refuses requests that name one. "
    "Unset MLFLOW_WORKSPACE (or do not call mlflow.set_workspace)."
)


class Answer(Protocol):
    """MLflow's response."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def data(self) -> bytes:
        """The body."""


class Workspaces:
    """Whether MLflow has workspaces, queried when a client names one; shared by all threads."""

    def __init__(self, ask: Callable[[str, float], Answer], timeout: float) -> None:
        """`ask` sends a GET for a path of MLflow's, within `timeout` seconds; it may raise a
        ProxyError."""
        self._ask = ask
        self._timeout = timeout
        self._guard = threading.Lock()
        self._until = 0.0
        self._enabled: bool | None = None

    def refuse(self, environ: Mapping[str, Any], path: str) -> None:
        """Raise FeatureDisabled, as MLflow does, or Forbidden for a request that names a workspace.
        `path` is MLflow's, decoded."""
        named = environ.get("HTTP_X_MLFLOW_WORKSPACE", "").strip(" \t,")
        if not named or path.rstrip("/").endswith(SERVER_INFO):
            return
        if self._are_enabled() is False:
            raise FeatureDisabled(f"{NONE_HERE}. Unset MLFLOW_WORKSPACE.")
        raise Forbidden(NOT_YET)

    def _are_enabled(self) -> bool | None:
        """Return None if MLflow does not say. One request queries it; the others wait."""
        with self._guard:
            if time.monotonic() >= self._until:
                self._enabled = self._asked()
                self._until = time.monotonic() + (UNKNOWN if self._enabled is None else KNOWN)
            return self._enabled

    def _asked(self) -> bool | None:
        try:
            answer = self._ask(f"/api/3.0{SERVER_INFO}", self._timeout)
            if answer.status == 404:  # older than workspaces
                return False
            return bool(orjson.loads(answer.data)["workspaces_enabled"])
        except (ProxyError, ValueError, KeyError, TypeError):
            return None
