"""The stage of a drill: real servers to start proxies on. `make drill` and the tests build one."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from devstack.auth import AuthService
from devstack.auth_service.keys import Grant, KeyStore
from devstack.mlflow import MLflow
from devstack.proxy import Proxy
from devstack.redis import Redis

#: While it lasts, nothing else runs on this machine that could be held back.
Quiet = Callable[[], AbstractContextManager[None]]


@dataclass
class Stage:
    """Servers, and what a drill needs of them. `mlflow` starts a real MLflow at its first call."""

    folder: Path
    redis_url: str
    auth_url: str
    new_key: Callable[[int | None], tuple[str, str]]
    mlflow: Callable[[], MLflow]
    say: Callable[[str], None]
    started: list[Proxy] = field(default_factory=list)

    def key(self) -> str:
        """A new key that may do everything, without a limit."""
        return self.new_key(None)[0]

    def proxy(self, **settings: object) -> Proxy:
        """A proxy with these settings, one worker if not said otherwise; /health is 200."""
        return self.start(Proxy, settings)

    def start(self, kind: type[Proxy], settings: Mapping[str, object]) -> Proxy:
        """The same, of this kind of proxy."""
        chosen = {
            "WEB_CONCURRENCY": 1,
            "GRACEFUL_TIMEOUT": 2,
            "HOKUSAI_AUTH_SERVICE_URL": self.auth_url,
            "REDIS_URL": self.redis_url,
            "AUTH_FAILURE_LIMIT": 1_000_000,
            "MLFLOW_WORKSPACES": "off",  # fakes count what they are asked
        } | dict(settings)
        environment = {name: str(value) for name, value in chosen.items()}
        folder = Path(tempfile.mkdtemp(prefix="proxy-", dir=self.folder))
        server = kind(folder, environment, ready="/health")
        self.started.append(server)
        server.start()
        server.wait_until_ready()
        return server

    def clear(self) -> None:
        """Ends the proxies, at once: a graceful end takes each a second."""
        for server in self.started:
            server.kill()
        self.started.clear()


@contextmanager
def own_stage(say: Callable[[str], None]) -> Iterator[Stage]:
    """A stage with servers of its own, which end with it."""
    with ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="drills-")))
        redis = Redis(folder / "redis")
        database = folder / "auth" / "keys.db"
        auth = AuthService(folder / "auth", database=database)
        for server in (redis, auth):
            server.start()
            ends.callback(server.stop)
            server.wait_until_ready()
        store = KeyStore(auth.database)
        mlflow = _started_once(MLflow(folder / "mlflow"), ends, say)
        stage = Stage(folder, redis.url, auth.url, _new_key(store), mlflow, say)
        ends.callback(stage.clear)
        yield stage


def _new_key(store: KeyStore) -> Callable[[int | None], tuple[str, str]]:
    def new_key(limit: int | None) -> tuple[str, str]:
        grant = Grant(user_id="drill", scopes=("admin",), rate_limit_per_hour=limit)
        secret, key = store.create(grant, test=True)
        return secret, key.key_id

    return new_key


def _started_once(
    server: MLflow, ends: ExitStack, say: Callable[[str], None]
) -> Callable[[], MLflow]:
    def mlflow() -> MLflow:
        if not server.is_running():
            say("starting a real MLflow …")
            server.start()
            ends.callback(server.stop)
            server.wait_until_ready()
        return server

    return mlflow
