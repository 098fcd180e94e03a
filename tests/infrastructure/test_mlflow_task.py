"""MLflow's container command, run as it stands: it takes the Host that the proxy sends only."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from devstack.environments import MLFLOW_SERVER
from devstack.ports import HOST, free_port
from devstack.server import Server
from tests.infrastructure.deployment import INFRASTRUCTURE, Deployment, read
from tests.infrastructure.hcl import Module
from tests.wire import call

EXPERIMENTS = "/api/2.0/mlflow/experiments/search?max_results=1"


@cache
def module() -> Module:
    """The Terraform module; parsing takes a second."""
    return Module(INFRASTRUCTURE / "terraform", environment="development")


class Task(Server):
    """The command of the task definition; only what is not there on this machine is replaced."""

    name = "mlflow task"
    timeout = 90.0

    def __init__(self, folder: Path, deployment: Deployment) -> None:
        container = deployment.containers["mlflow"]
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        here = {
            "--host": HOST,
            "--port": str(self.port),
            "--workers": "1",
            "--artifacts-destination": str(folder / "artifacts"),
        }
        given = container["command"]
        command = [
            here.get(before, word) for before, word in zip(["", *given], given, strict=False)
        ]
        variables = {variable["name"]: variable["value"] for variable in container["environment"]}
        variables["HOME"] = str(folder)
        (secret,) = container["secrets"]
        variables[secret["name"]] = f"sqlite:///{folder / 'mlflow.db'}"
        program = MLFLOW_SERVER.folder / "bin" / command[0]
        super().__init__([str(program), *command[1:]], folder, variables)


@pytest.fixture(scope="module")
def task(mlflow_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Task]:
    server = Task(tmp_path_factory.mktemp("task"), read(module().resources()))
    server.start()
    server.wait_until_ready()
    yield server
    server.kill()


def host_of_the_proxy() -> str:
    """What the proxy sends as Host: the host and port of its MLFLOW_SERVER_URL."""
    url: str = module().local("mlflow_url")
    return urlsplit(url).netloc


def test_the_private_name() -> None:
    assert module().local("mlflow_url") == "http://mlflow.hokusai-development.local:5000"


@pytest.mark.slow
def test_mlflow_answers_the_host_that_the_proxy_sends(task: Task) -> None:
    assert call(task.url, "GET", EXPERIMENTS, f"Host: {host_of_the_proxy()}").status == 200


@pytest.mark.slow
def test_mlflow_answers_its_own_health_check(task: Task) -> None:
    assert call(task.url, "GET", "/health", "Host: 127.0.0.1:5000").status == 200


@pytest.mark.slow
def test_mlflow_refuses_another_host(task: Task) -> None:
    """So the test above would see a wrong --allowed-hosts."""
    assert call(task.url, "GET", EXPERIMENTS, "Host: registry.hokus.ai").status == 403


@pytest.mark.slow
def test_its_database_is_the_one_of_the_secret(task: Task) -> None:
    assert (task.folder / "mlflow.db").exists()
