"""The proxy itself, started as in production."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from devstack.ports import HOST, free_port
from devstack.server import Server, answers


class Proxy(Server):
    """gunicorn with the repository's own configuration, by the production command."""

    name = "proxy"
    in_repository = True

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str],
        *,
        port: int | None = None,
        ready: str = "/ready",
    ) -> None:
        """`settings` are the proxy's environment variables; `ready` is the path that must return
        200: /ready with all its upstreams, /health if it only has to serve."""
        self.port = port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.api = f"{self.url}/api/mlflow"
        self._ready = f"{self.url}{ready}"
        gunicorn = Path(sys.executable).with_name("gunicorn")
        command = [str(gunicorn), "-c", "gunicorn.conf.py", "wsgi:app"]
        bind = {"BIND": f"{HOST}:{self.port}"}
        super().__init__(command, folder, bind | dict(settings))

    def is_ready(self) -> bool:
        """Whether this process listens, and the path `ready` returns 200."""
        return self._listens() and answers(self._ready)

    def _listens(self) -> bool:
        connections = psutil.Process(self.pid).net_connections("tcp")
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == self.port
            for connection in connections
        )

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the log lines that are JSON objects, parsed; the last one may be missing."""
        text = self.log.read_text(errors="replace")
        whole = text[: text.rfind("\n") + 1].splitlines()
        return [json.loads(line) for line in whole if line.startswith("{") and line.endswith("}")]
