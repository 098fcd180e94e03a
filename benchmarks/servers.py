"""The servers that are compared, and those behind them; each a child process with its log."""

import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import fakes
from benchmarks.machine import need
from devstack.environments import BASIC_AUTH_SERVER, BENCH, MLFLOW_SERVER, Environment
from devstack.ports import HOST, free_port
from devstack.proxy import Proxy
from devstack.redis import Redis
from devstack.server import Server

HERE = Path(__file__).parent


class Web(Server):
    """A server on a free port that is ready when /health is 200."""

    def __init__(
        self, name: str, command: Sequence[object], folder: Path, **environment: str
    ) -> None:
        """`PORT` in the command becomes the port."""
        self.name = name
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        words = [str(self.port if word == "PORT" else word) for word in command]
        super().__init__(words, folder, environment)


def fake(folder: Path) -> Web:
    """An auth service that takes any key; artifacts out of nothing."""
    return Web("fake", [sys.executable, fakes.__file__, "PORT"], folder)


def nginx(folder: Path, template: str, **values: str) -> Web:
    """nginx with a template of benchmarks/nginx/, in which `values` replace `@NAME@`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "nginx.conf"
    server = Web("nginx", [need("nginx"), "-p", folder, "-c", file, "-e", "stderr"], folder)
    text = (HERE / "nginx" / f"{template}.conf").read_text("utf-8")
    # Started by root, its workers would become a user who cannot write into our folder.
    own = {"PORT": str(server.port), "USER": "user root;" if os.geteuid() == 0 else ""}
    for name, value in (values | own).items():
        text = text.replace(f"@{name}@", value.removeprefix("http://"))
    file.write_text(text, "utf-8")
    return server


@dataclass(frozen=True)
class Helpers:
    """What every proxy needs: an auth service, and Redis."""

    auth: Web
    redis: Redis


def this_proxy(
    folder: Path, upstream: str, helped_by: Helpers, workers: int, **settings: str
) -> Proxy:
    """The proxy by its command for production, everything on."""
    own = {
        "MLFLOW_SERVER_URL": upstream,
        "HOKUSAI_AUTH_SERVICE_URL": helped_by.auth.url,
        "REDIS_URL": helped_by.redis.url,
        "WEB_CONCURRENCY": str(workers),
        "REDIS_TIMEOUT": "5",  # a machine that is busy for a moment is not an outage
        "GRACEFUL_TIMEOUT": "2",
    }
    return Proxy(folder, own | settings)


def fastapi_proxy(
    folder: Path, upstream: str, helped_by: Helpers, workers: int, pooled: str
) -> Web:
    """benchmarks/peers/fastapi_httpx.py under uvicorn."""
    command: list[object] = [BENCH.python, "-m", "uvicorn", "fastapi_httpx:app", "--no-access-log"]
    command += ["--app-dir", HERE / "peers", "--log-level", "warning"]
    command += ["--host", HOST, "--port", "PORT", "--workers", workers]
    urls = {"UPSTREAM": upstream, "AUTH": helped_by.auth.url, "REDIS": helped_by.redis.url}
    return Web("fastapi", command, folder, POOLED=pooled, **urls)


class StockMLflow(Web):
    """`mlflow server` as users run it: by default four workers and a keep-alive of 5 s."""

    patience = 180.0
    environment_of: Environment = MLFLOW_SERVER
    options: tuple[str, ...] = ()

    def __init__(self, folder: Path, artifacts: Path | None = None, **environment: str) -> None:
        store = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
        store += ["--artifacts-destination", str(artifacts or folder / "artifacts")]
        program = self.environment_of.folder / "bin" / "mlflow"
        command = [program, "server", *store, "--host", HOST, "--port", "PORT", *self.options]
        super().__init__("mlflow", command, folder, MLFLOW_DISABLE_TELEMETRY="true", **environment)


class BasicAuthMLflow(StockMLflow):
    """The same with MLflow's own users and passwords."""

    environment_of = BASIC_AUTH_SERVER
    options: tuple[str, ...] = ("--app-name", "basic-auth")

    def __init__(self, folder: Path) -> None:
        """The settings are MLflow's defaults but for the place of the users."""
        self.password = f"hk_test_{secrets.token_hex(8)}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "basic_auth.ini").write_text(
            "[mlflow]\n"
            "default_permission = READ\n"
            f"database_uri = sqlite:///{folder / 'users.db'}\n"
            "admin_username = admin\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
            "utf-8",
        )
        own = {
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            # The idle job runners of two servers would take a whole core from everybody.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        super().__init__(folder, None, **own)
