"""A real MLflow server with everything it keeps in one folder: SQLite and local artifacts."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from devstack.environments import BASIC_AUTH_SERVER, MLFLOW_SERVER, ROOT, Environment
from devstack.ports import HOST, free_port
from devstack.server import Server

#: Without job execution MLflow starts in 8 s instead of 21, and with 2 processes instead of 16.
WITHOUT_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
#: The keep-alive is raised from 5 s, as it should be behind any proxy.
SMALL = ("--workers", "1", "--uvicorn-opts", "--timeout-keep-alive 75")
#: For `options`, too.
WITH_WORKSPACES = ("--enable-workspaces",)

#: What MLflow asks who calls, by default; and the folder of the module that believes the proxy.
PASSWORDS = "mlflow.server.auth:authenticate_request_basic_auth"
IDENTITY = ROOT / "infrastructure" / "mlflow"


class MLflow(Server):
    """`mlflow server`, by default as small as it can be; without `options` as users run it."""

    name = "mlflow"
    timeout = 180.0  # 8 s; far longer on a busy machine that reads its files for the first time

    def __init__(
        self,
        folder: Path,
        *,
        options: Sequence[str] = SMALL,
        settings: Mapping[str, str] = WITHOUT_JOBS,
        installed_in: Environment = MLFLOW_SERVER,
    ) -> None:
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.artifacts = folder / "artifacts"
        command = [str(installed_in.folder / "bin" / "mlflow"), "server"]
        command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self.artifacts)]
        command += ["--host", HOST, "--port", str(self.port), *options]
        super().__init__(command, folder, {"MLFLOW_DISABLE_TELEMETRY": "true", **settings})


class BasicAuthMLflow(MLflow):
    """The same with MLflow's own users and passwords: `admin` has `password`."""

    def __init__(
        self,
        folder: Path,
        *,
        options: Sequence[str] = (),
        settings: Mapping[str, str] = WITHOUT_JOBS,
        identity_secret: str = "",
    ) -> None:
        """The settings are MLflow's defaults except for the path of the users. With
        `identity_secret` MLflow believes whom the proxy signs, and nobody may do anything."""
        self.password = f"hk_test_{secrets.token_hex(8)}"
        folder.mkdir(parents=True, exist_ok=True)
        function = "hokusai_identity:authenticate" if identity_secret else PASSWORDS
        (folder / "basic_auth.ini").write_text(
            "[mlflow]\n"
            f"default_permission = {'NO_PERMISSIONS' if identity_secret else 'READ'}\n"
            f"database_uri = sqlite:///{folder / 'users.db'}\n"
            "admin_username = admin\n"
            f"authorization_function = {function}\n",
            "utf-8",
        )
        users = {
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            "MLFLOW_IDENTITY_SECRET": identity_secret,
            "PYTHONPATH": str(IDENTITY),
        }
        super().__init__(
            folder,
            options=("--app-name", "basic-auth", *options),
            settings={**settings, **users},
            installed_in=BASIC_AUTH_SERVER,
        )
