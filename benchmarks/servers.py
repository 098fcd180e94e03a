"""The servers that are compared, and those behind them; each a child process with its log."""

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import tools
from devstack.environments import BASIC_AUTH_SERVER, BENCH, MLFLOW_SERVER, ROOT, Environment
from devstack.ports import HOST, free_port
from devstack.proxy import Proxy
from devstack.server import Server

TEMPLATES = Path(__file__).parent / "nginx"

#: As users run it: four workers and uvicorn's keep-alive of 5 s, both by default.
STOCK_WORKERS = 4


class Web(Server):
    """A server on a free port that is ready when /health is 200."""

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """`PORT` in the command becomes the port."""
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        ours = [part.replace("PORT", str(self.port)) for part in command]
        super().__init__(ours, folder, environment)


class Fake(Web):
    """benchmarks/fakes.py: an auth service that takes any key; artifacts out of nothing."""

    name = "fake"
    in_repository = True

    def __init__(self, folder: Path) -> None:
        super().__init__([sys.executable, "-m", "benchmarks.fakes", "PORT"], folder)


class Nginx(Web):
    """nginx in the foreground, with one of the templates in benchmarks/nginx/."""

    name = "nginx"

    def __init__(self, folder: Path, template: str, workers: int, **values: str) -> None:
        """`values` replace `@NAME@` in the template; addresses lose their scheme there."""
        self._text = (TEMPLATES / f"{template}.conf").read_text(encoding="utf-8")
        # Started by root, its workers would become a user who cannot write into our folder.
        user = "user root;" if os.geteuid() == 0 else ""
        self._values = {"WORKERS": str(workers), "USER": user} | {
            name: value.removeprefix("http://") for name, value in values.items()
        }
        own = ["-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
        super().__init__([tools.need("nginx"), *own], folder)

    def start(self) -> None:
        """Writes the configuration, then starts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = self._text
        for name, value in (self._values | {"PORT": str(self.port)}).items():
            text = text.replace(f"@{name}@", value)
        (self.folder / "nginx.conf").write_text(text, encoding="utf-8")
        super().start()


class FastAPIProxy(Web):
    """benchmarks/peers/fastapi_httpx.py under uvicorn."""

    name = "fastapi"

    def __init__(
        self, folder: Path, upstream: str, auth: str, redis: str, workers: int, pooled: bool
    ) -> None:
        command = [str(BENCH.python), "-m", "uvicorn", "fastapi_httpx:app", "--no-access-log"]
        command += ["--app-dir", str(ROOT / "benchmarks" / "peers"), "--log-level", "warning"]
        command += ["--host", HOST, "--port", "PORT", "--workers", str(workers)]
        settings = {"UPSTREAM": upstream, "AUTH": auth, "REDIS": redis}
        super().__init__(command, folder, settings | {"POOLED": "yes" if pooled else ""})


class StockMLflow(Web):
    """`mlflow server` as users run it; only where it keeps its things is ours."""

    name = "mlflow"
    patience = 180.0
    environment_of: Environment = MLFLOW_SERVER
    options: tuple[str, ...] = ()

    def __init__(
        self, folder: Path, artifacts: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        """`settings` are environment variables beside those that switch telemetry off."""
        program = str(self.environment_of.folder / "bin" / "mlflow")
        store = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
        store += ["--artifacts-destination", str(artifacts or folder / "artifacts")]
        command = [program, "server", *store, "--host", HOST, "--port", "PORT", *self.options]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true"}
        super().__init__(command, folder, quiet | dict(settings or {}))


class BasicAuthMLflow(StockMLflow):
    """The same with MLflow's own users and passwords."""

    name = "mlflow basic-auth"
    environment_of = BASIC_AUTH_SERVER
    options: tuple[str, ...] = ("--app-name", "basic-auth")

    def __init__(self, folder: Path) -> None:
        self.password = f"hk_test_{secrets.token_hex(8)}"
        self._settings = folder / "basic_auth.ini"
        own = {
            "MLFLOW_AUTH_CONFIG_PATH": str(self._settings),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            # Two servers' idle job runners would take a whole core from everybody.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        super().__init__(folder, settings=own)

    def start(self) -> None:
        """Writes its settings, the defaults but for the place of the users, then starts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [
            "[mlflow]",
            "default_permission = READ",
            f"database_uri = sqlite:///{self.folder / 'users.db'}",
            "admin_username = admin",
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
        ]
        self._settings.write_text("\n".join((*lines, "")), encoding="utf-8")
        super().start()


def this_proxy(
    folder: Path, upstream: str, auth: str, redis: str, workers: int, **settings: str
) -> Proxy:
    """The proxy by its command for production, everything on."""
    own = {
        "MLFLOW_SERVER_URL": upstream,
        "HOKUSAI_AUTH_SERVICE_URL": auth,
        "REDIS_URL": redis,
        "WEB_CONCURRENCY": str(workers),
        "REDIS_TIMEOUT": "5",  # a machine that is busy for a moment is not an outage
        "GRACEFUL_TIMEOUT": "2",
    }
    return Proxy(folder, own | settings)
