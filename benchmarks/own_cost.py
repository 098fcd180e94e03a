"""Part b: what a request costs in the proxy itself, in front of an upstream that costs nothing.

Each contestant runs with one worker on a core of its own; wrk, the upstream, Redis and the auth
service share the others. Everything is on: cached keys, a counted limit, log, metrics.
"""

from collections.abc import Mapping

from benchmarks import tools, wrk
from benchmarks.contestants import Contestant, helpers, ways_to
from benchmarks.cores import Cores, on_cores, split
from benchmarks.fakes import SEARCH_ANSWER
from benchmarks.meter import cpu_seconds, proportional, wait_until_idle
from benchmarks.rounds import Bench
from benchmarks.servers import Fake, Nginx, Web
from devstack.redis import Redis

TITLE = "the proxy's own cost"

#: With 16 connections a core is busy; with one the waiting is all the contestant's.
BUSY, ALONE = "16 connections", "1 connection"
CONNECTIONS = {ALONE: 1, BUSY: 16}

SEARCH = "/api/2.0/mlflow/experiments/search"
BODY = '{"max_results": 100}'


def measure(bench: Bench) -> None:
    """Both loads on all contestants."""
    own, others = split()
    if own is None:
        bench.results.notes.append("one core only: contestants share it with their load")
    help_from = helpers(bench.stage, others)
    upstream = trivial_upstream(bench, help_from.fake, others)
    contestants, skipped = ways_to(bench.stage, upstream.url, help_from, workers=1, cores=own)
    bench.results.skipped |= skipped
    _alternate(bench, ALONE, contestants, help_from.redis, others)
    bench.report(ALONE, "p50_ms", "ms")
    _alternate(bench, BUSY, contestants, help_from.redis, others)
    bench.report(BUSY, "cpu_us", "µs of CPU")
    for contestant in contestants:
        if pids := contestant.pids():
            bench.results.add(BUSY, contestant.name, {"memory_mib": proportional(pids)})


def _alternate(
    bench: Bench, case: str, contestants: list[Contestant], redis: Redis, cores: Cores
) -> None:
    effort = bench.effort

    def one(contestant: Contestant) -> Mapping[str, float]:
        load = search(contestant, CONNECTIONS[case])
        wrk.run(load, effort.settle, cores)
        seconds = effort.own_cost_seconds if case == BUSY else effort.seconds
        return run(load, seconds, contestant, redis, cores)

    bench.alternate(case, contestants, effort.own_cost_rounds, one)


def search(contestant: Contestant, connections: int, keys: int = 0) -> wrk.Load:
    """experiments/search, as MLflow's client asks it; spread over so many keys."""
    fields = (*contestant.fields, "Content-Type: application/json")
    return wrk.Load(contestant.url + SEARCH, connections, "POST", BODY, fields, keys)


def run(
    load: wrk.Load, seconds: float, contestant: Contestant, redis: Redis, cores: Cores
) -> Mapping[str, float]:
    """One run of wrk, with what it cost: µs of CPU a request, in the contestant and in Redis, and
    how much of a core the contestant used."""
    pids = contestant.pids()
    wait_until_idle(pids)
    before, redis_before = cpu_seconds(pids), cpu_seconds([redis.pid])
    outcome = wrk.run(load, seconds, cores)
    cores_used = (cpu_seconds(pids) - before) / outcome.seconds
    # What wrk left behind when it went, one request a connection, costs as much as the others.
    wait_until_idle(pids)
    used, redis_used = cpu_seconds(pids) - before, cpu_seconds([redis.pid]) - redis_before
    each = 1e6 / (outcome.requests + load.connections)
    cost = {"cpu_us": used * each, "redis_us": redis_used * each, "cores": cores_used}
    return outcome.metrics() | (cost if pids else {})


def trivial_upstream(bench: Bench, fake: Fake, cores: Cores = None) -> Web:
    """nginx that answers all with one JSON; the fake, slower, where there is no nginx."""
    if tools.find("nginx") is None:
        bench.results.notes.append("without nginx the upstream is a slower one in Python")
        return fake
    server = Nginx(bench.stage.folder / "upstream", "trivial", 1, ANSWER=SEARCH_ANSWER)
    server.command = on_cores(server.command, cores)
    bench.stage.start(server)
    return server
