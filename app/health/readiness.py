"""Readiness: whether requests should be sent to this instance. See docs/decisions/readiness.md.

Without MLflow nothing can be served, so it must be there. The auth service must have been there
lately: while it is away, keys that it found valid lately are served, and taking the instances out
of a load balancer would make its outage everybody's. Redis need not be there.
"""

from typing import Any

from app.health.checks import ESSENTIAL
from app.health.diagnosis import HEALTHY, UNHEALTHY
from app.health.results import SharedResults
from app.state.instance_store import InstanceStore

#: Noted whenever the auth service answered; kept as long as a verdict of that time may be used.
AUTH_SEEN = "health-seen:auth_service"


class Readiness:
    """`grace` is how many seconds a verdict of the auth service may be used after it was given."""

    def __init__(self, results: SharedResults, store: InstanceStore, grace: float) -> None:
        self._results = results
        self._store = store
        self._grace = grace
        self.draining = False

    def look(self) -> tuple[list[str], list[str]]:
        """What is missing, and what is not as it should be; ready if nothing is missing."""
        if self.draining:
            return ["draining: this instance is being stopped"], []
        checks = self._results.of(*ESSENTIAL, "auth_service")
        said = {name: f"{name}: {check.message}" for name, check in checks.items()}
        bad = [name for name, check in checks.items() if check.status == UNHEALTHY]
        if "auth_service" in bad and self._some_keys_pass():
            bad.remove("auth_service")
        elif "auth_service" not in bad:
            self._store.set_value(AUTH_SEEN, b"1", self._grace)
        odd = [name for name, c in checks.items() if c.status != HEALTHY and name not in bad]
        return [said[name] for name in bad], [said[name] for name in odd]

    def _some_keys_pass(self) -> bool:
        return self._store.get_value(AUTH_SEEN) is not None


def document(missing: list[str], odd: list[str], version: str) -> dict[str, Any]:
    """What /ready says."""
    status = "unhealthy" if missing else "degraded" if odd else "healthy"
    return {"status": status, "version": version, "missing": missing, "degraded": odd}
