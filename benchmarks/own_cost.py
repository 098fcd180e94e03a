"""Part b: what a request costs in the proxy itself, in front of an upstream that costs nothing.

Each contestant runs with one worker on a core of its own; wrk, the upstream, Redis and the auth
service share the others. Everything is on: cached keys, a counted limit, log, metrics.
"""

from collections.abc import Iterator, Mapping

from benchmarks import wrk
from benchmarks.bench import Bench
from benchmarks.contestants import (
    NGINX,
    PER_REQUEST,
    POOLED,
    PROXY,
    Contestant,
    Ways,
    helpers,
    measured_in,
    ways_to,
)
from benchmarks.machine import Description, on_cores, split_cores
from benchmarks.processes import cpu_seconds, memory, wait_until_idle
from benchmarks.results import Goal, Results, shown, table
from benchmarks.servers import Web, nginx
from devstack.redis import Redis

TITLE = "the proxy's own cost"

#: With 16 connections a core is busy; with one, all waiting is for the contestant.
BUSY, ALONE = "16 connections", "1 connection"
CONNECTIONS = {ALONE: 1, BUSY: 16}

SEARCH = "/api/2.0/mlflow/experiments/search"
BODY = '{"max_results": 100}'

#: The columns of the table: head, case, metric.
COLUMNS = (
    ("CPU µs a request", BUSY, "cpu_us"),
    ("÷ this proxy", BUSY, ""),
    ("requests/s, one core", BUSY, "rps"),
    ("of its core", BUSY, "cores"),
    ("Redis µs", BUSY, "redis_us"),
    ("p50 ms, 1 conn.", ALONE, "p50_ms"),
    ("p99 ms, 1 conn.", ALONE, "p99_ms"),
    ("p99 ms, 16 conn.", BUSY, "p99_ms"),
    ("MiB", BUSY, "memory_mib"),
)


def measure(bench: Bench) -> None:
    """Both loads on all contestants."""
    own, others = split_cores()
    if own == others:
        bench.results.notes.append("one core only: contestants share it with their load")
    with on_cores(others):
        helped_by = helpers(bench)
        upstream = trivial_upstream(bench)
        ways = ways_to(bench, upstream.url, helped_by, workers=1, cores=own)
        _alternate(bench, ALONE, ways, helped_by.redis)
        bench.report(ALONE, "p50_ms", "ms")
        _alternate(bench, BUSY, ways, helped_by.redis)
        bench.report(BUSY, "cpu_us", "µs of CPU")
    for name, way in ways.items():
        if pids := way.pids():
            bench.results.add(BUSY, name, {"memory_mib": memory(pids)})


def _alternate(bench: Bench, case: str, ways: Ways, redis: Redis) -> None:
    effort, connections = bench.effort, CONNECTIONS[case]
    seconds = effort.own_cost_seconds if case == BUSY else effort.seconds
    for way in ways.values():
        wrk.run(search(way, connections), effort.seconds)  # unmeasured: it fills pools and caches

    def one(way: Contestant) -> Mapping[str, float]:
        return run(search(way, connections), seconds, way, redis)

    bench.alternate(case, ways, effort.own_cost_rounds, one)


def search(way: Contestant, connections: int, keys: int = 0) -> wrk.Load:
    """experiments/search as MLflow's client sends it; with `keys`, spread over so many."""
    headers = {**way.headers, "Content-Type": "application/json"}
    return wrk.Load(way.url + SEARCH, connections, BODY, headers, keys)


def run(load: wrk.Load, seconds: int, way: Contestant, redis: Redis) -> dict[str, float]:
    """One run of wrk and what it cost: µs of CPU a request, in the contestant and in Redis, and
    how much of a core the contestant used."""
    pids = way.pids()
    wait_until_idle(pids)
    before, redis_before = cpu_seconds(pids), cpu_seconds([redis.pid])
    outcome = wrk.run(load, seconds)
    cores_used = (cpu_seconds(pids) - before) / outcome.seconds
    # One request a connection was left when wrk ended; it costs as much as the others.
    wait_until_idle(pids)
    used, redis_used = cpu_seconds(pids) - before, cpu_seconds([redis.pid]) - redis_before
    each = 1e6 / (outcome.requests + load.connections)
    cost = {"cpu_us": used * each, "redis_us": redis_used * each, "cores": cores_used}
    return outcome.metrics() | (cost if pids else {})


def trivial_upstream(bench: Bench) -> Web:
    """nginx with one JSON response to everything."""
    server = nginx(bench.folder / "upstream", "trivial")
    bench.start(server)
    return server


def tables(results: Results) -> Iterator[str]:
    """One row a contestant."""
    rows = {
        name: [
            results.median(case, name, metric)
            if metric
            else results.ratio(case, "cpu_us", name, PROXY)
            for _, case, metric in COLUMNS
        ]
        for name in measured_in(results, BUSY)
    }
    head = ["one worker, everything on", *(column for column, _, _ in COLUMNS)]
    yield table("A small request, in front of an upstream that costs nothing:", head, rows)


def goals(results: Results, machine: Description) -> Iterator[Goal]:
    """The leanest of its kind."""
    for peer, target in ((POOLED, 0.4), (PER_REQUEST, 0.03)):
        ratio = results.ratio(BUSY, "cpu_us", PROXY, peer)
        yield Goal(f"CPU a request ÷ {peer}", "≤", target, ratio)
    ratio = results.ratio(BUSY, "rps", PROXY, NGINX)
    yield Goal("requests/s ÷ nginx, a core each", "≥", 0.12, ratio, _beside_nginx(results))


def _beside_nginx(results: Results) -> str:
    """Where wrk and the upstream could not keep nginx busy, the rate flatters the proxy."""
    used = results.median(BUSY, NGINX, "cores")
    cpu = results.ratio(BUSY, "cpu_us", NGINX, PROXY)
    if used is None or cpu is None:
        return ""
    return f"nginx used {shown(used)} of its core; by CPU a request it is {cpu:.3f}"
