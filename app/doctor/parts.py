"""The parts behind the proxy, as its own health tells them to anybody; and, at the end, whether
what health says of MLflow has been explained by then."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from app.doctor import explain
from app.doctor.health_shape import bad_checks
from app.doctor.steps import Failed, Skipped, Steps
from app.doctor.way import REACHED
from app.doctor.wire import Wire

ANSWERS = "the proxy's health answers"

REDIS_REMEDY = (
    "Is Redis running, is REDIS_URL right, does its security group let the proxy in on its port? "
    "Until it is back, each instance counts the limits for itself."
)
AUTH_REMEDY = (
    "Is the auth service running, is HOKUSAI_AUTH_SERVICE_URL right, may the proxy reach it? Until "
    "it is back, only keys that were seen lately are let in; the others get 503."
)
INSTANCE_REMEDY = (
    "Requests go on. Look at the folder that the message names, in the proxy's container: df -h, "
    "df -i, its owner. Nothing has to be restarted afterwards."
)
MLFLOW_REMEDY = (
    "/api/health/mlflow/detailed says more to whoever holds a key, and so do the proxy's log and "
    "MLflow's at this time."
)
MLFLOW_CHECKS = ("connectivity", "experiments_api", "models_api", "artifacts_api", "circuit")
MLFLOW_FAULTS = frozenset(
    """loop host-check mlflow-down mlflow-dns mlflow-slow mlflow-failing circuit-open not-mlflow
    proxy-refused artifacts-disabled""".split()
)

Check = tuple[str, Callable[[], str]]


@dataclass
class Parts:
    """What the health answer says; it is asked once."""

    wire: Wire
    document: dict[str, Any] = field(default_factory=dict)

    def ask(self) -> str:
        """Comprehensive health, under the prefix that leads to the proxy."""
        got = self.wire.get(f"{self.wire.target.prefix}/health/mlflow")
        document = got.document()
        if got.status not in (200, 503) or document is None or "checks" not in document:
            raise explain.answer(got, "200 or 503 with health in JSON")
        self.document = document
        return str(document.get("status"))

    def bad(self, *names: str) -> str:
        """What those checks complain of, in one line; "" if all of them are well."""
        checks = self.document.get("checks") or {}
        return bad_checks({"checks": {name: checks[name] for name in names if name in checks}})

    def one(self, name: str, fault: str, remedy: str) -> str:
        """A part that has one check of its own."""
        if name not in (self.document.get("checks") or {}):
            raise Skipped("health does not speak of it")
        if said := self.bad(name):
            raise Failed(f"The proxy's health says {said}.", remedy, fault=fault)
        return "well, says the proxy"

    def mlflow(self, found: Sequence[str]) -> str:
        """MLflow's checks; `found` are the names of the faults that are known by now."""
        said = self.bad(*MLFLOW_CHECKS)
        known = [fault for fault in found if fault in MLFLOW_FAULTS]
        if not said:
            return "well, says the proxy"
        if known:
            raise Skipped(f"explained by: {', '.join(known)}")
        only_circuit = not self.bad(*MLFLOW_CHECKS[:-1])
        connected = not self.bad("connectivity")
        fault = "mlflow-failing" if connected else "mlflow-down"
        raise Failed(
            f"The proxy's health says {said}.",
            "Repeat this; a circuit closes by itself when MLflow answers, or by `flask circuit "
            "reset`."
            if only_circuit
            else MLFLOW_REMEDY,
            fault="circuit-open" if only_circuit else fault,
        )

    def ready(self, found: Sequence[str]) -> str:
        """Whether an orchestrator would send requests here."""
        got = self.wire.get("/ready")
        if got.status in (403, 404):
            raise Skipped(f"not routed from here ({got.status})")
        document = got.document() or {}
        if got.status == 200:
            return "takes requests"
        known = [name for name in found if name in MLFLOW_FAULTS or name.startswith("auth-")]
        if got.status == 503 and known:
            raise Skipped(f"explained by: {', '.join(known)}")
        if got.status == 503 and (said := bad_checks(document)):
            fault = "draining" if "draining" in said else "unavailable"
            raise Failed(f"Not ready: {said}.", explain.REMEDIES[503], got.request_id, fault)
        raise explain.answer(got, "200")


def run(steps: Steps, parts: Parts, inside: Sequence[Check]) -> None:
    """The parts that one check tells apart; `inside` are checks made by someone who runs beside the
    proxy, with its settings."""
    steps.run(ANSWERS, parts.ask, needs=REACHED)
    redis = partial(parts.one, "redis", "redis-down", REDIS_REMEDY)
    auth_service = partial(parts.one, "auth_service", "auth-service-down", AUTH_REMEDY)
    steps.run("Redis", redis, needs=ANSWERS)
    steps.run("auth service", auth_service, needs=ANSWERS)
    instance = partial(parts.one, "instance", "instance-folder", INSTANCE_REMEDY)
    steps.run("the instance's folders", instance, needs=ANSWERS)
    for name, check in inside:
        steps.run(name, check)


def run_last(steps: Steps, parts: Parts) -> None:
    """What health says of MLflow, after MLflow has been looked at through the proxy."""
    steps.run("MLflow, by the proxy's health", lambda: parts.mlflow(list(steps.faults)), ANSWERS)
    steps.run("GET /ready", lambda: parts.ready(list(steps.faults)), needs=REACHED)
