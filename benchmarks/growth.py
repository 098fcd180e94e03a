"""Part d: what grows, and how: with open streams, with known keys, with instances.

Streams and keys: one worker on a core of its own. Instances: one worker each, all cores shared with
what loads them.
"""

import resource
import statistics
import time
from collections.abc import Collection, Iterator, Mapping
from itertools import islice

import redis
import requests

from app.auth.cache import DecisionCache
from app.request.principal import Decision, Principal
from app.state.instance_store import InstanceStore
from app.state.redis_link import RedisLink
from app.state.shared_values import SharedValues
from benchmarks import wrk
from benchmarks.bench import Bench
from benchmarks.contestants import Contestant, helpers, through
from benchmarks.fakes import LIMIT
from benchmarks.machine import Description, on_cores, split_cores
from benchmarks.own_cost import run, search, trivial_upstream
from benchmarks.processes import cores_used, cpu_seconds, family, memory, wait_until_idle
from benchmarks.results import Goal, Results, divided, shown, table
from benchmarks.servers import Helpers, Web, this_proxy

TITLE = "growth"

STREAMS, KEYS, INSTANCES = "streams", "known keys", "instances"

PACED = "/api/2.0/mlflow-artifacts/artifacts/paced"

#: A key may have 64 requests in flight on a worker.
STREAMS_PER_KEY = 20

#: Seconds until all streams are open, or closed.
TIMEOUT = 60.0

#: Entries of Redis whose size is looked at.
SAMPLE = 500

#: Connections that keep an instance busy.
CONNECTIONS = 16

#: AUTH_CACHE_SECRET and AUTH_CACHE_TTL of the proxies that know keys; no benchmark takes an hour.
SECRET, KNOWN_FOR = "the benchmark's own secret, for no other use", 3600


def measure(bench: Bench) -> None:
    """All three."""
    own, others = split_cores()
    with on_cores(others):
        helped_by = helpers(bench)
        _streams(bench, helped_by, own)
        _keys(bench, helped_by, own)
    _instances(bench, helped_by)


def _proxy(
    bench: Bench,
    name: str,
    upstream: Web,
    helped_by: Helpers,
    cores: Collection[int] | None = None,
) -> Contestant:
    """A proxy with one worker on these cores."""
    settings = {"AUTH_CACHE_SECRET": SECRET, "AUTH_CACHE_TTL": str(KNOWN_FOR)}
    server = this_proxy(bench.folder / name, upstream.url, helped_by, 1, **settings)
    bench.start(server, cores=cores)
    return through(server)


def _named(counts: Collection[int]) -> dict[str, int]:
    """The counts by their names in the tables."""
    return {f"{count:,}": count for count in counts}


# --- streams -------------------------------------------------------------------------------------


def _streams(bench: Bench, helped_by: Helpers, own: Collection[int]) -> None:
    """Slow downloads that stay open: CPU and memory of each."""
    proxy = _proxy(bench, "proxy-streams", helped_by.auth, helped_by, own)
    wrk.run(search(proxy, 1), bench.effort.seconds)
    wait_until_idle(proxy.pids())
    idle, resting = memory(proxy.pids()), cores_used(proxy.pids(), bench.effort.seconds)
    for name, count in _named(bench.effort.streams).items():
        bench.progress.at(f"{count} streams")
        load = wrk.Load(proxy.url + PACED, count, keys=-(-count // STREAMS_PER_KEY))
        endless = wrk.start(load, 3600)
        try:
            _wait_for_streams(helped_by.auth, count)
            for _ in range(bench.effort.rounds):
                used = max(0.0, cores_used(proxy.pids(), bench.effort.seconds) - resting)
                grown = max(0.0, memory(proxy.pids()) - idle)
                found = {"cpu_ms_each": used * 1000 / count, "memory_mib": grown}
                bench.results.add(STREAMS, name, found | {"memory_mib_each": grown / count})
        finally:
            endless.kill()
            endless.communicate()
        _wait_for_streams(helped_by.auth, 0)
    bench.report(STREAMS, "cpu_ms_each", "ms of CPU a second and stream")


def _wait_for_streams(fake: Web, count: int) -> None:
    """Return when so many streams are open at the fake."""
    deadline = time.monotonic() + TIMEOUT
    while (there := int(requests.get(f"{fake.url}/streams", timeout=10).text)) != count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{there} streams are open instead of {count}")
        time.sleep(0.05)


# --- keys ----------------------------------------------------------------------------------------


def _keys(bench: Bench, helped_by: Helpers, own: Collection[int]) -> None:
    """The same requests, spread over more and more keys that the proxy knows."""
    effort = bench.effort
    bench.progress.at(f"{max(effort.keys):,} keys become known")
    _remember(helped_by.redis.url, f"{helped_by.auth.url} platform", max(effort.keys))
    upstream = trivial_upstream(bench)
    proxy = _proxy(bench, "proxy-keys", upstream, helped_by, own)

    def one(count: int) -> Mapping[str, float]:
        load = search(proxy, CONNECTIONS, keys=count)
        wrk.run(load, effort.seconds)
        return run(load, effort.key_seconds, proxy, helped_by.redis)

    names = _named(effort.keys)
    bench.alternate(KEYS, names, effort.rounds, one)
    bytes_each = {"redis_bytes_an_entry": _bytes_an_entry(helped_by.redis.url)}
    bench.results.add(KEYS, list(names)[-1], bytes_each)
    bench.report(KEYS, "cpu_us", "µs of CPU a request")


def _remember(redis_url: str, issuer: str, count: int) -> None:
    """Store what the proxy would store of so many keys, had it validated each of them."""
    link = RedisLink(redis_url, 5, 5)
    cache = DecisionCache(
        SharedValues(link, InstanceStore.at(None)),
        secret=SECRET.encode(),
        ttl=KNOWN_FOR,
        negative_ttl=10,
        stale_ttl=600,
    )
    for number in range(count):
        principal = Principal(
            user_id="bench",
            key_id=f"key_{number:06d}",
            service_id="platform",
            scopes=frozenset(("read", "write")),
            limit_per_hour=LIMIT,
            is_admin=False,
        )
        key = f"hk_test_bench_{number:06d}"  # as in load.lua
        digest = cache.digest(key, "127.0.0.1", issuer)
        cache.put(digest, Decision(principal, time.time()))


def _bytes_an_entry(redis_url: str) -> float:
    """Bytes of an entry in Redis, on average; a key has one decision and at most two counts."""
    store = redis.Redis.from_url(redis_url)
    sample = islice(store.scan_iter(count=SAMPLE), SAMPLE)
    return statistics.mean(float(store.memory_usage(name) or 0) for name in sample)


# --- instances -----------------------------------------------------------------------------------


def _instances(bench: Bench, helped_by: Helpers) -> None:
    """Each with a wrk of its own, in front of one upstream."""
    upstream = trivial_upstream(bench)
    counts = bench.effort.instances
    proxies = [_proxy(bench, f"proxy-{n}", upstream, helped_by) for n in range(max(counts))]
    behind = [*family(upstream.pid), helped_by.redis.pid, *family(helped_by.auth.pid)]

    def one(count: int) -> Mapping[str, float]:
        return _loaded(proxies[:count], behind, bench.effort.own_cost_seconds)

    for proxy in proxies:
        wrk.run(search(proxy, CONNECTIONS), bench.effort.seconds)
    bench.alternate(INSTANCES, _named(counts), bench.effort.rounds, one)
    bench.report(INSTANCES, "rps", "requests/s")


def _loaded(proxies: list[Contestant], behind: list[int], seconds: int) -> dict[str, float]:
    """Requests per second of all, and µs of CPU a request: in the proxies, and on the machine with
    wrk and all that is behind them."""
    pids = [pid for proxy in proxies for pid in proxy.pids()]
    before, others, loads = cpu_seconds(pids), cpu_seconds(behind), _of_children()
    runs = [wrk.start(search(proxy, CONNECTIONS), seconds) for proxy in proxies]
    outcomes = [wrk.outcome(one) for one in runs]
    wait_until_idle(pids)
    used = cpu_seconds(pids) - before
    everything = used + cpu_seconds(behind) - others + _of_children() - loads
    sent = CONNECTIONS * len(proxies) + sum(outcome.requests for outcome in outcomes)
    return {
        "rps": sum(outcome.metrics()["rps"] for outcome in outcomes),
        "cpu_us": used * 1e6 / sent,
        "everything_us": everything * 1e6 / sent,
    }


def _of_children() -> float:
    """CPU seconds of the wrks that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# --- tables and goals ----------------------------------------------------------------------------

#: Metric → its column.
COLUMNS = {
    "cpu_ms_each": "CPU ms a second, each",
    "memory_mib": "MiB more",
    "memory_mib_each": "each",
    "rps": "requests/s",
    "cpu_us": "CPU µs a request",
    "redis_us": "Redis µs",
    "redis_bytes_an_entry": "Redis bytes an entry",
    "everything_us": "with all else",
}

#: Case, caption, and the metrics.
TABLES = (
    (STREAMS, "Open streams, 80 KiB/s each; one worker:", "cpu_ms_each memory_mib memory_mib_each"),
    (
        KEYS,
        "Known keys, requests spread over them; one worker:",
        "cpu_us redis_us rps redis_bytes_an_entry",
    ),
    (
        INSTANCES,
        "Instances of one worker, with all that loads them on the same cores:",
        "rps cpu_us everything_us",
    ),
)


def tables(results: Results) -> Iterator[str]:
    """Streams, keys, instances."""
    for case, caption, metrics in TABLES:
        head = [case, *(COLUMNS[metric] for metric in metrics.split())]
        rows = {
            name: [results.median(case, name, metric) for metric in metrics.split()]
            for name in _sorted(results, case)
        }
        if case == INSTANCES:
            head.append("× one")
            for name, row in rows.items():
                row.append(results.ratio(case, "rps", name, "1"))
        yield table(caption, head, rows)


def goals(results: Results, machine: Description) -> Iterator[Goal]:
    """Flat in keys, linear in streams, more with each instance."""
    fewest, *more = _sorted(results, KEYS) or [""]
    for keys in more:
        ratio = results.ratio(KEYS, "cpu_us", keys, fewest)
        yield Goal(f"{keys} known keys: CPU a request ÷ that of {fewest}", "≤", 1.15, ratio)
    streams = _sorted(results, STREAMS)
    if len(streams) > 2:
        _, some, *_, most = streams  # a single one is hardly above the noise
        ratio = results.ratio(STREAMS, "cpu_ms_each", most, some)
        yield Goal(f"{most} streams: CPU each ÷ that of {some}", "≤", 1.15, ratio)
    for count in _sorted(results, INSTANCES)[1:]:
        yield _goal_of_instances(results, count, int(machine["cores"]))


def _goal_of_instances(results: Results, count: str, cores: int) -> Goal:
    """What so many instances do, beside what they could."""
    one, everything = (results.median(INSTANCES, "1", m) for m in ("rps", "everything_us"))
    rps = results.median(INSTANCES, count, "rps")
    could = allowed(one, everything, int(count), cores) if one and everything else None
    remark = f"{shown(divided(rps, one))} × one; the cores allow {shown(divided(could, one))} ×"
    what = f"{count} instances: requests/s ÷ what the cores allow"
    return Goal(what, "≥", 0.85, divided(rps, could), remark)


def allowed(rps_of_one: float, everything_us: float, instances: int, cores: int) -> float:
    """Requests per second that so many instances can reach: as many times what one does, or what
    the cores can do of everything that a request needs."""
    return min(instances * rps_of_one, cores * 1e6 / everything_us)


def _sorted(results: Results, case: str) -> list[str]:
    return sorted(results.contestants(case), key=lambda name: int(name.replace(",", "")))
