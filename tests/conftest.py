"""What all tests share: a clean environment, loopback only, and the real servers.

The servers live as long as the session, each on a free port with a folder of its
own, so two test runs side by side do not meet. Each worker has its own, save MLflow, which
all share. A test that breaks or reconfigures one starts its own: `start_proxy`, `start_redis`.
"""

import gc
import ipaddress
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.server import instance
from config import Settings
from devstack.auth import AuthService
from devstack.auth_service import revocation
from devstack.auth_service.keys import Grant, KeyStore
from devstack.environments import BASIC_AUTH_SERVER, MLFLOW_SERVER, ROOT, is_whole
from devstack.mlflow import MLflow
from devstack.proxy import Proxy
from devstack.redis import Redis
from devstack.server import Running
from tests.parallel import Room, SharedMLflow, TimedApart, list_timed_tests, slow_files_first

DEVELOPERS_ENVIRONMENT = dict(os.environ)
KEPT = {"CI", "COLUMNS", "FORCE_COLOR", "LANG", "NO_COLOR", "PATH", "TERM", "TMPDIR", "TZ"}
KEPT_PREFIXES = ("LC_", "PYTEST", "PY_COLORS")
SHARED = pytest.StashKey[Path]()  # the folder that all processes of this run share
ROOM = pytest.StashKey[Room]()
MLFLOW = pytest.StashKey[SharedMLflow]()
SHARED_PROXY = {
    "WEB_CONCURRENCY": "2",
    "GRACEFUL_TIMEOUT": "2",
    "REDIS_TIMEOUT": "5",  # a machine that is busy for a moment is not an outage
    "AUTH_TIMEOUT": "20",  # likewise
    "AUTH_FAILURE_LIMIT": "1000000",  # all tests come from one address
    "MLFLOW_WORKSPACES": "off",  # fakes count what they are asked
}


# --- a clean environment -------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Hide the developer's settings, credentials and home folder from tests and servers.

    The first process hands to its workers what it has hidden, and the folder that all share.
    """
    gc.disable()  # until the tests are collected: a fifth of the time, for nothing
    told = getattr(config, "workerinput", {})
    DEVELOPERS_ENVIRONMENT.update(told.get("developers_environment", {}))
    for name in list(os.environ):
        if name not in KEPT and not name.startswith(KEPT_PREFIXES):
            del os.environ[name]
    os.environ["HOME"] = tempfile.mkdtemp(prefix="home-")
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    config.stash[SHARED] = Path(told.get("shared") or tempfile.mkdtemp(prefix="tests-"))
    config.stash[ROOM] = Room(config.stash[SHARED])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A worker is about to start."""
    node.workerinput["developers_environment"] = DEVELOPERS_ENVIRONMENT
    node.workerinput["shared"] = str(node.config.stash[SHARED])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folders again."""
    config.stash[ROOM].close()
    shutil.rmtree(os.environ["HOME"], ignore_errors=True)
    if not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[SHARED], ignore_errors=True)
        _remove_instance_folders()


def _remove_instance_folders() -> None:
    """Remove what killed proxies have left: a new instance does."""
    environ: dict[str, str] = {}
    instance.prepare(Settings(), environ)
    instance.forget(environ)


def pytest_sessionstart() -> None:
    """From here on this process connects to this machine only, and tidies up when told to end."""
    sys.addaudithook(_refuse_the_internet)
    signal.signal(signal.SIGTERM, _end_in_order)


def _end_in_order(signum: int, frame: FrameType | None) -> None:
    pytest.exit("SIGTERM", returncode=128 + signum)


def _refuse_the_internet(event: str, arguments: tuple[Any, ...]) -> None:
    """Fail the test, in a way that no `except Exception` hides."""
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        if isinstance(address, tuple) and not _is_loopback(address[0]):
            pytest.fail(f"a test tried to reach {address[0]}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- the order, and who is alone -----------------------------------------------------------


@pytest.hookimpl(trylast=True)  # after -m and -k have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The slow ones first."""
    slow_files_first(items)
    list_timed_tests(items, config.stash[SHARED])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TimedApart:
    """Timed tests one by one."""
    return TimedApart(config, log, config.stash[SHARED])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Wait for the room before any test's time runs."""
    with item.config.stash[ROOM].entered(alone=item.get_closest_marker("timing") is not None):
        return (yield)


@pytest.fixture
def alone(request: pytest.FixtureRequest) -> Callable[[], AbstractContextManager[None]]:
    """`with alone():` no other test runs meanwhile. Begin it before the load that is measured."""
    return request.config.stash[ROOM].alone


# --- MLflow --------------------------------------------------------------------------------


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make MLflow's environment before any test's time runs; it can take a minute.

    MLflow needs 8 s: it begins while the tests that do without it run.
    """
    gc.freeze()  # what was collected stays
    gc.enable()
    if session.config.option.collectonly:
        return
    if _needed(session, "mlflow_python"):
        _make_mlflow_environment()
    if _needed(session, "basic_auth_environment"):
        _make_basic_auth_environment()
    if _needed(session, "mlflow_server"):
        _the_mlflow(session.config)


def _the_mlflow(config: pytest.Config) -> MLflow:
    if MLFLOW not in config.stash:
        config.stash[MLFLOW] = SharedMLflow(config.stash[SHARED])
    return config.stash[MLFLOW].server


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End MLflow, when no other process uses it any more."""
    if shared := session.config.stash.get(MLFLOW, None):
        shared.leave()


def _needed(session: pytest.Session, fixture: str) -> bool:
    return any(fixture in getattr(item, "fixturenames", ()) for item in session.items)


def _make_mlflow_environment() -> None:
    if not is_whole(MLFLOW_SERVER):
        command = [sys.executable, "-m", "devstack.environments", "mlflow-server"]
        subprocess.run(command, cwd=ROOT, env=DEVELOPERS_ENVIRONMENT, check=True)


def _make_basic_auth_environment() -> bool:
    command = [sys.executable, "-m", "devstack.environments", "basic-auth-server"]
    made = subprocess.run(command, cwd=ROOT, env=DEVELOPERS_ENVIRONMENT, check=False)
    return made.returncode == 0


@pytest.fixture(scope="session")
def basic_auth_environment() -> None:
    """An environment for MLflow with users of its own. Skips where none can be made."""
    if not is_whole(BASIC_AUTH_SERVER) and not _make_basic_auth_environment():
        pytest.skip("MLflow with basic-auth cannot be installed here")


@pytest.fixture(scope="session")
def mlflow_python() -> Path:
    """The interpreter of the environment in which the whole MLflow is installed."""
    _make_mlflow_environment()
    return MLFLOW_SERVER.python


@pytest.fixture(scope="session")
def mlflow_server(mlflow_python: Path, request: pytest.FixtureRequest) -> MLflow:
    """A real MLflow, the same for all tests: `.url`, `.folder`, `.artifacts`, `.log`."""
    server = _the_mlflow(request.config)
    server.wait_until_ready()
    return server


# --- Redis ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's servers keep their data and logs."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def redis_server(servers: Path) -> Iterator[Any]:
    """A fresh Redis, or the one that REDIS_URL names: `.url`, `.port`."""
    if url := DEVELOPERS_ENVIRONMENT.get("REDIS_URL"):
        yield SimpleNamespace(url=url, port=urlsplit(url).port)
        return
    with Running() as running:
        yield running.start(Redis(servers / "redis"))


@pytest.fixture(scope="session")
def redis_url(redis_server: Any) -> str:
    """The address of the session's Redis."""
    return str(redis_server.url)


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[[], Redis]]:
    """Start a Redis of the test's own, to be stopped and started as it likes."""
    numbers = count()
    with Running() as running:
        yield lambda: running.start(Redis(tmp_path / f"redis-{next(numbers)}"))


# --- the auth service ----------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """An API key, and the id under which logs and revocations know it."""

    key: str
    key_id: str


class KeyedAuthService(AuthService):
    """The auth service; keys are made and revoked beside it in the same file, in a millisecond."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        super().__init__(folder, database=folder / "keys.db")
        self.redis_url = redis_url
        self.store = KeyStore(self.database)

    def create_key(
        self,
        user: str = "ann",
        scopes: tuple[str, ...] | list[str] = ("read", "write"),
        limit: int | None = None,
        admin: bool = False,
        allow_ip: str | None = None,
        expires_in: int | None = None,
    ) -> Key:
        """A new key; `limit` is in requests per hour, `allow_ip` an address or a network,
        `expires_in` in seconds."""
        networks = (ipaddress.ip_network(allow_ip),) if allow_ip else ()
        grant = Grant(
            user_id=user,
            scopes=tuple(scopes),
            rate_limit_per_hour=limit,
            is_admin=admin,
            allowed_networks=networks,
            expires_at=None if expires_in is None else int(time.time()) + expires_in,
        )
        secret, key = self.store.create(grant, test=True)
        return Key(secret, key.key_id)

    def change(self, key_id: str, **changes: Any) -> None:
        """Change what a key is granted, by the names of Grant, without an announcement."""
        key = self.store.find_by_id(key_id)
        assert key is not None
        self.store.change(key_id, replace(key.grant, **changes))

    def revoke(self, key_id: str) -> None:
        """End a key, and announce it, as the command does."""
        self.store.revoke(key_id)
        revocation.announce(self.redis_url, key_id)


@pytest.fixture(scope="session")
def auth_service(servers: Path, redis_url: str) -> Iterator[KeyedAuthService]:
    """A running auth service: `.url`, `.create_key(…)`, `.revoke(key_id)`."""
    with Running() as running:
        yield running.start(KeyedAuthService(servers / "auth", redis_url))


# --- the proxy -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def proxy(
    servers: Path, auth_service: KeyedAuthService, redis_url: str, mlflow_server: MLflow
) -> Iterator[Proxy]:
    """The proxy in front of the session's servers: `.url`, `.api`, `.pid`, `.log_lines()`."""
    upstreams = {
        "MLFLOW_SERVER_URL": mlflow_server.url,
        "HOKUSAI_AUTH_SERVICE_URL": auth_service.url,
        "REDIS_URL": redis_url,
    }
    with Running(kill=True) as running:  # a graceful end takes a second
        yield running.start(Proxy(servers / "proxy", SHARED_PROXY | upstreams))


@pytest.fixture
def start_proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Proxy]]:
    """Start a proxy with other settings: `start_proxy(MLFLOW_SERVER_URL=url, CIRCUIT_FAIL_MAX=2)`.

    What is not given comes from the session's servers; None leaves a variable unset. It returns
    when /health is 200, whether or not the upstreams are there; ServerFailed when it never is.
    """
    numbers = count()

    def start(**settings: object) -> Proxy:
        chosen = SHARED_PROXY | _upstreams(request, settings) | settings
        environment = {name: str(value) for name, value in chosen.items() if value is not None}
        folder = tmp_path / f"proxy-{next(numbers)}"
        return running.start(Proxy(folder, environment, ready="/health"))

    with Running(kill=True) as running:
        yield start


def _upstreams(request: pytest.FixtureRequest, settings: dict[str, object]) -> dict[str, str]:
    """The session's servers for what `settings` leave out; the others need not start."""
    fixtures = {
        "MLFLOW_SERVER_URL": "mlflow_server",
        "HOKUSAI_AUTH_SERVICE_URL": "auth_service",
        "REDIS_URL": "redis_server",
    }
    missing = fixtures.keys() - settings.keys()
    return {name: request.getfixturevalue(fixtures[name]).url for name in missing}
