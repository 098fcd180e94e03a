"""Health over HTTP: /health is liveness, /ready readiness, /api/health/mlflow the whole state.

The workers of an instance share results for HEALTH_CACHE_TTL (results.py), so frequent probes do
not load MLflow, and a part that hangs does not delay the answer.
"""

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, request

from app.health.checks import CHECKS, overall
from app.health.diagnosis import DEGRADED, HEALTHY, UNHEALTHY
from app.health.internals import Inside
from app.health.readiness import Readiness
from app.health.results import Check, SharedResults
from app.request.credentials import Credentials, SessionTokens, identify
from app.request.inbound import check_query, client_address
from app.responses import json_response
from config.version import VERSION

COMPREHENSIVE = (
    "/api/health",
    "/api/health/mlflow",
    "/api/mlflow/health/mlflow",
    "/mlflow/health/mlflow",
)


def blueprint(
    results: SharedResults,
    readiness: Readiness,
    inside: Inside,
    authenticate: Callable[[Credentials | SessionTokens, str], object],
) -> Blueprint:
    """The routes. The public ones show no internal address. The detailed ones require any valid
    key: `authenticate` raises for others."""
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
        check_query(request.query_string.decode("latin-1"))
        hops = inside.settings.trusted_proxy_hops
        authenticate(identify(request.environ, hops), client_address(request.environ, hops))
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
