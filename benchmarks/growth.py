"""Part d: what grows, and how: with open streams, with known keys, with instances.

Streams and keys: one worker on its own core. Instances: one worker each, all cores shared with
what loads them.
"""

import statistics
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice

import redis
import requests

from app.auth.cache import DecisionCache
from app.request.principal import Decision, Principal
from app.state.instance_store import InstanceStore
from app.state.redis_link import RedisLink
from app.state.shared_values import SharedValues
from benchmarks import wrk
from benchmarks.bench import Bench, say
from benchmarks.contestants import PROXY, Contest
from benchmarks.fakes import ARTIFACTS, LIMIT
from benchmarks.machine import Description, on_cores, split_cores
from benchmarks.own_cost import run
from benchmarks.processes import cores_used, memory, wait_until_idle
from benchmarks.results import Goal, Results, divided, shown, table

TITLE = "growth"

STREAMS, KEYS, INSTANCES = "streams", "known keys", "instances"

#: A key may have 64 requests in flight on a worker.
STREAMS_PER_KEY = 20

#: Seconds until all streams are open, or closed.
TIMEOUT = 60.0

#: Entries of Redis whose size is looked at.
SAMPLE = 500

#: Connections that keep an instance busy.
CONNECTIONS = 16

#: AUTH_CACHE_SECRET and AUTH_CACHE_TTL of the proxy that knows keys; no benchmark takes an hour.
SECRET, KNOWN_FOR = "the benchmark's own secret, for no other use", 3600

CAPTIONS = {
    STREAMS: "Open streams, 80 KiB/s each; one worker:",
    KEYS: "Known keys, requests spread over them; one worker:",
    INSTANCES: "Instances of one worker, with all that loads them on the same cores:",
}

#: Case, metric, head of the column.
COLUMNS = (
    (STREAMS, "cpu_ms_each", "CPU ms a second, each"),
    (STREAMS, "memory_mib", "MiB more"),
    (STREAMS, "memory_mib_each", "each"),
    (KEYS, "cpu_us", "CPU µs a request"),
    (KEYS, "redis_us", "Redis µs"),
    (KEYS, "rps", "requests/s"),
    (KEYS, "redis_bytes_an_entry", "Redis bytes an entry"),
    (INSTANCES, "rps", "requests/s"),
    (INSTANCES, "cpu_us", "CPU µs a request"),
    (INSTANCES, "everything_us", "with all else"),
)


def measure(bench: Bench) -> None:
    own, others = split_cores()
    with on_cores(others):
        contest = Contest(bench)
        _streams(bench, contest, own)
        _keys(bench, contest, own)
    _instances(bench, contest)


def _numbers(counts: Collection[int]) -> dict[str, int]:
    """The counts by their names in the tables."""
    return {f"{count:,}": count for count in counts}


def _streams(bench: Bench, contest: Contest, own: Collection[int]) -> None:
    """Slow downloads that stay open: CPU and memory of each."""
    effort, counts = bench.effort, _numbers(bench.effort.streams)
    proxy = contest.ways(contest.fake.url, [PROXY], cores=own)[PROXY]
    wrk.run(proxy.search(1), effort.seconds)
    wait_until_idle(proxy.pids())
    idle, resting = memory(proxy.pids()), cores_used(proxy.pids(), effort.seconds)

    def one(name: str) -> Mapping[str, float]:
        used = max(0.0, cores_used(proxy.pids(), effort.seconds) - resting)
        grown = max(0.0, memory(proxy.pids()) - idle)
        each = {"cpu_ms_each": used * 1000 / counts[name], "memory_mib_each": grown / counts[name]}
        return each | {"memory_mib": grown}

    for name, count in counts.items():
        with _open_streams(contest, f"{proxy.url}{ARTIFACTS}/paced", count):
            bench.alternate(STREAMS, [name], effort.rounds, "cpu_ms_each", one)


@contextmanager
def _open_streams(contest: Contest, url: str, count: int) -> Iterator[None]:
    endless = wrk.start(wrk.Load(url, count, keys=-(-count // STREAMS_PER_KEY)), 3600)
    try:
        _wait_for_streams(contest, count)
        yield
    finally:
        endless.kill()
        endless.communicate()
    _wait_for_streams(contest, 0)


def _wait_for_streams(contest: Contest, count: int) -> None:
    """Return when so many streams are open at the fake."""
    deadline = time.monotonic() + TIMEOUT
    while (open_ := int(requests.get(f"{contest.fake.url}/streams", timeout=10).text)) != count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{open_} streams are open instead of {count}")
        time.sleep(0.05)


def _keys(bench: Bench, contest: Contest, own: Collection[int]) -> None:
    """The same requests, spread over more and more keys that the proxy knows."""
    effort, counts = bench.effort, _numbers(bench.effort.keys)
    say(f"{max(effort.keys):,} keys become known", end="")
    _remember(contest.redis.url, f"{contest.fake.url} platform", max(effort.keys))
    settings = {"AUTH_CACHE_SECRET": SECRET, "AUTH_CACHE_TTL": str(KNOWN_FOR)}
    upstream = contest.trivial_upstream()
    proxy = contest.ways(upstream.url, [PROXY], cores=own, settings=settings)[PROXY]

    def one(name: str) -> Mapping[str, float]:
        load = proxy.search(CONNECTIONS, keys=counts[name])
        wrk.run(load, effort.seconds)
        return run(contest, [load], effort.key_seconds, proxy.pids())

    bench.alternate(KEYS, list(counts), effort.rounds, "cpu_us", one)
    bytes_each = {"redis_bytes_an_entry": _bytes_an_entry(contest.redis.url)}
    bench.results.add(KEYS, list(counts)[-1], bytes_each)


def _remember(redis_url: str, issuer: str, count: int) -> None:
    """Store what the proxy would store of so many keys, had it validated each of them."""
    cache = DecisionCache(
        SharedValues(RedisLink(redis_url, 5, 5), InstanceStore.at(None)),
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


def _instances(bench: Bench, contest: Contest) -> None:
    """Each with its own wrk, in front of one upstream."""
    effort, counts = bench.effort, _numbers(bench.effort.instances)
    upstream = contest.trivial_upstream()
    most = max(effort.instances)
    proxies = [contest.ways(upstream.url, [PROXY])[PROXY] for _ in range(most)]
    for proxy in proxies:
        wrk.run(proxy.search(CONNECTIONS), effort.seconds)

    def one(name: str) -> Mapping[str, float]:
        loaded = proxies[: counts[name]]
        pids = [pid for proxy in loaded for pid in proxy.pids()]
        loads = [proxy.search(CONNECTIONS) for proxy in loaded]
        return run(contest, loads, effort.own_cost_seconds, pids)

    bench.alternate(INSTANCES, list(counts), effort.rounds, "rps", one)


# --- tables and goals ----------------------------------------------------------------------------


def tables(results: Results) -> Iterator[str]:
    for case, caption in CAPTIONS.items():
        columns = [(metric, head) for of, metric, head in COLUMNS if of == case]
        rows = {
            name: [results.median(case, name, metric) for metric, _ in columns]
            for name in _sorted(results, case)
        }
        heads = [case, *(head for _, head in columns)]
        if case == INSTANCES:
            heads.append("× one")
            for name, row in rows.items():
                row.append(results.ratio(case, "rps", name, "1"))
        yield table(caption, heads, rows)


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
