"""The checks that need the proxy's settings: Redis, the auth service and MLflow, probed from here,
past the proxy, as its health probes them."""

from collections.abc import Callable
from functools import partial

from app.doctor.steps import Failed
from app.health.diagnosis import Finding
from app.services import patient_checks
from config import Settings

#: Seconds; a slow part is no fault by itself.
TIMEOUT = 10.0

#: Steps, and the health check that each runs. The search for experiments passes MLflow's host
#: check, unlike its /health.
STEPS = {
    "Redis, from here": "redis",
    "auth service, from here": "auth_service",
    "MLflow, from here": "experiments_api",
}


def checks(settings: Settings) -> list[tuple[str, Callable[[], str]]]:
    """Each check with its name, in order."""
    questions = patient_checks(settings, TIMEOUT).questions()
    return [(step, partial(_passed, questions[check].ask)) for step, check in STEPS.items()]


def _passed(ask: Callable[[], Finding]) -> str:
    """What was found; raises Failed for a fault."""
    found = ask()
    if found.fault is None:
        return found.message
    code, message, remedy = found.fault
    raise Failed(f"{message} ({found.detail})", remedy, fault=code)
