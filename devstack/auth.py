"""The local auth service."""

import sys
from pathlib import Path

from devstack.ports import HOST, free_port
from devstack.server import Server


class AuthService(Server):
    """`python -m devstack.auth_service serve`, one quiet worker."""

    name = "auth service"
    in_repository = True

    def __init__(self, folder: Path, *, database: Path) -> None:
        """`database` is the SQLite file of the keys, created if absent."""
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.database = database
        command = [sys.executable, "-m", "devstack.auth_service", "serve"]
        command += ["--bind", f"{HOST}:{self.port}"]
        super().__init__(command, folder, {"AUTH_SERVICE_DATABASE": str(database)})
