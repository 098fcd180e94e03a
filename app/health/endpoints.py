"""Health over HTTP: /health is liveness, /ready readiness, /api/health/mlflow the whole state.

The workers of an instance share results for HEALTH_CACHE_TTL (results.py), so frequent probes do
not load MLflow, and a part that hangs does not delay the answer. docs/decisions/readiness.md says
what readiness is.
"""

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response

from app.health.checks import CHECKS, ESSENTIAL, overall
from app.health.diagnosis import DEGRADED, HEALTHY, UNHEALTHY
from app.health.internals import Inside
from app.health.results import Check, SharedResults
from app.responses import json_response
from app.state.instance_store import InstanceStore
from config.version import VERSION

COMPREHENSIVE = (
    "/api/health",
    "/api/health/mlflow",
    "/api/mlflow/health/mlflow",
    "/mlflow/health/mlflow",
)

#: Stored whenever the auth service answers, for as long as a decision of that time may be used.
AUTH_SEEN = "health-seen:auth_service"


class Readiness:
    """Whether this instance should get requests. Without MLflow nothing can be served, so it must
    be there. The auth service must have answered lately: `grace` is how many seconds a decision of
    it may be used, and to leave the load balancer earlier would make its outage total. Redis need
    not be there."""

    def __init__(self, results: SharedResults, store: InstanceStore, grace: float) -> None:
        self._results = results
        self._store = store
        self._grace = grace
        self.draining = False

    def look(self) -> tuple[list[str], list[str]]:
        """What is missing, and what is degraded; ready if nothing is missing."""
        if self.draining:
            return ["draining: this instance is being stopped"], []
        checks = self._results.of(*ESSENTIAL, "auth_service")
        missing = [name for name, check in checks.items() if check.status == UNHEALTHY]
        if "auth_service" not in missing:
            self._store.set_value(AUTH_SEEN, b"1", self._grace)
        elif self._store.get_value(AUTH_SEEN) is not None:
            missing.remove("auth_service")
        bad = [name for name, check in checks.items() if check.status != HEALTHY]
        lines = {name: f"{name}: {checks[name].message}" for name in bad}
        return [lines.pop(name) for name in missing], list(lines.values())


def blueprint(
    results: SharedResults,
    readiness: Readiness,
    inside: Inside,
    require_a_key: Callable[[], object],
) -> Blueprint:
    """The routes. The public ones show no internal address. The detailed ones require any valid
    key."""
    routes = Blueprint("health", __name__)

    @routes.get("/health")
    def live() -> Response:
        return json_response({"status": HEALTHY, "version": VERSION})

    @routes.get("/ready")
    def ready() -> Response:
        missing, degraded = readiness.look()
        status = UNHEALTHY if missing else DEGRADED if degraded else HEALTHY
        content = {"status": status, "version": VERSION, "missing": missing, "degraded": degraded}
        return json_response(content, 503 if missing else 200)

    def comprehensive() -> Response:
        checks = results.of(*CHECKS)
        return _state(checks, {name: check.public() for name, check in checks.items()})

    def detailed() -> Response:
        require_a_key()
        checks = results.of(*CHECKS)
        shown = {name: check.detailed() for name, check in checks.items()}
        return _state(checks, shown, internal=inside.page(results))

    for path in COMPREHENSIVE:
        routes.add_url_rule(path, "comprehensive", comprehensive)
        if path != "/api/health":
            routes.add_url_rule(f"{path}/detailed", "detailed", detailed)
    return routes


def _state(checks: dict[str, Check], shown: dict[str, Any], **more: Any) -> Response:
    status = overall(checks)
    content = {"status": status, "version": VERSION, "checks": shown, **more}
    return json_response(content, 503 if status == UNHEALTHY else 200)
