"""Who is compared, and the servers for that. Each contestant is a way to the same upstream."""

import os
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks import fakes
from benchmarks.bench import Bench
from benchmarks.machine import need, on_cores
from benchmarks.processes import family
from benchmarks.results import Results
from benchmarks.wrk import Load
from devstack.environments import BENCH
from devstack.ports import HOST, free_port
from devstack.proxy import Proxy
from devstack.redis import Redis
from devstack.server import Server

HERE = Path(__file__).parent

#: The one key of all loads that do not need several; the fake auth service takes any.
KEY = "hk_test_bench"

DIRECT = "direct"
PROXY = "this proxy"
NGINX = "nginx"
POOLED = "FastAPI, pooled"
PER_REQUEST = "FastAPI, per request"
BASIC_AUTH = "basic-auth"

PEERS = (NGINX, POOLED, PER_REQUEST)

#: What each is, for the reader of the tables; in the order of the columns.
EXPLAINED = {
    DIRECT: "no proxy",
    PROXY: "as in production, everything on",
    NGINX: "`auth_request` (its answers cached) and `limit_req`, one log line a request",
    POOLED: "FastAPI and one httpx client; the same features",
    PER_REQUEST: "the same with a new httpx client for each request",
    BASIC_AUTH: "`mlflow server --app-name basic-auth`, asked directly",
}


@dataclass(frozen=True)
class Contestant:
    """A way to the upstream. MLflow's paths are appended to `url`; `sdk` are the variables that
    give MLflow's SDK the same credentials as `headers`; `pids` are the measured processes."""

    url: str
    headers: Mapping[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {KEY}"})
    sdk: Mapping[str, str] = field(default_factory=lambda: {"MLFLOW_TRACKING_TOKEN": KEY})
    pids: Callable[[], list[int]] = list

    def search(self, connections: int, keys: int = 0) -> Load:
        """experiments/search as MLflow's client sends it; with `keys`, spread over so many."""
        headers = {**self.headers, "Content-Type": "application/json"}
        url = f"{self.url}/api/2.0/mlflow/experiments/search"
        return Load(url, connections, '{"max_results": 100}', headers, keys)


Ways = dict[str, Contestant]


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


class Contest:
    """The running servers of a part: a fake auth service and Redis, and the contestants."""

    def __init__(self, bench: Bench) -> None:
        """Start the fake auth service, which makes artifacts out of nothing too, and Redis."""
        self._bench = bench
        self.redis = Redis(bench.folder / "redis")
        command = [sys.executable, fakes.__file__, "PORT"]
        self.fake = Web("fake", command, bench.folder / "fake")
        self._behind: list[Server] = [self.redis, self.fake]
        bench.running.start(*self._behind)

    def trivial_upstream(self) -> Web:
        """An MLflow that answers every request with the same experiments."""
        upstream = nginx(self._bench.folder / f"upstream-{len(self._behind)}", "trivial")
        self._behind.append(upstream)
        return self._bench.running.start(upstream)

    def behind(self) -> list[int]:
        """The processes of all servers behind the contestants."""
        return [pid for server in self._behind for pid in family(server.pid)]

    def ways(
        self,
        upstream: str,
        names: Sequence[str],
        *,
        workers: int = 1,
        cores: Collection[int] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Ways:
        """The ways through these contestants, started on these cores. `settings` are added to
        those of this proxy."""
        servers = {
            name: self._server(name, upstream, str(workers), settings or {})
            for name in names
            if name != DIRECT
        }
        with on_cores(cores):
            self._bench.running.start(*servers.values())
        ways = {
            name: Contestant(f"{server.url}/api/mlflow", pids=partial(family, server.pid))
            for name, server in servers.items()
        }
        return ({DIRECT: Contestant(upstream)} if DIRECT in names else {}) | ways

    def _server(
        self, name: str, upstream: str, workers: str, settings: Mapping[str, str]
    ) -> Proxy | Web:
        folder = Path(tempfile.mkdtemp(dir=self._bench.folder))
        auth, redis = self.fake.url, self.redis.url
        if name == PROXY:
            own = {
                "MLFLOW_SERVER_URL": upstream,
                "HOKUSAI_AUTH_SERVICE_URL": auth,
                "REDIS_URL": redis,
                "WEB_CONCURRENCY": workers,
                "REDIS_TIMEOUT": "5",  # a machine that is busy for a moment is not an outage
                "GRACEFUL_TIMEOUT": "2",
            }
            return Proxy(folder, own | dict(settings))
        if name == NGINX:
            return nginx(folder, "auth_request", UPSTREAM=upstream, AUTH=auth, WORKERS=workers)
        command = [BENCH.python, "-m", "uvicorn", "fastapi_httpx:app", "--no-access-log"]
        command += ["--app-dir", HERE / "peers", "--log-level", "warning"]
        command += ["--host", HOST, "--port", "PORT", "--workers", workers]
        urls = {"UPSTREAM": upstream, "AUTH": auth, "REDIS": redis}
        return Web("fastapi", command, folder, POOLED="yes" if name == POOLED else "", **urls)


def measured_in(results: Results, *cases: str) -> list[str]:
    """The contestants of these cases, in the order of the columns."""
    measured = {name for case in cases for name in results.contestants(case)}
    return [name for name in EXPLAINED if name in measured]


def legend() -> str:
    """A line about each contestant."""
    return "\n".join(f"- **{name}**: {what}" for name, what in EXPLAINED.items())
