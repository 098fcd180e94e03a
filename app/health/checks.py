"""The health checks: each asks one part, in its own time; diagnosis.py says what the answer means.

MLflow is asked one question after the other, so that they do not compete for it, and only the first
one where that finds nobody.

They ask past the circuits: one that is still open must not hide that its part is back, nor its
being closed hide that the part is gone.
"""

import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from app.health import diagnosis, messages
from app.health.diagnosis import DEGRADED, HEALTHY, UNHEALTHY, Finding
from app.health.results import Check, Question
from app.request.errors import ProxyError, UpstreamReset, UpstreamTimeout, UpstreamUnreachable
from app.state.circuits import CircuitBoard
from app.state.redis_link import RedisLink
from app.upstream.answers import is_of_mlflow
from app.upstream.circuit import Circuit
from app.upstream.forwarding import HEALTH, ProbeResponse, Upstream
from config import Settings

#: What MLflow is asked: cheap questions, each through another part of it. The artifact folder does
#: not exist, so that nothing long is listed.
MLFLOW_QUESTIONS = {
    "connectivity": HEALTH,
    "experiments_api": "/api/2.0/mlflow/experiments/search?max_results=1",
    "models_api": "/api/2.0/mlflow/registered-models/search?max_results=1",
    "artifacts_api": "/api/2.0/mlflow-artifacts/artifacts?path=hokusai-health-check",
}

#: The checks of a comprehensive answer, in its order.
CHECKS = (*MLFLOW_QUESTIONS, "redis", "auth_service", "circuit", "instance")

#: Without these nothing can be served; the failure of any other makes the state "degraded".
ESSENTIAL = ("connectivity", "experiments_api")

#: Seconds before a question in which an answer to a caller shows that MLflow is there; its /health
#: has to be answered, or a caller meanwhile, or MLflow may have frozen since. Longer than the 30 s
#: for which MLflow without a free database connection answers nobody: that is no reason to take all
#: instances out of a load balancer.
SERVED = 45.0

#: Beside the auth service's path: a 404 here as there means that neither is known to it.
NO_SUCH_PATH = "-hokusai-health-check"


class AuthService(Protocol):
    """The client of the auth service (auth/client.py), as far as health uses it."""

    circuit: Circuit

    @property
    def without_verdict(self) -> str:
        """Why its last answers about keys were none; "" where one was."""

    def ping(self, timeout: float, beside: str = "") -> tuple[int, str, bytes]:
        """The status, Content-Type and body of an answer to a question without a key."""


class Checks:
    """What to ask each part; `settings` says where they are, and how long one may take."""

    def __init__(
        self,
        settings: Settings,
        upstream: Upstream,
        link: RedisLink,
        auth_service: AuthService,
        board: CircuitBoard,
    ) -> None:
        self._timeout = settings.health_timeout
        self._has_key = bool(settings.mlflow_upstream_token or settings.mlflow_upstream_username)
        self._remedy = f" {messages.PASSWORD}" if settings.mlflow_upstream_username else ""
        #: What the first question of this round found where nobody answered; a round has a thread.
        self._round = threading.local()
        self._upstream = upstream
        self._link = link
        self._auth_service = auth_service
        self._board = board
        self._mlflow = diagnosis.mlflow_at(settings.mlflow_server_url)
        self._auth = diagnosis.auth_service_at(settings.auth_service_url)
        self._redis = diagnosis.redis_at(settings.redis_url)

    def questions(self) -> dict[str, Question]:
        """Every check by name."""
        hangs, slow = self._mlflow.says("hangs"), messages.SLOW + self._remedy
        made = {
            name: Question(self._mlflow_question(name, path), hangs, line="mlflow", slow=slow)
            for name, path in MLFLOW_QUESTIONS.items()
        }
        return made | {
            "redis": Question(self._ask_redis, self._redis.says("hangs")),
            "auth_service": Question(self._ask_auth_service, self._auth.says("hangs")),
            "circuit": Question(self._circuits, messages.FAILED),
        }

    def _mlflow_question(self, name: str, path: str) -> Callable[[], Finding]:
        def ask() -> Finding:
            is_first = path == HEALTH
            if nobody := getattr(self._round, "nobody", None):
                return nobody  # type: ignore[no-any-return]
            served_since = time.monotonic() - (0 if is_first else SERVED)
            try:
                told = self._ask_mlflow(path)
            except ProxyError as error:
                found = self._unanswered(error, served_since)
                if is_first:
                    self._round.nobody = found
                return found
            by_mlflow = is_of_mlflow(told.headers, told.data)
            return diagnosis.mlflow_answer(
                name, self._mlflow, told.status, told.data, self._has_key, by_mlflow
            )

        return ask

    def _unanswered(self, error: ProxyError, served_since: float) -> Finding:
        """MLflow gave no answer. If it has answered a caller since, it is busy and not gone."""
        was_sent = not isinstance(error, UpstreamUnreachable)
        found = diagnosis.unanswered(self._mlflow, error, was_sent)
        if not isinstance(error, UpstreamTimeout):
            return found
        if self._upstream.served > served_since:
            found = diagnosis.busy(found)
        return found._replace(message=found.message + self._remedy)

    def _ask_mlflow(self, path: str) -> ProbeResponse:
        """Once more where the connection broke: it may have been an old one, that MLflow closed."""
        try:
            return self._upstream.ask(path, self._timeout)
        except UpstreamReset:
            return self._upstream.ask(path, self._timeout)

    def _ask_redis(self) -> Finding:
        if self._link.client is None:
            return Finding(HEALTHY, messages.WELL["no redis"])
        trouble = self._link.trouble()
        if trouble is None:
            return Finding(HEALTHY, messages.WELL["redis"])
        if trouble.lacks:
            self._link.watch()  # for the metric and the log
        return diagnosis.redis_trouble(self._redis, trouble)

    def _ask_auth_service(self) -> Finding:
        ping = self._auth_service.ping
        try:
            answer = ping(self._timeout)
            same_beside = answer[0] == 404 and _is_same(answer, ping(self._timeout, NO_SUCH_PATH))
        except ProxyError as error:
            return diagnosis.auth_unanswered(self._auth, error)
        without_verdict = self._auth_service.without_verdict
        return diagnosis.auth_answer(self._auth, *answer, same_beside, without_verdict)

    def _circuits(self) -> Finding:
        mlflow = self._board.not_closed(self._upstream.circuit)
        auth = self._board.not_closed(self._auth_service.circuit)
        return diagnosis.circuits(mlflow, auth)


def overall(checks: Mapping[str, Check]) -> str:
    """healthy, degraded or unhealthy."""
    if any(checks[name].status == UNHEALTHY for name in ESSENTIAL):
        return UNHEALTHY
    all_well = all(check.status == HEALTHY for check in checks.values())
    return HEALTHY if all_well else DEGRADED


def _is_same(one: tuple[int, str, bytes], other: tuple[int, str, bytes]) -> bool:
    """Whether two answers differ only in the path or in numbers that they repeat."""
    return _bare(one) == _bare(other)


def _bare(answer: tuple[int, str, bytes]) -> tuple[int, str, bytes]:
    status, content_type, body = answer
    body = body.replace(NO_SUCH_PATH.encode(), b"")
    return status, content_type, re.sub(rb"[0-9a-f-]*[0-9][0-9a-f-]*", b"", body)
