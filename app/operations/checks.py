"""The health checks: each asks one part, in its own time, and says what it means in a sentence.

They ask MLflow past the circuit: a circuit that is still open must not hide that MLflow is back,
nor its being closed hide that MLflow is gone. A message for everybody holds no internal address;
what only an operator may see is in `detail`.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from app.auth_service import AuthService
from app.circuit import Circuit
from app.errors import ProxyError, UpstreamReset, UpstreamTimeout, UpstreamUnreachable
from app.forwarding import Upstream
from app.redis_link import RedisAway, RedisLink

#: What MLflow is asked: cheap questions, each through another part of it. The artifact folder does
#: not exist, so that nothing long is listed.
QUESTIONS = {
    "connectivity": "/health",
    "experiments_api": "/api/2.0/mlflow/experiments/search?max_results=1",
    "models_api": "/api/2.0/mlflow/registered-models/search?max_results=1",
    "artifacts_api": "/api/2.0/mlflow-artifacts/artifacts?path=hokusai-health-check",
}

UNANSWERED: dict[type[ProxyError], str] = {
    UpstreamUnreachable: "MLflow cannot be reached: is it running, and its address right?",
    UpstreamReset: "MLflow breaks the connection off before it answers; look at its log.",
    UpstreamTimeout: "MLflow does not answer in time (HEALTH_TIMEOUT): overloaded, or frozen?",
}

#: Without these nothing can be served; the failure of any other makes the state "degraded".
ESSENTIAL = frozenset(("connectivity", "experiments_api"))


@dataclass(frozen=True, slots=True)
class Check:
    """One result: "healthy" or "unhealthy", how long it took, and what it means."""

    status: str
    latency_ms: float
    message: str
    detail: str = ""

    def public(self) -> dict[str, Any]:
        """The fields that anybody may see."""
        return {"status": self.status, "latency_ms": self.latency_ms, "message": self.message}


class HealthChecks:
    """All checks. `timeout` is for each of them, in seconds; they run at the same time."""

    def __init__(
        self,
        upstream: Upstream,
        link: RedisLink,
        auth_service: AuthService,
        circuit: Circuit,
        timeout: float,
    ) -> None:
        self._upstream = upstream
        self._link = link
        self._auth_service = auth_service
        self._circuit = circuit
        self._timeout = timeout

    def run(self) -> dict[str, Check]:
        """Every check by name, in at most about the time-out."""
        questions: dict[str, Callable[[], tuple[bool, str, str]]] = {
            name: self._mlflow_question(path) for name, path in QUESTIONS.items()
        }
        questions |= {
            "redis": self._redis,
            "auth_service": self._auth,
            "circuit": self._circuit_state,
        }
        with ThreadPoolExecutor(len(questions)) as threads:
            running = {name: threads.submit(_timed, ask) for name, ask in questions.items()}
        return {name: _result(future) for name, future in running.items()}

    def _mlflow_question(self, path: str) -> Callable[[], tuple[bool, str, str]]:
        def ask() -> tuple[bool, str, str]:
            try:
                answer = self._upstream.ask(path, self._timeout)
            except ProxyError as error:
                return False, UNANSWERED[type(error)], str(error.__cause__)
            if answer.status == 200:
                return True, "MLflow answers.", ""
            text = answer.data[:200].decode("utf-8", "replace")
            if answer.status == 403 and "Invalid Host" in text:
                return False, "MLflow refuses the Host header: start it with --allowed-hosts.", text
            return False, f"MLflow answers with status {answer.status}; look at its log.", text

        return ask

    def _redis(self) -> tuple[bool, str, str]:
        if self._link.client is None:
            return True, "No Redis: one process, counts in memory.", ""
        try:
            self._link.call(lambda: self._link.client.ping())
        except RedisAway as away:
            message = "Redis does not answer: limits are counted by each instance for itself."
            return False, message, repr(away.__cause__)
        return True, "Redis answers.", ""

    def _auth(self) -> tuple[bool, str, str]:
        try:
            status = self._auth_service.ping(self._timeout)
        except ProxyError as error:
            message = "The auth service gives no answer: keys seen lately go on, others get 503."
            return False, message, str(error.__cause__)
        if status >= 500:
            return False, f"The auth service answers with status {status}.", ""
        return True, "The auth service answers.", ""

    def _circuit_state(self) -> tuple[bool, str, str]:
        state = self._circuit.state
        return state == "closed", f"The circuit to MLflow is {state} in this worker.", ""


def overall(checks: dict[str, Check]) -> str:
    """healthy, degraded or unhealthy."""
    failed = {name for name, check in checks.items() if check.status != "healthy"}
    if failed & ESSENTIAL:
        return "unhealthy"
    return "degraded" if failed else "healthy"


def _timed(ask: Callable[[], tuple[bool, str, str]]) -> Check:
    began = time.monotonic()
    ok, message, detail = ask()
    elapsed = round((time.monotonic() - began) * 1000, 1)
    return Check("healthy" if ok else "unhealthy", elapsed, message, detail)


def _result(future: "Future[Check]") -> Check:
    """The check's result; a check that itself failed is a failed check, never a healthy one."""
    try:
        return future.result()
    except Exception as why:
        return Check("unhealthy", 0.0, "The check itself failed; see the log.", repr(why))
