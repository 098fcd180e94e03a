"""Who is compared: each a way to the same upstream."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from benchmarks.bench import Bench
from benchmarks.processes import family
from benchmarks.results import Results
from benchmarks.servers import Helpers, Web, fake, fastapi_proxy, nginx, this_proxy
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

#: What each is, for the reader of the tables; in the order of the columns.
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
    """A way to the upstream. MLflow's paths are appended to `url`; `sdk` are the variables that
    give MLflow's SDK the same credentials as `headers`; `pids` are the measured processes."""

    url: str
    headers: Mapping[str, str] = field(
        default_factory=lambda: {"Authorization": f"Bearer {KEY}"}, compare=False
    )
    sdk: Mapping[str, str] = field(
        default_factory=lambda: {"MLFLOW_TRACKING_TOKEN": KEY}, compare=False
    )
    pids: Callable[[], list[int]] = field(default=list, compare=False)


Ways = dict[str, Contestant]


def through(server: Proxy | Web) -> Contestant:
    """The way through a server that has MLflow under /api/mlflow."""
    return Contestant(f"{server.url}/api/mlflow", pids=lambda: family(server.pid))


def helpers(bench: Bench) -> Helpers:
    """A fake auth service and Redis, started."""
    both = Helpers(fake(bench.folder / "fake"), Redis(bench.folder / "redis"))
    bench.start(both.auth, both.redis)
    return both


def ways_to(
    bench: Bench,
    upstream: str,
    helped_by: Helpers,
    workers: int,
    cores: Collection[int] | None = None,
) -> Ways:
    """The direct way, this proxy and its peers, started on these cores."""
    folder = bench.folder
    values = {"UPSTREAM": upstream, "AUTH": helped_by.auth.url, "WORKERS": str(workers)}
    servers: dict[str, Proxy | Web] = {
        PROXY: this_proxy(folder / "proxy", upstream, helped_by, workers),
        NGINX: nginx(folder / "nginx", "auth_request", **values),
    }
    for name in (POOLED, PER_REQUEST):
        pooled = "yes" if name == POOLED else ""
        servers[name] = fastapi_proxy(folder / name, upstream, helped_by, workers, pooled)
    bench.start(*servers.values(), cores=cores)
    return {DIRECT: Contestant(upstream)} | {n: through(server) for n, server in servers.items()}


def measured_in(results: Results, *cases: str) -> list[str]:
    """The contestants of these cases, in the order of the columns."""
    measured = {name for case in cases for name in results.contestants(case)}
    return [name for name in EXPLAINED if name in measured]


def legend() -> str:
    """A line about each contestant."""
    return "\n".join(f"- **{name}**: {what}" for name, what in EXPLAINED.items())
