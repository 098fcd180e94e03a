"""Part d: what grows, and how: with open streams, with known keys, with instances.

Streams and keys: one worker on a core of its own. Instances: one worker each, all cores shared with
what loads them.
"""

import resource
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

import redis
import requests

from benchmarks import wrk
from benchmarks.contestants import PROXY, Contestant, Helpers, helpers, through
from benchmarks.cores import Cores, on_cores, split
from benchmarks.keys import SECRET, remember
from benchmarks.machine import core_count
from benchmarks.meter import cores_used, cpu_seconds, family, resident, wait_until_idle
from benchmarks.own_cost import run, search, trivial_upstream
from benchmarks.rounds import Bench
from benchmarks.servers import Web, this_proxy

TITLE = "growth"

STREAMS, KEYS, INSTANCES = "streams", "known keys", "instances"

PACED = "/api/2.0/mlflow-artifacts/artifacts/paced"

#: A key may have 64 requests in flight on a worker.
STREAMS_PER_KEY = 20

#: Entries of Redis whose size is looked at.
SAMPLE = 500

#: Connections with which an instance is kept busy.
CONNECTIONS = 16

#: Seconds until streams are open, or over.
PATIENCE = 60.0


@dataclass(frozen=True)
class Step:
    """So many of what grows."""

    count: int

    @property
    def name(self) -> str:
        """As it stands in the tables."""
        return f"{self.count:,}"


def measure(bench: Bench) -> None:
    """All three."""
    own, others = split()
    help_from = helpers(bench.stage, others)
    _streams(bench, help_from, own, others)
    upstream = trivial_upstream(bench, help_from.fake, others)
    _keys(bench, help_from, upstream, own, others)
    _instances(bench, help_from)


def _proxy(
    bench: Bench, name: str, upstream: Web, help_from: Helpers, cores: Cores = None
) -> Contestant:
    """A proxy with one worker; the keys that `remember` knows stay known to it."""
    folder, fake, redis_url = bench.stage.folder / name, help_from.fake.url, help_from.redis.url
    kept = {"AUTH_CACHE_SECRET": SECRET, "AUTH_CACHE_TTL": "3600"}
    server = this_proxy(folder, upstream.url, fake, redis_url, 1, **kept)
    server.command = on_cores(server.command, cores)
    bench.stage.start(server)
    return through(PROXY, server)


# --- streams -------------------------------------------------------------------------------------


def _streams(bench: Bench, help_from: Helpers, own: Cores, others: Cores) -> None:
    """Slow downloads that stay open: CPU and memory of each."""
    proxy = _proxy(bench, "proxy-streams", help_from.fake, help_from, own)
    wrk.run(search(proxy, 1), bench.effort.settle, others)
    wait_until_idle(proxy.pids())
    idle, resting = resident(proxy.pids()), cores_used(proxy.pids(), bench.effort.seconds)
    for count in bench.effort.streams:
        keys = -(-count // STREAMS_PER_KEY)
        bench.progress.at(f"{count} streams")
        with wrk.running(wrk.Load(proxy.url + PACED, count, keys=keys), others):
            _wait_for(help_from.fake, count)
            for _ in range(bench.effort.rounds):
                used = max(0.0, cores_used(proxy.pids(), bench.effort.seconds) - resting)
                grown = max(0.0, resident(proxy.pids()) - idle)
                found = {"cpu_ms_each": used * 1000 / count, "memory_mib": grown}
                found["memory_mib_each"] = grown / count
                bench.results.add(STREAMS, Step(count).name, found)
        _wait_for(help_from.fake, 0)
    bench.report(STREAMS, "cpu_ms_each", "ms of CPU a second and stream")


def _wait_for(fake: Web, count: int) -> None:
    """Returns when so many streams are open at the fake."""
    deadline = time.monotonic() + PATIENCE
    while (there := int(requests.get(f"{fake.url}/streams", timeout=10).text)) != count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{there} streams are open instead of {count}")
        time.sleep(0.05)


# --- keys ----------------------------------------------------------------------------------------


def _keys(bench: Bench, help_from: Helpers, upstream: Web, own: Cores, others: Cores) -> None:
    """The same requests, spread over more and more keys that are known."""
    effort = bench.effort
    bench.progress.at(f"{max(effort.keys):,} keys become known")
    remember(help_from.redis.url, max(effort.keys))
    proxy = _proxy(bench, "proxy-keys", upstream, help_from, own)

    def one(step: Step) -> Mapping[str, float]:
        load = search(proxy, CONNECTIONS, keys=step.count)
        wrk.run(load, effort.settle, others)
        return run(load, effort.key_seconds, proxy, help_from.redis, others)

    bench.alternate(KEYS, [Step(count) for count in effort.keys], effort.rounds, one)
    entry = {"redis_bytes_an_entry": _bytes_an_entry(help_from.redis.url)}
    bench.results.add(KEYS, Step(max(effort.keys)).name, entry)
    bench.report(KEYS, "cpu_us", "µs of CPU a request")


def _bytes_an_entry(redis_url: str) -> float:
    """What Redis needs for an entry, on average; a key has one verdict and at most two counts."""
    store = redis.Redis.from_url(redis_url)
    sample = islice(store.scan_iter(count=SAMPLE), SAMPLE)
    return statistics.mean(float(store.memory_usage(name) or 0) for name in sample)


# --- instances -----------------------------------------------------------------------------------


def _instances(bench: Bench, help_from: Helpers) -> None:
    """Each with a wrk of its own, in front of one upstream."""
    upstream = trivial_upstream(bench, help_from.fake)
    proxies = [
        _proxy(bench, f"proxy-{number}", upstream, help_from)
        for number in range(max(bench.effort.instances))
    ]
    behind = [*family(upstream.pid), help_from.redis.pid, *family(help_from.fake.pid)]

    def one(step: Step) -> Mapping[str, float]:
        return _loaded(proxies[: step.count], behind, bench.effort.own_cost_seconds)

    steps = [Step(count) for count in bench.effort.instances]
    for proxy in proxies:
        wrk.run(search(proxy, CONNECTIONS), bench.effort.settle)
    bench.alternate(INSTANCES, steps, bench.effort.rounds, one)
    bench.report(INSTANCES, "rps", "requests/s")


def _loaded(proxies: list[Contestant], behind: list[int], seconds: float) -> dict[str, float]:
    """Requests per second of all, and µs of CPU a request: in the proxies, and on the machine with
    wrk and all that is behind them."""
    pids = [pid for proxy in proxies for pid in proxy.pids()]
    before, others, loads = cpu_seconds(pids), cpu_seconds(behind), _of_children()
    with ExitStack() as runs:
        ends = [runs.enter_context(wrk.running(search(proxy, CONNECTIONS))) for proxy in proxies]
        time.sleep(seconds)
        outcomes = [end() for end in ends]
    wait_until_idle(pids)
    used, sent = cpu_seconds(pids) - before, CONNECTIONS * len(proxies)
    everything = used + cpu_seconds(behind) - others + _of_children() - loads
    sent += sum(outcome.requests for outcome in outcomes)
    return {
        "rps": sum(outcome.per_second for outcome in outcomes),
        "cpu_us": used * 1e6 / sent,
        "everything_us": everything * 1e6 / sent,
    }


def _of_children() -> float:
    """CPU seconds of the wrks that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def allowed(rps_of_one: float, everything_us: float, instances: int) -> float:
    """Requests per second that so many instances can reach: as many times what one does, or what
    the cores can do of everything that a request needs."""
    return min(instances * rps_of_one, core_count() * 1e6 / everything_us)
