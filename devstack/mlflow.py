"""A real MLflow server, as small as it can be: SQLite, local artifacts, one worker."""

from pathlib import Path

from devstack.environments import MLFLOW_SERVER
from devstack.ports import HOST, free_port
from devstack.server import Server


class MLflow(Server):
    """`mlflow server` with everything it keeps in one folder."""

    name = "mlflow"
    patience = 90.0  # 8 s; far longer on a busy machine that reads its files for the first time

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.artifacts = folder / "artifacts"
        command = [str(MLFLOW_SERVER.folder / "bin" / "mlflow"), "server"]
        command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self.artifacts)]
        command += ["--host", HOST, "--port", str(self.port), "--workers", "1"]
        # Raised from 5 s, as it should be behind any proxy.
        command += ["--uvicorn-opts", "--timeout-keep-alive 75"]
        super().__init__(command, folder, _ENVIRONMENT)


# Without job execution MLflow starts in 8 s instead of 21, and with 2 processes instead of 16.
_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
