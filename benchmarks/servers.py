"""The servers that are compared, and those behind them; each a child process with its log."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import fakes
from benchmarks.machine import need
from devstack.environments import BENCH
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
