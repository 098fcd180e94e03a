"""What only someone with the proxy's settings can look at: Redis, the auth service and MLflow, each
from here, past the proxy."""

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from app.health import diagnosis
from app.request.errors import ProxyError, UpstreamTimeout
from app.services import patient_connections
from config import Settings

if TYPE_CHECKING:
    from app.doctor.steps import Failed

#: Of MLflow: unlike /health and /version it passes MLflow's host check.
QUESTION = "/api/2.0/mlflow/experiments/search?max_results=1"

#: Seconds; patient enough for a slow part, which is no fault by itself.
PATIENCE = 10.0


class Inside:
    """The checks, with connections of their own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._link, self._upstream = patient_connections(settings, PATIENCE)

    def checks(self) -> list[tuple[str, Callable[[], str]]]:
        """Each check with its name, in order."""
        return [
            ("Redis, from here", self.redis),
            ("auth service, its name", self.auth_service_dns),
            ("auth service, from here", self.auth_service),
            ("MLflow, its name", self.mlflow_dns),
            ("MLflow, from here", self.mlflow),
        ]

    def redis(self) -> str:
        """Everything that the proxy does with Redis, as its health tries it."""
        if self._link.client is None:
            return "memory://, none is needed"
        trouble = self._link.trouble()
        if trouble is None:
            return "does all that the proxy needs"
        found = diagnosis.redis_trouble(diagnosis.redis_at(self._settings.redis_url), trouble)
        raise _failed(
            f"Redis at {found.detail}.",
            found.message,
            "redis-rights" if trouble.lacks else "redis-down",
        )

    def auth_service_dns(self) -> str:
        """HOKUSAI_AUTH_SERVICE_URL."""
        return _resolved(
            self._settings.auth_service_url, "HOKUSAI_AUTH_SERVICE_URL", "auth-service-dns"
        )

    def auth_service(self) -> str:
        """Asked without a key; a real one says 401."""
        from app.doctor.steps import Failed
        from app.doctor.wire import post

        url = f"{self._settings.auth_service_url}/api/v1/keys/validate"
        try:
            status = post(url, {"service_id": self._settings.auth_service_id}, PATIENCE).status
            said = f"{url} answers {status}."
        except Failed as failed:
            status, said = 0, failed.message
        if status in (401, 403):
            return f"answers {status}"
        raise _failed(
            said,
            "Is it running, is HOKUSAI_AUTH_SERVICE_URL right, may this machine reach it? Asked "
            "without a key it says 401.",
            "auth-service-down",
        )

    def mlflow_dns(self) -> str:
        """MLFLOW_SERVER_URL; in AWS its Cloud Map name."""
        return _resolved(self._settings.mlflow_server_url, "MLFLOW_SERVER_URL", "mlflow-dns")

    def mlflow(self) -> str:
        """As the proxy asks it, by the same Host."""
        try:
            answer = self._upstream.ask(QUESTION, PATIENCE)
        except ProxyError as error:
            fault = "mlflow-slow" if isinstance(error, UpstreamTimeout) else "mlflow-down"
            raise _failed(
                f"{error.message} ({self._settings.mlflow_server_url})",
                "Is MLflow running, is MLFLOW_SERVER_URL right, may this machine reach its port?",
                fault,
            ) from None
        text = answer.data[:300].decode("utf-8", "replace")
        if b"Invalid Host header" in answer.data:
            host = urlsplit(self._settings.mlflow_server_url).netloc
            raise _failed(
                f"MLflow refuses to be called {host}.",
                f"Start it with --allowed-hosts {host}.",
                "host-check",
            )
        if '"request_id"' in text and '"error_code"' in text:
            raise _failed(
                f"{self._settings.mlflow_server_url} is the proxy, not MLflow: {text}",
                "Set MLFLOW_SERVER_URL to MLflow's own address.",
                "loop",
            )
        if answer.status != 200:
            raise _failed(
                f"MLflow answers {answer.status}: {text}", "Look at its log.", "mlflow-failing"
            )
        return "answers"


def _resolved(url: str, variable: str, fault: str) -> str:
    """The addresses of a URL's host."""
    parts = urlsplit(url)
    try:
        found = socket.getaddrinfo(parts.hostname, None, type=socket.SOCK_STREAM)
    except OSError as why:
        raise _failed(
            f"DNS has no answer for {parts.hostname}: {why}.",
            f"Check the name in {variable}; a Cloud Map name is known inside its VPC only, and "
            "only while a healthy task is registered.",
            fault,
        ) from None
    return ", ".join(sorted({str(entry[4][0]) for entry in found}))


def _failed(message: str, remedy: str, fault: str) -> "Failed":
    from app.doctor.steps import Failed  # only where the doctor runs

    return Failed(message, remedy, fault=fault)
