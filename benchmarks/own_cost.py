"""Part b: what a request costs in the proxy itself, in front of an upstream that costs nothing.

Each contestant runs with one worker on its own core; wrk, the upstream, Redis and the auth service
share the others. Everything is on: cached keys, a counted limit, log, metrics.
"""

from collections.abc import Iterator, Mapping, Sequence

from benchmarks import wrk
from benchmarks.bench import Bench
from benchmarks.contestants import (
    DIRECT,
    NGINX,
    PEERS,
    PER_REQUEST,
    POOLED,
    PROXY,
    Contest,
    Ways,
    measured_in,
)
from benchmarks.machine import Description, on_cores, split_cores
from benchmarks.processes import cpu_seconds, cpu_seconds_of_ended_children, memory, wait_until_idle
from benchmarks.results import Goal, Results, shown, table

TITLE = "the proxy's own cost"

#: With 16 connections a core is busy; with one, all waiting is for the contestant.
BUSY, ALONE = "16 connections", "1 connection"

#: The columns of the table: head, case, metric.
COLUMNS = (
    ("CPU µs a request", BUSY, "cpu_us"),
    ("÷ this proxy", BUSY, "÷"),
    ("requests/s, one core", BUSY, "rps"),
    ("of its core", BUSY, "cores"),
    ("Redis µs", BUSY, "redis_us"),
    ("p50 ms, 1 conn.", ALONE, "p50_ms"),
    ("p99 ms, 1 conn.", ALONE, "p99_ms"),
    ("p99 ms, 16 conn.", BUSY, "p99_ms"),
    ("MiB", BUSY, "memory_mib"),
)


def measure(bench: Bench) -> None:
    own, others = split_cores()
    if own == others:
        bench.results.notes.append("one core only: contestants share it with their load")
    with on_cores(others):
        contest = Contest(bench)
        upstream = contest.trivial_upstream()
        ways = contest.ways(upstream.url, (DIRECT, PROXY, *PEERS), cores=own)
        _compare(bench, ALONE, "p50_ms", contest, ways)
        _compare(bench, BUSY, "cpu_us", contest, ways)
    for name, way in ways.items():
        if pids := way.pids():
            bench.results.add(BUSY, name, {"memory_mib": memory(pids)})


def _compare(bench: Bench, case: str, metric: str, contest: Contest, ways: Ways) -> None:
    effort = bench.effort
    seconds = effort.own_cost_seconds if case == BUSY else effort.seconds
    loads = {name: way.search(int(case.split()[0])) for name, way in ways.items()}
    for load in loads.values():
        wrk.run(load, effort.seconds)  # not measured: it fills pools and caches

    def one(name: str) -> Mapping[str, float]:
        return run(contest, [loads[name]], seconds, ways[name].pids())

    bench.alternate(case, list(ways), effort.own_cost_rounds, metric, one)


def run(
    contest: Contest, loads: Sequence[wrk.Load], seconds: int, pids: Sequence[int]
) -> dict[str, float]:
    """Run loads side by side. Besides what wrk counts: how many cores the measured processes used,
    and µs of CPU a request, in them, in Redis, and in all with wrk and the upstream."""

    def clocks() -> tuple[float, float, float]:
        own = cpu_seconds(pids)
        others = cpu_seconds(contest.behind()) + cpu_seconds_of_ended_children()
        return own, cpu_seconds([contest.redis.pid]), own + others

    wait_until_idle(pids)
    before = clocks()
    outcome = wrk.run_all(loads, seconds)
    cores = (cpu_seconds(pids) - before[0]) / seconds
    # One request a connection was left when wrk ended; it costs as much as the others.
    wait_until_idle(pids)
    requests = outcome.requests + sum(load.connections for load in loads)
    own, redis, all_ = (1e6 * (a - b) / requests for a, b in zip(clocks(), before, strict=True))
    cost = {"cpu_us": own, "redis_us": redis, "everything_us": all_, "cores": cores}
    return outcome.metrics() | (cost if pids else {})


# --- tables and goals ----------------------------------------------------------------------------


def tables(results: Results) -> Iterator[str]:
    rows = {
        name: [
            results.ratio(case, "cpu_us", name, PROXY)
            if metric == "÷"
            else results.median(case, name, metric)
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
    # Where wrk and the upstream could not keep nginx busy, the rate flatters the proxy.
    used, cpu = results.median(BUSY, NGINX, "cores"), results.ratio(BUSY, "cpu_us", NGINX, PROXY)
    remark = (
        f"nginx used {shown(used)} of its core; by CPU a request it is {cpu:.3f}" if cpu else ""
    )
    ratio = results.ratio(BUSY, "rps", PROXY, NGINX)
    yield Goal("requests/s ÷ nginx, a core each", "≥", 0.12, ratio, remark)
