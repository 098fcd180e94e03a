"""Each server before a real proxy, and before a bare socket; once for all rows of the table."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from devstack.environments import FRONTS, ROOT, is_whole
from devstack.proxy import Proxy
from tests.conftest import DEVELOPERS_ENVIRONMENT, SHARED_PROXY
from tests.fronts.servers import KINDS, MINIMAL, RECOMMENDED, Front, FrontMissing
from tests.upstreams import Answer, Upstream, pause, send, sized
from tests.wire import Wire, request

#: Seconds that the bare server takes for one answer: more than Envoy's 15.
SLOW = 17


@dataclass
class Stage:
    """A server before the proxy (`front`), whose MLflow is `fake`; and one before `bare`."""

    name: str
    front: Front
    beside: Front
    fake: Upstream
    bare: Upstream
    key: str


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the environment before any test's time runs."""
    needed = any("fronts" in getattr(item, "fixturenames", ()) for item in session.items)
    if needed and not session.config.option.collectonly:
        _make_environment()


def _make_environment() -> None:
    """Fetches the servers that the registry has; where it has none, their tests are skipped."""
    if not is_whole(FRONTS):
        command = [sys.executable, "-m", "devstack.environments", "fronts"]
        subprocess.run(command, cwd=ROOT, env=DEVELOPERS_ENVIRONMENT, check=False)


@pytest.fixture(scope="session")
def fronts() -> None:
    """The environment with servers from the registry, made before the first test."""


@pytest.fixture(scope="module")
def fake() -> Iterator[Upstream]:
    """In MLflow's place."""
    with Upstream() as fake:
        yield fake


@pytest.fixture(scope="module")
def proxy_behind(
    servers: Path, auth_service: Any, redis_url: str, fake: Upstream
) -> Iterator[Proxy]:
    """The proxy behind all fronts: one hop is trusted."""
    settings = SHARED_PROXY | {
        "MLFLOW_SERVER_URL": fake.url,
        "HOKUSAI_AUTH_SERVICE_URL": auth_service.url,
        "REDIS_URL": redis_url,
        "TRUSTED_PROXY_HOPS": "1",
        "WEB_CONCURRENCY": "1",
    }
    server = Proxy(servers / "behind-fronts", settings, ready="/health")
    server.start()
    server.wait_until_ready()
    yield server
    server.kill()


def without(missing: FrontMissing) -> NoReturn:
    """Skips, or fails under REQUIRE_FRONTS=1."""
    if DEVELOPERS_ENVIRONMENT.get("REQUIRE_FRONTS") == "1":
        pytest.fail(f"REQUIRE_FRONTS=1, and {missing}")
    pytest.skip(str(missing))


class Stages:
    """Builds a stage for each server and configuration when it is first wanted. The slow requests
    of all of them run at the same time, from the beginning."""

    def __init__(self, folder: Path, proxy: Proxy, fake: Upstream, key: str) -> None:
        self.folder, self.proxy, self.fake, self.key = folder, proxy, fake, key
        self.open: dict[tuple[str, Path], Stage] = {}
        self.upstreams: list[Upstream] = []
        self.started: list[Front] = []
        self.pool = ThreadPoolExecutor(2 * len(KINDS))
        self.slow = {
            (name, configuration): self.pool.submit(self._slow, name, configuration)
            for name in KINDS
            for configuration in (RECOMMENDED, MINIMAL)
            if (configuration / KINDS[name].files[0]).exists()
        }

    def passes_slow_answers(self, name: str, configuration: Path) -> bool:
        """Whether a client gets an answer that took `SLOW` seconds; skips as `of` does."""
        self.of(name, configuration)
        return self.slow[name, configuration].result() == 200

    def of(self, name: str, configuration: Path) -> Stage:
        """The stage; skips the test where the server is missing."""
        wanted = (name, configuration)
        if wanted not in self.open:
            try:
                self.open[wanted] = self._built(*wanted)
            except FrontMissing as missing:
                without(missing)
        return self.open[wanted]

    def close(self) -> None:
        """Ends all."""
        self.pool.shutdown(cancel_futures=True)
        for front in self.started:
            front.stop()
        for bare in self.upstreams:
            bare.__exit__()

    def _built(self, name: str, configuration: Path) -> Stage:
        bare = self._bare()
        front = self._started(name, configuration, self.proxy.port)
        beside = self._started(name, configuration, bare.port)
        return Stage(name, front, beside, self.fake, bare, self.key)

    def _bare(self) -> Upstream:
        bare = Upstream().__enter__()
        self.upstreams.append(bare)
        return bare

    def _started(self, name: str, configuration: Path, port: int, what: str = "") -> Front:
        folder = self.folder / f"{name}-{configuration.name}-{port}{what}"
        front = Front(name, folder, configuration, port)
        self.started.append(front)
        front.start()
        front.wait_until_ready()
        return front

    def _slow(self, name: str, configuration: Path) -> int:
        """The status of an answer that took long, 0 for none."""
        bare = self._bare()
        front = self._started(name, configuration, bare.port, "-slow")
        bare.answers(Answer(pause(SLOW), send(sized())))
        try:
            with Wire(front.url) as wire:
                wire.socket.settimeout(3 * SLOW)
                return wire.ask(request("GET", "/slow")).status
        finally:
            front.stop()


@pytest.fixture(scope="module")
def stages(
    fronts: None, servers: Path, proxy_behind: Proxy, fake: Upstream, auth_service: Any
) -> Iterator[Stages]:
    """All servers in front."""
    key = auth_service.create_key(scopes=["admin"]).key
    stages = Stages(servers / "fronts", proxy_behind, fake, key)
    yield stages
    stages.close()
