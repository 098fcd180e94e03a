"""What the detailed health page adds, for callers with a key: addresses, versions, settings, the
state of this worker. No secret is in it.
"""

import os
import platform
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from config import Settings, effective

LIBRARIES = ("flask", "gevent", "gunicorn", "pybreaker", "redis", "requests", "urllib3")

STARTED = time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What the page is made of; `in_flight` counts the requests that are being forwarded."""

    settings: Settings
    upstream: Upstream
    auth_service: AuthService
    in_flight: Callable[[], int]
    board: CircuitBoard

    def questions(self) -> dict[str, Question]:
        """Checks of this page alone. Name lookups can be slow, so they run like other checks."""
        settings, timeout = self.settings, self.settings.health_timeout
        asked: dict[str, Callable[[], Finding]] = {
            "mlflow_addresses": partial(_addresses, settings.mlflow_server_url, timeout),
            "auth_service_addresses": partial(_addresses, settings.auth_service_url, timeout),
            "mlflow_version": self._mlflow_version,
        }
        silence = "no response in time"
        return {name: Question(ask, silence, logged=False) for name, ask in asked.items()}

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
            "circuits": {
                circuit.name: {
                    "this_worker": circuit.state,
                    "not_closed": self.board.not_closed(circuit),
                }
                for circuit in (self.upstream.circuit, self.auth_service.circuit)
            },
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
            "settings": effective.shown(self.settings),
        }

    def _mlflow_version(self) -> Finding:
        try:
            response = self.upstream.ask("/version", self.settings.health_timeout)
        except ProxyError as error:
            part = diagnosis.mlflow_at(self.settings.mlflow_server_url)
            return diagnosis.no_response(part, error)
        text = response.data[:40].decode("ascii", "replace").strip()
        is_version = response.status == 200 and re.fullmatch(r"[\w.+-]+", text)
        return Finding(HEALTHY, text if is_version else f"no version, but {response.status}")


def _addresses(url: str, timeout: float) -> Finding:
    """The addresses of the host in a URL, or why DNS has none."""
    host = urlsplit(url).hostname or ""
    try:
        found = NAMES.addresses(host, timeout)
    except OSError as why:
        return Finding(UNHEALTHY, f"no DNS record for {host}: {why}")
    return Finding(HEALTHY, " ".join(sorted({str(address[0]) for _, address in found})))


def _list(text: str) -> list[str] | str:
    return text if text.startswith("no ") else text.split()
