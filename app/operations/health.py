"""Health over HTTP: /health is liveness, /ready readiness, /api/health/mlflow the whole state.

Answers are cached for HEALTH_CACHE_TTL and worked out once at a time, so that probing the proxy
hard does not load MLflow.
"""

import platform
import socket
import threading
import time
from importlib.metadata import version as version_of
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, request

from app.authentication import Authenticator
from app.credentials import identify
from app.forwarding import Upstream
from app.inbound import check_query, client_address
from app.limits import Limits
from app.operations.checks import Check, HealthChecks, overall
from app.responses import json_response
from app.version import VERSION

#: What /ready asks for. Redis is not among them: without it the proxy goes on.
NEEDED = ("connectivity", "auth_service")

COMPREHENSIVE = (
    "/api/health",
    "/api/health/mlflow",
    "/api/mlflow/health/mlflow",
    "/mlflow/health/mlflow",
)


class Health:
    """The cached state, and whether this worker is being stopped."""

    def __init__(self, checks: HealthChecks, ttl: float) -> None:
        self._run = checks.run
        self._ttl = ttl
        self._turn = threading.Lock()
        self._checks: dict[str, Check] = {}
        self._until = 0.0
        self.draining = False

    def checks(self) -> dict[str, Check]:
        """All checks, at most HEALTH_CACHE_TTL old."""
        if time.monotonic() >= self._until:
            with self._turn:
                if time.monotonic() >= self._until:
                    self._checks = self._run()
                    self._until = time.monotonic() + self._ttl
        return self._checks


def blueprint(
    health: Health, authenticator: Authenticator, limits: Limits, upstream: Upstream, hops: int
) -> Blueprint:
    """The routes. Public ones hold no internal address; the detailed ones want any valid key."""
    routes = Blueprint("health", __name__)

    @routes.get("/health")
    def live() -> Response:
        return json_response({"status": "healthy", "version": VERSION})

    @routes.get("/ready")
    def ready() -> Response:
        if health.draining:
            return _readiness(["draining: this instance is being stopped"])
        checks = health.checks()
        missing = [
            f"{name}: {checks[name].message}" for name in NEEDED if checks[name].status != "healthy"
        ]
        return _readiness(missing)

    def comprehensive() -> Response:
        checks = health.checks()
        return _state(checks, {name: check.public() for name, check in checks.items()})

    def detailed() -> Response:
        check_query(request.query_string.decode("latin-1"))
        client_ip = client_address(request.environ, hops)
        authenticator.authenticate(
            identify(request.environ),
            client_ip,
            before_asking=lambda: limits.check_failures(client_ip),
            on_failure=lambda: limits.note_failure(client_ip),
        )
        checks = health.checks()
        shown = {name: check.public() | {"detail": check.detail} for name, check in checks.items()}
        return _state(checks, shown, internals(upstream))

    for path in COMPREHENSIVE:
        routes.add_url_rule(path, "comprehensive", comprehensive)
        if path != "/api/health":
            routes.add_url_rule(f"{path}/detailed", "detailed", detailed)
    return routes


def _readiness(missing: list[str]) -> Response:
    status = "unhealthy" if missing else "healthy"
    content = {"status": status, "version": VERSION, "missing": missing}
    return json_response(content, 503 if missing else 200)


def _state(
    checks: dict[str, Check], shown: dict[str, Any], more: dict[str, Any] | None = None
) -> Response:
    status = overall(checks)
    content = {"status": status, "version": VERSION, "checks": shown} | (more or {})
    return json_response(content, 503 if status == "unhealthy" else 200)


def internals(upstream: Upstream) -> dict[str, Any]:
    """Internal connectivity for whoever holds a key: addresses and versions, nothing secret."""
    parts = urlsplit(upstream.url)
    return {
        "internal": {
            "mlflow_server_url": upstream.url,
            "mlflow_addresses": _addresses(parts.hostname or ""),
            "circuit": upstream.circuit.state,
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "libraries": {
                name: version_of(name) for name in ("flask", "gunicorn", "redis", "urllib3")
            },
        }
    }


def _addresses(host: str) -> list[str] | str:
    """What DNS says of a name, or why it says nothing."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as why:
        return f"no DNS answer: {why}"
    return sorted({str(entry[4][0]) for entry in found})
