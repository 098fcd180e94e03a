"""What the detailed health page adds: addresses, versions, settings, this worker's state.

For whoever holds a key; no secret is in it.
"""

import os
import platform
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from importlib.metadata import version as version_of
from typing import Any
from urllib.parse import urlsplit

from app.health import diagnosis
from app.health.checks import AuthService
from app.health.diagnosis import HEALTHY, UNHEALTHY, Finding
from app.health.results import Question, SharedResults
from app.request.errors import ProxyError
from app.state.circuits import CircuitBoard
from app.upstream.forwarding import Upstream
from app.upstream.names import NAMES
from config import Settings

LIBRARIES = ("flask", "gevent", "gunicorn", "pybreaker", "redis", "requests", "urllib3")

STARTED = time.monotonic()


@dataclass(frozen=True, slots=True)
class Inside:
    """What the page is made of; `in_flight` counts the requests that are being forwarded."""

    settings: Settings
    upstream: Upstream
    auth_service: AuthService
    in_flight: Callable[[], int]
    board: CircuitBoard

    def questions(self) -> dict[str, Question]:
        """What only this page asks: names may be slow to resolve, so nobody waits for their end."""
        silence = "no answer in time"
        hosts = {
            "mlflow_addresses": self.settings.mlflow_server_url,
            "auth_service_addresses": self.settings.auth_service_url,
        }
        asked = {
            name: Question(
                partial(_addresses, url, self.settings.health_timeout), silence, logged=False
            )
            for name, url in hosts.items()
        }
        return asked | {"mlflow_version": Question(self._mlflow_version, silence, logged=False)}

    def page(self, results: SharedResults) -> dict[str, Any]:
        """The part of the answer under "internal"."""
        asked = results.of(*self.questions())
        return {
            "mlflow_server_url": self.settings.mlflow_server_url,
            "mlflow_addresses": _list(asked["mlflow_addresses"].message),
            "mlflow_version": asked["mlflow_version"].message,
            "auth_service_url": self.settings.auth_service_url,
            "auth_service_addresses": _list(asked["auth_service_addresses"].message),
            "redis": diagnosis.without_credentials(self.settings.redis_url),
            "circuits": self._circuits(),
            "connections_opened": self.upstream.connections_opened(),
            "in_flight": self.in_flight(),
            "worker": {
                "pid": os.getpid(),
                "up_s": round(time.monotonic() - STARTED),
                "of": self.settings.web_concurrency,
            },
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "libraries": {name: version_of(name) for name in LIBRARIES},
            "settings": shown_settings(self.settings),
        }

    def _circuits(self) -> dict[str, Any]:
        return {
            circuit.name: {
                "this_worker": circuit.state,
                "not_closed": self.board.not_closed(circuit),
            }
            for circuit in (self.upstream.circuit, self.auth_service.circuit)
        }

    def _mlflow_version(self) -> Finding:
        try:
            told = self.upstream.ask("/version", self.settings.health_timeout)
        except ProxyError as error:
            part = diagnosis.mlflow_at(self.settings.mlflow_server_url)
            return diagnosis.unanswered(part, error)
        text = told.data[:40].decode("ascii", "replace").strip()
        is_version = told.status == 200 and re.fullmatch(r"[\w.+-]+", text)
        return Finding(HEALTHY, text if is_version else f"no version, but status {told.status}")


def shown_settings(settings: Settings) -> dict[str, Any]:
    """Every setting by its variable; of a secret only whether it is set."""
    shown = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.metadata["secret"]:
            value = "(set)" if value else ""
        shown[field.metadata["variable"]] = value
    return shown


def _addresses(url: str, timeout: float) -> Finding:
    """What DNS says of the host in a URL, or why it says nothing."""
    host = urlsplit(url).hostname or ""
    try:
        found = NAMES.addresses(host, timeout)
    except OSError as why:
        return Finding(UNHEALTHY, f"no DNS answer for {host}: {why}")
    return Finding(HEALTHY, " ".join(sorted({str(address[0]) for _, address in found})))


def _list(text: str) -> list[str] | str:
    return text if text.startswith("no ") else text.split()
