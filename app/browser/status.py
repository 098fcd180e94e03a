"""/status: the health of the proxy and its upstreams, for people.

Without a session or key it shows what /api/health/mlflow shows everyone; with one, also times,
causes, and charts of the last minutes of this instance. It probes nothing itself: the results are
those of /api/health/mlflow, cached as long.
"""

import socket
import time
from collections.abc import Callable

from flask import Blueprint, Response, request

from app.browser import pages
from app.browser.charts import WINDOW, draw
from app.request.errors import AuthServiceUnavailable
from app.request.inbound import check_query
from app.request.principal import Principal
from app.services import Services

#: Names of the checks, in the order of the page.
NAMES = {
    "connectivity": "MLflow",
    "experiments_api": "Experiments API",
    "models_api": "Models API",
    "artifacts_api": "Artifacts API",
    "circuit": "Circuits",
    "auth_service": "Auth service",
    "redis": "Redis",
    "instance": "This instance",
}

HEADLINES = {
    "healthy": "Everything works",
    "degraded": "It works, but not all of it",
    "unhealthy": "MLflow cannot be used",
}


def blueprint(services: Services, current_user: Callable[[], Principal | None]) -> Blueprint:
    """The one page. `current_user` gives the user, None without a key or session."""
    routes = Blueprint("status", __name__)

    @routes.get("/status")
    def show() -> Response:
        check_query(request.query_string.decode("latin-1"))
        principal, note = None, ""
        try:
            principal = current_user()
        except AuthServiceUnavailable as unknown:
            note = unknown.message
        state, checks = services.health()
        details = principal and {
            "charts": draw(services.samples.points(), time.time()),
            "minutes": round(WINDOW / 60),
            "instance": socket.gethostname(),
            "mlflow": services.settings.mlflow_server_url,
        }
        return pages.page(
            "status.html",
            state=state,
            headline=HEADLINES[state],
            checks=[(NAMES[name], checks[name]) for name in NAMES],
            now=time.gmtime(),
            principal=principal,
            note=note,
            details=details,
        )

    return routes
