"""Readiness: whether this instance should get requests. See docs/decisions/readiness.md.

Without MLflow nothing can be served, so it must be there. The auth service must have answered
lately: during its outage, keys that it found valid lately are served, and an instance that leaves
the load balancer would make the outage total. Redis need not be there.
"""

from app.health.checks import ESSENTIAL
from app.health.diagnosis import HEALTHY, UNHEALTHY
from app.health.results import SharedResults
from app.state.instance_store import InstanceStore

#: Stored whenever the auth service answers, for as long as a decision of that time may be used.
AUTH_SEEN = "health-seen:auth_service"


class Readiness:
    """`grace` is how many seconds a decision of the auth service may be used."""

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
