"""A database, the commands, the running service, and a Redis that nobody else uses."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from devstack.auth_service.keys import KeyStore
from devstack.auth_service.service import create_app
from devstack.redis import Redis
from tests.devstack.auth_service.running import PROGRAM, WAIT_LIMIT, Service, environment

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Where a database may come into being; nothing is there yet."""
    return tmp_path / "auth" / "keys.db"


@pytest.fixture
def store(database: Path) -> KeyStore:
    """An empty store."""
    return KeyStore(database)


@pytest.fixture
def run(database: Path, tmp_path: Path) -> Run:
    """Run a command to its end: run("create", "--user", "ann"); keywords are its environment."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, *arguments],
            cwd=tmp_path,
            env=environment(database, **more),
            capture_output=True,
            text=True,
            timeout=WAIT_LIMIT,
            check=False,
        )

    return run


@pytest.fixture
def client(store: KeyStore) -> FlaskClient:
    """A client of the application in this process."""
    return create_app(store).test_client()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, running; shared, so each test makes keys of its own."""
    service = Service(tmp_path_factory.mktemp("service"))
    yield service
    service.stop()


@pytest.fixture
def keys(service: Service) -> KeyStore:
    """The store of the running service, opened from this process beside it."""
    return KeyStore(service.database)


@pytest.fixture
def own_redis(start_redis: Callable[[], Redis]) -> str:
    """The address of a Redis in which nobody else listens."""
    return start_redis().url
