"""Who is compared: each a way to the same upstream, with what it costs in processes."""

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks import tools
from benchmarks.cores import Cores, on_cores
from benchmarks.meter import family
from benchmarks.servers import Fake, FastAPIProxy, Nginx, Web, this_proxy
from benchmarks.stage import Stage
from devstack.environments import BENCH, is_whole
from devstack.proxy import Proxy
from devstack.redis import Redis

#: The one key of all loads that do not need several; the fake auth service takes any.
KEY = "hk_test_bench"

DIRECT = "direct"
PROXY = "this proxy"
NGINX = "nginx"
POOLED = "FastAPI, pooled"
PER_REQUEST = "FastAPI, per request"
BASIC_AUTH = "basic-auth"

PEERS = (NGINX, POOLED, PER_REQUEST, BASIC_AUTH)

#: What each is, for those who read the tables.
EXPLAINED = {
    DIRECT: "no proxy: the load goes to the upstream itself",
    PROXY: "as in production: cached keys, a counted limit, log and metrics on",
    NGINX: "`auth_request` (its answers cached) and `limit_req`, one log line a request",
    POOLED: "FastAPI and one httpx client; key, limit, log and metrics as here",
    PER_REQUEST: "the same with a new httpx client for each request",
    BASIC_AUTH: "`mlflow server --app-name basic-auth`, asked directly",
}


@dataclass(frozen=True)
class Contestant:
    """A way to the upstream. MLflow's paths are appended to `url`; `fields` are header lines."""

    name: str
    url: str
    fields: tuple[str, ...] = (f"Authorization: Bearer {KEY}",)
    pids: Callable[[], list[int]] = field(default=list, compare=False)


@dataclass(frozen=True)
class Helpers:
    """What every contestant leans on: a fake auth service, and Redis."""

    fake: Fake
    redis: Redis


def helpers(stage: Stage, cores: Cores = None) -> Helpers:
    """Both, started."""
    both = Helpers(Fake(stage.folder / "fake"), Redis(stage.folder / "redis"))
    for server in (both.fake, both.redis):
        server.command = on_cores(server.command, cores)
    stage.start(both.fake, both.redis)
    return both


def ways_to(
    stage: Stage, upstream: str, help_from: Helpers, workers: int, cores: Cores = None
) -> tuple[list[Contestant], dict[str, str]]:
    """The direct way, this proxy and its peers, started; and who was left out, and why."""
    servers, skipped = _servers(stage, upstream, help_from, workers)
    for server in servers.values():
        server.command = on_cores(server.command, cores)
    stage.start(*servers.values())
    ways = [through(name, server) for name, server in servers.items()]
    return [Contestant(DIRECT, upstream), *ways], skipped


def through(name: str, server: Proxy | Web) -> Contestant:
    """The way through a server that has MLflow under /api/mlflow."""
    return Contestant(name, f"{server.url}/api/mlflow", pids=lambda: family(server.pid))


def _servers(
    stage: Stage, upstream: str, help_from: Helpers, workers: int
) -> tuple[dict[str, Proxy | Web], dict[str, str]]:
    fake, redis = help_from.fake.url, help_from.redis.url
    folder, skipped = stage.folder, {}
    servers: dict[str, Proxy | Web] = {
        PROXY: this_proxy(folder / "proxy", upstream, fake, redis, workers)
    }
    try:
        servers[NGINX] = Nginx(
            folder / "nginx", "auth_request", workers, UPSTREAM=upstream, AUTH=fake
        )
    except tools.Missing as why:
        skipped[NGINX] = str(why)
    if is_whole(BENCH):
        pooled, single = folder / "pooled", folder / "per-request"
        servers[POOLED] = FastAPIProxy(pooled, upstream, fake, redis, workers, pooled=True)
        servers[PER_REQUEST] = FastAPIProxy(single, upstream, fake, redis, workers, pooled=False)
    else:
        skipped[POOLED] = skipped[PER_REQUEST] = "not installed (--no-install)"
    return servers, skipped
