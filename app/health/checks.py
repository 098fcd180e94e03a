"""The health checks: each probes one part, with its own timeout; diagnosis.py says what it means.

They probe past the circuits: an open circuit must not hide that its part is back, nor a closed one
that the part is gone. MLflow gets one request after the other, so that they do not compete; if the
first one gets no response, the others are not sent.
"""

import re
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from app.health import diagnosis
from app.health.diagnosis import DEGRADED, HEALTHY, UNHEALTHY, Finding, Part, bad
from app.health.faults import fault
from app.health.results import Check, Question
from app.request.errors import ProxyError, UpstreamReset, UpstreamTimeout, UpstreamUnreachable
from app.state.circuits import CircuitBoard
from app.state.redis_link import RedisLink
from app.upstream.answers import ProbeResponse, is_of_mlflow
from app.upstream.circuit import Circuit
from app.upstream.forwarding import HEALTH, Upstream
from app.upstream.liveness import PROBES, QUIET
from app.upstream.names import NAMES
from config import Settings

#: Matches nothing: an experiment or model can be large, so the time for one is the users' choice.
NAMELESS = "search?max_results=1&filter=name%20%3D%20%27%27"

#: Cheap requests, each through another part of MLflow. They find nothing, so no long list comes
#: back.
MLFLOW_QUESTIONS = {
    "connectivity": HEALTH,
    "experiments_api": f"/api/2.0/mlflow/experiments/{NAMELESS}",
    "models_api": f"/api/2.0/mlflow/registered-models/{NAMELESS}",
    "artifacts_api": "/api/2.0/mlflow-artifacts/artifacts?path=hokusai-health-check",
}

#: The checks of a comprehensive answer, in its order.
CHECKS = (*MLFLOW_QUESTIONS, "redis", "auth_service", "circuit", "instance")

#: Without these nothing can be served; the failure of any other makes the state "degraded".
ESSENTIAL = ("connectivity", "experiments_api")

#: A response to a caller this many seconds before a check still shows that MLflow is there. Longer
#: than the 30 s for which MLflow without a free database connection answers nobody: that is no
#: reason to take all instances out of a load balancer. For /health it is the time after which the
#: circuit opens: MLflow may have frozen since.
SERVED = 45.0

#: Added to the auth service's path: if that gets the same 404, the path itself is unknown.
NO_SUCH_PATH = "-hokusai-health-check"


class AuthService(Protocol):
    """The client of the auth service (auth/client.py), as far as health uses it."""

    circuit: Circuit

    @property
    def without_decision(self) -> str:
        """Why its last answers about keys were none; "" where one was."""

    def lookup_status(self, timeout: float) -> int:
        """The status of the look-up of a key that does not exist."""

    def ping(self, timeout: float, beside: str = "") -> tuple[int, str, bytes]:
        """Status, Content-Type and body of the response to a request without a key."""


class Checks:
    """How to probe each part; `settings` has the addresses and HEALTH_TIMEOUT."""

    def __init__(
        self,
        *,
        settings: Settings,
        upstream: Upstream,
        link: RedisLink,
        auth_service: AuthService,
        board: CircuitBoard,
        lacks_workspaces: Callable[[], bool] = lambda: False,
    ) -> None:
        """`lacks_workspaces`: whether MLflow lacks what MLFLOW_WORKSPACES=on needs."""
        self._timeout = settings.health_timeout
        self._frozen_after = QUIET + sum(PROBES) * settings.health_timeout
        self._signs = bool(settings.mlflow_identity_secret)
        self._has_key = bool(
            self._signs or settings.mlflow_upstream_token or settings.mlflow_upstream_username
        )
        self._note = f" {fault('check.password')}" if settings.mlflow_upstream_username else ""
        #: Why the first request of this round got no response; each round has a thread.
        self._round = threading.local()
        self._looks_up = bool(settings.auth_lookup_token)
        self._upstream = upstream
        self._link = link
        self._auth_service = auth_service
        self._board = board
        self._lacks_workspaces = lacks_workspaces
        self._mlflow = diagnosis.mlflow_at(settings.mlflow_server_url)
        self._auth = diagnosis.auth_service_at(settings.auth_service_url)
        self._redis = diagnosis.redis_at(settings.redis_url)

    def questions(self) -> dict[str, Question]:
        """Every check by name. The first of each part looks up its host name too."""
        asks = {name: partial(self._ask_mlflow, name) for name in MLFLOW_QUESTIONS}
        asks["connectivity"] = self._with_lookup(self._mlflow, asks["connectivity"])
        silence = str(self._mlflow.no_response("hangs"))
        made = {
            name: Question(ask, silence, line="mlflow", note=self._note)
            for name, ask in asks.items()
        }
        for name, part, ask in (
            ("redis", self._redis, self._ask_redis),
            ("auth_service", self._auth, self._ask_auth_service),
        ):
            silence = str(part.no_response("hangs"))
            made[name] = Question(self._with_lookup(part, ask), silence)
        return made | {"circuit": Question(self._circuits)}

    def _with_lookup(self, part: Part, ask: Callable[[], Finding]) -> partial[Finding]:
        return partial(_with_lookup, part, self._timeout, ask)

    def _ask_mlflow(self, name: str) -> Finding:
        path = MLFLOW_QUESTIONS[name]
        if missing := getattr(self._round, "missing", None):
            return missing  # type: ignore[no-any-return]
        served_since = time.monotonic() - (self._frozen_after if path == HEALTH else SERVED)
        try:
            response = self._send(path)
        except ProxyError as error:
            found = self._no_response(error, served_since)
            if path == HEALTH:
                self._round.missing = found
            return found
        found = diagnosis.mlflow_response(
            name,
            self._mlflow,
            response.status,
            response.data,
            has_key=self._has_key,
            signs=self._signs,
            by_mlflow=is_of_mlflow(response.headers, response.data),
        )
        if name != "experiments_api" or found.status != HEALTHY:
            return found
        if self._lacks_workspaces():
            return bad(UNHEALTHY, fault("mlflow.no workspaces"), self._mlflow.host)
        return self._who_we_are() if self._signs else found

    def _who_we_are(self) -> Finding:
        """Ask MLflow for its user: without the module it believes no signature."""
        try:
            response = self._send("/api/2.0/mlflow/users/current")
        except ProxyError as error:
            return self._no_response(error, time.monotonic() - SERVED)
        return diagnosis.mlflow_user(self._mlflow, response.status, response.data)

    def _no_response(self, error: ProxyError, served_since: float) -> Finding:
        """MLflow did not respond. If it has served a caller since, it is busy and not gone."""
        was_sent = not isinstance(error, UpstreamUnreachable)
        found = diagnosis.no_response(self._mlflow, error, was_sent)
        if not isinstance(error, UpstreamTimeout):
            return found
        if self._upstream.served > served_since:
            found = bad(DEGRADED, fault("check.busy"), found.detail)
        return found._replace(message=found.message + self._note)

    def _send(self, path: str) -> ProbeResponse:
        """Tries twice if the connection broke: MLflow may have closed an idle one."""
        try:
            return self._upstream.ask(path, self._timeout)
        except UpstreamReset:
            return self._upstream.ask(path, self._timeout)

    def _ask_redis(self) -> Finding:
        if self._link.client is None:
            return Finding(HEALTHY, "No Redis: one process, counts in memory.")
        trouble = self._link.trouble()
        if trouble is None:
            return Finding(HEALTHY, "Redis answers.")
        if trouble.lacks:
            self._link.watch()  # for the metric and the log
        return diagnosis.redis_trouble(self._redis, trouble)

    def _ask_auth_service(self) -> Finding:
        ping = self._auth_service.ping
        try:
            response = ping(self._timeout)
            same_beside = response[0] == 404 and (
                _bare(response) == _bare(ping(self._timeout, NO_SUCH_PATH))
            )
        except ProxyError as error:
            return diagnosis.auth_no_response(self._auth, error)
        why = self._auth_service.without_decision
        lookup = self._lookup_status() if self._looks_up and response[0] < 500 else "200"
        return diagnosis.auth_response(self._auth, *response, same_beside, why, lookup)

    def _lookup_status(self) -> str:
        try:
            return str(self._auth_service.lookup_status(self._timeout))
        except ProxyError:
            return "none"

    def _circuits(self) -> Finding:
        mlflow = self._board.not_closed(self._upstream.circuit)
        auth = self._board.not_closed(self._auth_service.circuit)
        return diagnosis.circuits(mlflow, auth)


def _with_lookup(part: Part, timeout: float, ask: Callable[[], Finding]) -> Finding:
    """Probes a part, and looks its host name up, for at most `timeout` seconds. A part can answer
    by its last good address while lookups fail: that is degraded."""
    found, host = ask(), part.hostname
    if found.status == HEALTHY and host and _fails(host, timeout):
        return bad(DEGRADED, part.no_response("last address"), f"{part.host}: lookups fail")
    return found


def _fails(host: str, timeout: float) -> bool:
    """Looks the host up, unless that was done just now: kept connections need no lookup, so only
    the next connection would fail."""
    try:
        NAMES.addresses(host, timeout)
    except OSError:
        return True
    return NAMES.failing(host)


def overall(checks: Mapping[str, Check]) -> str:
    """healthy, degraded or unhealthy."""
    if any(checks[name].status == UNHEALTHY for name in ESSENTIAL):
        return UNHEALTHY
    all_well = all(check.status == HEALTHY for check in checks.values())
    return HEALTHY if all_well else DEGRADED


def _bare(response: tuple[int, str, bytes]) -> tuple[int, str, bytes]:
    """A response without the path, and without numbers, which differ from one to the next."""
    status, content_type, body = response
    body = body.replace(NO_SUCH_PATH.encode(), b"")
    return status, content_type, re.sub(rb"[0-9a-f-]*[0-9][0-9a-f-]*", b"", body)
