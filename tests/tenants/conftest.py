"""A real MLflow with workspaces, a proxy in front of it, and the keys of two tenants."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.mlflow import SMALL, WITHOUT_JOBS, MLflow
from devstack.proxy import Proxy
from devstack.server import Running
from tests.conftest import SHARED_PROXY, Key, KeyedAuthService
from tests.tenants.belongings import Belongings
from tests.tenants.tenant import Tenant

#: MLflow's options: small, with workspaces.
OPTIONS = ("--enable-workspaces", *SMALL)

#: MLflow's settings: without jobs, and language models may be on this machine.
SETTINGS = WITHOUT_JOBS | {
    "MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES": "http",
    "MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS": "true",
}

#: The proxy's settings: one worker, workspaces must be on.
PROXY = SHARED_PROXY | {"WEB_CONCURRENCY": "1", "MLFLOW_WORKSPACES": "on"}

#: The workspaces, and the users of their keys.
TENANTS = ("alpha", "beta")


@pytest.fixture(scope="session")
def tenants_mlflow(mlflow_python: Path, servers: Path) -> Iterator[MLflow]:
    """An MLflow that has `default` and the workspaces TENANTS: `.url`, `.artifacts`, `.log`."""
    with Running(kill=True) as running:
        mlflow = running.start(
            MLflow(servers / "tenants-mlflow", options=OPTIONS, settings=SETTINGS)
        )
        for name in TENANTS:
            create = urllib.request.Request(
                f"{mlflow.url}/api/3.0/mlflow/workspaces",
                json.dumps({"name": name}).encode(),
                {"Content-Type": "application/json"},
            )
            urllib.request.urlopen(create, timeout=60).close()
        yield mlflow


@pytest.fixture(scope="session")
def tenants_proxy(
    servers: Path, auth_service: KeyedAuthService, redis_url: str, tenants_mlflow: MLflow
) -> Iterator[Proxy]:
    """The proxy in front of it, MLFLOW_WORKSPACES=on, one worker."""
    settings = PROXY | {
        "MLFLOW_SERVER_URL": tenants_mlflow.url,
        "HOKUSAI_AUTH_SERVICE_URL": auth_service.url,
        "REDIS_URL": redis_url,
    }
    with Running(kill=True) as running:
        yield running.start(Proxy(servers / "tenants-proxy", settings))


@pytest.fixture(scope="session")
def tenants_keys(auth_service: KeyedAuthService) -> dict[str, Key]:
    """A key of each tenant that may read, write and delete in its own workspace."""
    return {
        name: auth_service.create_key(user=name, scopes=["write", f"workspace:{name}"])
        for name in TENANTS
    }


@pytest.fixture(scope="session")
def tenants_ids(
    tenants_mlflow: MLflow, tenants_proxy: Proxy, tenants_keys: dict[str, Key]
) -> dict[str, dict[str, str]]:
    """What both have: one of everything, by the names in belongings.py."""
    return {
        name: Belongings(Tenant(tenants_proxy.url, key.key), name, tenants_mlflow.artifacts).ids
        for name, key in tenants_keys.items()
    }
