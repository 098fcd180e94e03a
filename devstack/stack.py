"""The whole product on this machine: Redis, MLflow, the auth service and the proxy."""

import socket
import time
from collections.abc import Callable

from devstack.auth import AuthService
from devstack.data_folder import DataFolder
from devstack.mlflow import SMALL, WITH_WORKSPACES, MLflow
from devstack.proxy import Proxy
from devstack.redis import Redis
from devstack.server import Running, Server

STEP_SECONDS = 0.1
REPORT_SECONDS = 3.0


class Stack:
    """All servers of one data folder. `between` is called often during a wait; it may raise to
    interrupt that."""

    def __init__(
        self,
        data: DataFolder,
        *,
        place: socket.socket,
        redis_url: str | None,
        workspaces: bool = False,
    ) -> None:
        """`place` holds the proxy's port until it starts; `redis_url` is a running Redis.
        `workspaces`: MLflow has them."""
        self.workspaces = workspaces
        folder, logs = data.folder, data.logs
        self.redis = None if redis_url else Redis(logs)
        self.redis_url = self.redis.url if self.redis else str(redis_url)
        self.mlflow = MLflow(folder / "mlflow", options=SMALL + WITH_WORKSPACES * workspaces)
        self.mlflow.log = logs / self.mlflow.log.name
        self.auth = AuthService(logs, database=folder / "keys.db")
        settings = {
            "MLFLOW_SERVER_URL": self.mlflow.url,
            "HOKUSAI_AUTH_SERVICE_URL": self.auth.url,
            "AUTH_LOOKUP_TOKEN": self.auth.lookup_token,
            "REDIS_URL": self.redis_url,
            "MLFLOW_WORKSPACES": "on" if workspaces else "auto",
        }
        self.proxy = Proxy(logs, settings, port=place.getsockname()[1])
        self._place = place

    def servers(self) -> list[Server]:
        """All servers, in the order in which they start."""
        first = [self.redis] if self.redis else []
        return [*first, self.auth, self.mlflow, self.proxy]

    def start(
        self, running: Running, say: Callable[[str], None], between: Callable[[], None]
    ) -> None:
        """Start all; the proxy last, so that it finds the others. Raises ServerFailed."""
        *others, proxy = self.servers()
        _start(others, running, say, between)
        self._place.close()
        _start([proxy], running, say, between)

    def watch(self, between: Callable[[], None]) -> None:
        """Block until a server dies; then raise ServerFailed."""
        while True:
            between()
            for server in self.servers():
                if not server.is_running():
                    raise server.failure(f"ended by itself with status {server.exit_status()}")
            time.sleep(STEP_SECONDS)


def _start(
    servers: list[Server],
    running: Running,
    say: Callable[[str], None],
    between: Callable[[], None],
) -> None:
    """Report each server once it is ready, and from time to time those that are not."""
    running.begin(*servers)
    waiting, reported = list(servers), time.monotonic()
    while waiting:
        between()
        for server in [server for server in waiting if server.check()]:
            waiting.remove(server)
            say(f"  ✓ {server.name}, {server.age:.1f} s")
        if waiting and time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            names = ", ".join(server.name for server in waiting)
            say(f"  … waiting for {names}, {waiting[0].age:.0f} s (mlflow takes about 10 s)")
        time.sleep(STEP_SECONDS)
