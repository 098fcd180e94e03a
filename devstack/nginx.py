"""nginx as the load balancer, with the configuration that infrastructure/ makes for it."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from devstack.ports import HOST, free_port
from devstack.server import Server, answers
from infrastructure.nginx.configuration import ROUTES, render


class NginxMissing(Exception):
    """nginx is not installed."""


class Nginx(Server):
    """nginx before two groups of proxies, blue and green; both serve until one is taken out."""

    name = "nginx"
    timeout = 10.0

    def __init__(self, folder: Path, proxies: Mapping[str, Sequence[str]]) -> None:
        """`proxies` are the addresses (host:port) of each group. Raises NginxMissing."""
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.api = f"{self.url}/api/mlflow"
        folder.mkdir(parents=True, exist_ok=True)
        contract = json.loads(ROUTES.read_text("utf-8"))
        listen = f"{HOST}:{self.port}"
        self.configuration = folder / "nginx.conf"
        self.configuration.write_text(render(contract, proxies, listen, str(folder)), "utf-8")
        command = [find_nginx(), "-p", str(folder), "-c", str(self.configuration)]
        super().__init__([*command, "-g", "daemon off; master_process off;"], folder)
        self._route = contract["proxy"]["live_path"]

    def is_ready(self) -> bool:
        """Whether it forwards a request."""
        return answers(f"http://localhost:{self.port}{self._route}")

    def take_out(self, group: str) -> None:
        """Send this group no new requests."""
        (self.folder / f"out-{group}").touch()

    def put_in(self, group: str) -> None:
        """Send this group requests again."""
        (self.folder / f"out-{group}").unlink(missing_ok=True)


def find_nginx() -> str:
    """Return the path of nginx; Debian keeps it off a user's PATH. Raises NginxMissing."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/local/sbin:/usr/sbin:/sbin")
    if found is None:
        raise NginxMissing("nginx is not installed; on Debian: apt install nginx-light")
    return found
