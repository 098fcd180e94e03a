"""The workspace of a request: one of the key's own, never MLflow's `default` by omission.

MLflow reads the header X-MLFLOW-WORKSPACE; without it a request works in `default`, where whatever
existed before workspaces still is. So every request on a route of a workspace gets exactly one such
header. A client may choose among the key's workspaces; the first one is the key's own.
MLFLOW_WORKSPACES=auto asks MLflow whether it has workspaces, and again every few seconds.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import parse_qsl

from app.auth import artifact_paths as paths
from app.auth.authorization import is_admin
from app.request.errors import (
    BadRequest,
    FeatureDisabled,
    Forbidden,
    NotForwarded,
    ProxyError,
)
from app.request.permit import Permit
from app.request.principal import Principal
from app.request.route_table import Route

log = logging.getLogger("hokusai.workspaces")

#: Path where MLflow reports whether it has workspaces; it accepts any header.
SERVER_INFO = "/api/3.0/mlflow/server-info"

#: MLflow ignores the header on every path with this end, also on that of an artifact.
SKIPPED = "/mlflow/server-info"

#: Where MLflow lists the workspaces that a caller may see.
WORKSPACES = "/api/3.0/mlflow/workspaces"

#: Seconds for which MLflow's response is cached.
KNOWN = 10.0

#: Operations and kinds of routes that belong to no workspace: they get no header. MLflow answers
#: 404 on each of them if the header names a workspace that it does not have.
NOWHERE = frozenset(("Health", "Version", "GetServerInfo", "PrometheusMetrics"))
NOWHERE_KINDS = frozenset(("ui", "users", "workspaces"))

#: Where MLflow keeps what existed before workspaces. No tenant's: its artifacts are not apart.
DEFAULT = "default"

NONE_HERE = "Workspace APIs are not available: workspaces are not enabled on this server"
FLAG = "Start MLflow with --enable-workspaces, or set MLFLOW_WORKSPACES=off."


class Ask(Protocol):
    """Asks MLflow, as Questions.ask."""

    def __call__(self, path: str, permit: Permit | None = None) -> dict[str, Any] | None:
        """The answer, for the permit's caller; None if MLflow has no such path. May raise a
        ProxyError."""


class Workspaces:
    """Finds the workspace of a request; shared by all threads."""

    def __init__(self, ask: Ask, mode: str = "auto") -> None:
        """`mode` is MLFLOW_WORKSPACES."""
        self._ask = ask
        self._mode = mode
        self._guard = threading.Lock()
        self._until = 0.0
        self._info: dict[str, Any] = {}
        self._failed: ProxyError | None = None
        self._failed_at = float("-inf")

    def bound(self, permit: Permit, parameters: Mapping[str, str]) -> Permit:
        """The permit with its workspace, "" on a route that belongs to none. `parameters` are
        those of the route's template.

        Raises Forbidden for a workspace that is not the key's, or a key without one;
        FeatureDisabled if MLflow has none and the request needs one.
        """
        route, inbound = permit.route, permit.inbound
        if route is not None and route.operation == "GetServerInfo":
            return permit
        named = _named(inbound.environ)
        if not self._are_on(named, permit.principal):
            return permit
        if inbound.decoded_path.rstrip("/").endswith(SKIPPED):
            raise BadRequest(f"MLflow takes no workspace on a path that ends in {SKIPPED}.")
        own = own_workspaces(permit.principal)
        elsewhere = paths.workspaces(inbound) | _in_link(route, inbound.query)
        wanted = _agreed(named, elsewhere, parameters.get("workspace_name", ""))
        if wanted and wanted not in own and not is_admin(permit.principal):
            raise Forbidden(_not_yours(wanted, own))
        if _is_nowhere(route):
            return permit
        if not (wanted or own):
            raise Forbidden(NAME_ONE if is_admin(permit.principal) else NO_WORKSPACE)
        return replace(permit, workspace=wanted or own[0])

    def _are_on(self, named: str, principal: Principal) -> bool:
        """Whether workspaces count for this request. Raises FeatureDisabled for a request that
        needs one where MLflow has none, and NotForwarded while MLflow does not say."""
        if self._mode == "off":
            if named:
                raise FeatureDisabled(f"{NONE_HERE}. Unset MLFLOW_WORKSPACE.")
            return False
        are_there = self.are_there()
        if are_there is False and self._mode == "on":
            raise NotForwarded(f"MLFLOW_WORKSPACES=on, but MLflow has no workspaces. {FLAG}", 10)
        if are_there is False:
            if named:
                raise FeatureDisabled(f"{NONE_HERE}. Unset MLFLOW_WORKSPACE.")
            if own := own_workspaces(principal):
                raise FeatureDisabled(
                    f"This API key is for the workspace {own[0]!r}, and this MLflow has no "
                    "workspaces. Tell the operator (mlflow server --enable-workspaces)."
                )
            return False
        unknown = are_there is None and self._mode == "auto"
        if unknown and self._failed and not (named or principal.workspaces):
            raise self._failed
        return True  # MLflow refuses the header if it has none

    def are_there(self) -> bool | None:
        """Whether MLflow has workspaces; None if it never said. One request asks; until its
        answer the others use the last one, and wait for the first."""
        now = time.monotonic()
        if now >= self._until and self._guard.acquire(blocking=not self._info):
            try:
                if time.monotonic() >= self._until and self._failed_at < now:
                    self._look()
            finally:
                self._guard.release()
        return self._info.get("workspaces_enabled")

    def _look(self) -> None:
        """Ask MLflow. A failure leaves what is known; the circuit bounds further attempts."""
        try:
            info = self._ask(SERVER_INFO) or {}  # None: older than workspaces
            are_there = info.get("workspaces_enabled") is True
            self._say(are_there)
            self._info = {**info, "workspaces_enabled": are_there}
            self._until = time.monotonic() + KNOWN
        except ProxyError as why:
            self._failed, self._failed_at = why, time.monotonic()

    def _say(self, are_there: bool) -> None:
        """Log an MLflow that lacks what MLFLOW_WORKSPACES=on needs, once per change."""
        if self._mode == "on" and not are_there and self._info.get("workspaces_enabled", True):
            log.error("MLFLOW_WORKSPACES=on, but MLflow has no workspaces. %s", FLAG)

    def are_missing(self) -> bool:
        """Whether MLflow lacks what MLFLOW_WORKSPACES=on needs."""
        return self._mode == "on" and self.are_there() is False

    def own_answer(self, permit: Permit, is_session: bool) -> dict[str, Any] | None:
        """The proxy's own answer in place of MLflow's; None to forward the request.

        The list of workspaces has the key's own. For a session with one workspace server-info says
        that there are none, so MLflow's page has no picker.
        """
        operation = permit.route.operation if permit.route else ""
        principal = permit.principal
        if self._mode == "off" or is_admin(principal) or not self.are_there():
            return None
        own = own_workspaces(principal)
        if operation == "ListWorkspaces":
            answer = self._ask(WORKSPACES, permit) or {}
            there = {each["name"]: each for each in answer.get("workspaces", [])}
            return {"workspaces": [there[name] for name in own if name in there]}
        if operation == "GetServerInfo" and is_session and len(own) == 1:
            return {**self._info, "workspaces_enabled": False}
        return None


NO_WORKSPACE = (
    "This API key has no workspace, and this MLflow keeps everything in workspaces. Ask the "
    "operator for a key with one (scope 'workspace:<name>')."
)
NAME_ONE = (
    "Name a workspace: this API key may use any, but has none of its own. Set MLFLOW_WORKSPACE, or "
    "send X-MLFLOW-WORKSPACE."
)


def own_workspaces(principal: Principal) -> tuple[str, ...]:
    """The workspaces of a key, without `default`, which is no tenant's."""
    return tuple(name for name in principal.workspaces if name != DEFAULT)


def _is_nowhere(route: Route | None) -> bool:
    return route is not None and (route.operation in NOWHERE or route.kind in NOWHERE_KINDS)


def _named(environ: Mapping[str, Any]) -> str:
    """The workspace that the client names; "" without one. The server joins repeated fields with
    commas; MLflow would read the first one."""
    given = str(environ.get("HTTP_X_MLFLOW_WORKSPACE", ""))
    names = {name.strip() for name in given.split(",")} - {""}
    if len(names) > 1:
        raise BadRequest("The request names several workspaces; send X-MLFLOW-WORKSPACE once.")
    return names.pop() if names else ""


def _in_link(route: Route | None, query: str) -> set[str]:
    """The workspaces in the query of an artifact's address: a link carries no header."""
    if "workspace=" not in query or route is None or route.kind != "artifacts":
        return set()
    return {value for name, value in parse_qsl(query) if name == "workspace"}


def _agreed(named: str, elsewhere: Iterable[str], in_template: str) -> str:
    """The one workspace that a request names: in its header, elsewhere in its address, or in the
    path of its route; "" without one. Raises Forbidden if they differ."""
    names = {named, *elsewhere} - {""}
    if len(names) > 1:
        raise Forbidden(
            "The artifact's address names another workspace than the request does "
            "(X-MLFLOW-WORKSPACE, MLFLOW_WORKSPACE)."
        )
    return names.pop() if names else in_template


def _not_yours(name: str, own: tuple[str, ...]) -> str:
    shown = name if name.isascii() and name.isprintable() else "named"
    has = f"it has {', '.join(own)}" if own else "it has none"
    return f"This API key has no access to the workspace {shown[:63]!r}; {has}."
