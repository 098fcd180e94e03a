"""The stage for drills inside the test run: on the session's servers, one for each module."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from devstack.environments import CLIENTS, INSTALLER_LOCK, ROOT, is_whole
from tests.conftest import DEVELOPERS_ENVIRONMENT
from tests.drills.stage import Stage
from tests.fault_proxy import FaultProxy
from tests.upstreams import Upstream, eventually


@pytest.fixture(scope="module")
def stage(
    request: pytest.FixtureRequest,
    auth_service: Any,
    redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    """Proxies on the session's Redis and auth service; MLflow only if it is asked for."""

    def new_key(limit: int | None) -> tuple[str, str]:
        key = auth_service.create_key(scopes=["admin"], limit=limit)
        return key.key, key.key_id

    stage = Stage(
        tmp_path_factory.mktemp("stage"),
        redis_url,
        auth_service.url,
        new_key,
        lambda: request.getfixturevalue("mlflow_server"),
        print,
    )
    yield stage
    stage.clear()


@pytest.fixture(scope="module")
def _fake() -> Iterator[Upstream]:
    with Upstream() as fake:
        yield fake


@pytest.fixture(scope="module")
def _faults(_fake: Upstream) -> Iterator[FaultProxy]:
    with FaultProxy(_fake.port) as faults:
        yield faults


@pytest.fixture
def fake(_fake: Upstream) -> Iterator[Upstream]:
    """A fake MLflow with nothing recorded; it answers 200 until told otherwise."""
    _fake.forget()
    yield _fake
    eventually(lambda: not _still_asked(_fake), "the end of all connections")


def _still_asked(fake: Upstream) -> bool:
    """Whether anybody is connected; whoever is has to go, also who came a moment ago."""
    fake.drop_connections()
    return fake.open_connections > 0


@pytest.fixture
def faults(_faults: FaultProxy, fake: Upstream) -> Iterator[FaultProxy]:
    """What breaks things between the proxy and the fake MLflow."""
    yield _faults
    _faults.heal()


@pytest.fixture(scope="module")
def key(stage: Stage) -> str:
    """A key that may do everything."""
    return stage.key()


# --- MLflow's clients ----------------------------------------------------------------------------


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the environments before any test's time runs, as MLflow's is made."""
    needed = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if session.config.option.collectonly:
        return
    if "client_environments" in needed:
        _make_client_environments()


def _make_client_environments() -> bool:
    """Whether all are there, after a try to make those that are missing; it says how far it is."""
    missing = [f"client-{version}" for version, made in CLIENTS.items() if not is_whole(made)]
    return not missing or _run("-m", "devstack.environments", *missing).returncode == 0


def _run(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=DEVELOPERS_ENVIRONMENT, check=False)


@pytest.fixture(scope="session")
def client_environments(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The environments of MLflow's clients. Skips only where no registry can be reached."""
    if all(is_whole(made) for made in CLIENTS.values()):
        return
    folder = str(tmp_path_factory.mktemp("download"))
    fetch = ["download", "-q", "--no-deps", "--no-cache-dir", "--require-hashes", "-d", folder]
    if _run("-m", "pip", *fetch, "-r", str(INSTALLER_LOCK)).returncode != 0:
        pytest.skip("MLflow's older clients are not installed, and no registry can be reached")
    assert _make_client_environments(), "the clients' environments cannot be made; see above"
