"""The parts behind the proxy, as its public health reports them; and, at the end, whether the
steps so far explain what health says of MLflow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from app.doctor import explain
from app.doctor.connection import REACHED
from app.doctor.steps import Failed, Skipped, Steps
from app.doctor.wire import Wire

ANSWERS = "the proxy's health answers"

#: The parts that have a check of their own: step, check, fault.
PARTS = (
    ("Redis", "redis", "redis-down"),
    ("auth service", "auth_service", "auth-service-down"),
    ("the instance's folders", "instance", "instance-folder"),
)
MLFLOW_CHECKS = ("connectivity", "experiments_api", "models_api", "artifacts_api")
MLFLOW_FAULTS = frozenset(
    """loop host-check mlflow-down mlflow-dns mlflow-slow mlflow-failing circuit-open not-mlflow
    proxy-refused artifacts-disabled""".split()
)

Check = tuple[str, Callable[[], str]]


@dataclass
class Parts:
    """What the health response says; it is requested once."""

    wire: Wire
    document: dict[str, Any] = field(default_factory=dict)

    def ask(self) -> str:
        """Comprehensive health, under the prefix that leads to the proxy."""
        got = self.wire.get(f"{self.wire.target.prefix}/health/mlflow")
        document = got.document()
        if got.status not in (200, 503) or document is None or "checks" not in document:
            raise explain.response(got, "200 or 503 with health in JSON")
        self.document = document
        return str(document.get("status"))

    def one(self, name: str, key: str) -> str:
        """A part that has a check of its own; `key` is its fault."""
        if name not in (self.document.get("checks") or {}):
            raise Skipped("not in the health response")
        if bad := bad_checks(self.document, name):
            raise Failed.of(key, f"The proxy's health says: {bad}.")
        return "well, says the proxy"

    def mlflow(self, found: Sequence[str]) -> str:
        """MLflow's checks; `found` are the codes of the faults that are known by now."""
        bad = bad_checks(self.document, *MLFLOW_CHECKS, "circuit")
        if not bad:
            return "well, says the proxy"
        if known := [code for code in found if code in MLFLOW_FAULTS]:
            raise Skipped(f"explained by: {', '.join(known)}")
        key = "mlflow-down" if bad_checks(self.document, "connectivity") else "mlflow-failing"
        if not bad_checks(self.document, *MLFLOW_CHECKS):
            key = "circuit-open"
        raise Failed.of(key, f"The proxy's health says: {bad}.")

    def ready(self, found: Sequence[str]) -> str:
        """Whether an orchestrator would send requests here."""
        got = self.wire.get("/ready")
        if got.status in (403, 404):
            raise Skipped(f"not routed from here ({got.status})")
        if got.status == 200:
            return "takes requests"
        known = [code for code in found if code in MLFLOW_FAULTS or code.startswith("auth-")]
        if got.status == 503 and known:
            raise Skipped(f"explained by: {', '.join(known)}")
        if got.status == 503 and (missing := bad_checks(got.document() or {})):
            key = "draining" if "draining" in missing else "unavailable"
            raise Failed.of(key, f"Not ready: {missing}.", got.request_id)
        raise explain.response(got, "200")


def bad_checks(document: dict[str, Any], *names: str) -> str:
    """What is not well, with its messages, as one line; "" if all is. /ready lists `missing`.

    Args:
        names: the checks to look at; all if there are none.
    """
    messages: dict[str, list[str]] = {}  # names by message: one cause often fails several checks
    for name, check in (document.get("checks") or {}).items():
        is_bad = isinstance(check, dict) and check.get("status") != "healthy"
        if is_bad and (not names or name in names):
            message = str(check.get("message") or check.get("status")).rstrip(".")
            messages.setdefault(message, []).append(name)
    found = [str(part).rstrip(".") for part in document.get("missing") or []]
    found += [f"{', '.join(checks)}: {message}" for message, checks in messages.items()]
    return "; ".join(found)


def run(steps: Steps, parts: Parts, inside: Sequence[Check]) -> None:
    """`inside` are checks with the proxy's settings, beside the proxy."""
    steps.run(ANSWERS, parts.ask, needs=REACHED)
    for step, name, key in PARTS:
        steps.run(step, partial(parts.one, name, key), needs=ANSWERS)
    for step, check in inside:
        steps.run(step, check)


def run_last(steps: Steps, parts: Parts) -> None:
    """What health says of MLflow, after the checks of MLflow through the proxy."""
    steps.run("MLflow, by the proxy's health", lambda: parts.mlflow(list(steps.faults)), ANSWERS)
    steps.run("GET /ready", lambda: parts.ready(list(steps.faults)), needs=REACHED)
