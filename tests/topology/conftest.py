"""The composed stack from native processes: nginx, two proxies, auth service, Redis, MLflow."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devstack.nginx import Nginx
from devstack.proxy import Proxy
from devstack.server import Running
from tests.conftest import SHARED_PROXY
from tests.nginx import require_nginx
from tests.pipeline.conftest import connect, pyfunc

__all__ = ["connect", "pyfunc"]


@dataclass(frozen=True)
class Topology:
    """What stands: nginx, and the proxies behind it by group."""

    nginx: Nginx
    proxies: dict[str, Proxy]

    def asked(self, text: str) -> list[str]:
        """The groups in whose log this stands."""
        return [group for group, one in self.proxies.items() if text in one.log.read_text()]


@pytest.fixture(scope="session")
def topology(
    servers: Path, auth_service: Any, redis_url: str, mlflow_server: Any
) -> Iterator[Topology]:
    """One proxy in each group, as in compose.yaml."""
    require_nginx()
    settings = {
        "MLFLOW_SERVER_URL": mlflow_server.url,
        "HOKUSAI_AUTH_SERVICE_URL": auth_service.url,
        "REDIS_URL": redis_url,
        "TRUSTED_PROXY_HOPS": "1",
        "KEEPALIVE": "960",
        "AUTH_CACHE_SECRET": "the same for both",
    }
    proxies = {
        group: Proxy(
            servers / f"topology-{group}", SHARED_PROXY | settings | {"WEB_CONCURRENCY": "1"}
        )
        for group in ("blue", "green")
    }
    addresses = {group: [one.url.removeprefix("http://")] for group, one in proxies.items()}
    nginx = Nginx(servers / "topology-nginx", addresses)
    with Running() as running:
        running.start(nginx, *proxies.values())
        yield Topology(nginx, proxies)
