"""The local auth service."""

import secrets
import sys
from pathlib import Path

from devstack.ports import HOST, free_port
from devstack.server import Server


class AuthService(Server):
    """`python -m devstack.auth_service serve`, one quiet worker."""

    name = "auth service"
    in_repository = True

    def __init__(self, folder: Path, *, database: Path) -> None:
        """`database` is the SQLite file of the keys, created if absent. `lookup_token` is what a
        proxy shows to look up keys (AUTH_LOOKUP_TOKEN)."""
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.database = database
        self.lookup_token = secrets.token_hex(16)
        command = [sys.executable, "-m", "devstack.auth_service", "serve"]
        command += ["--bind", f"{HOST}:{self.port}"]
        environment = {
            "AUTH_SERVICE_DATABASE": str(database),
            "AUTH_SERVICE_LOOKUP_TOKEN": self.lookup_token,
        }
        super().__init__(command, folder, environment)
