"""Several proxies as one: they count a key's limit together, on one Redis, behind sentinels and on
a cluster, and nearly so while Redis is away."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from devstack.proxy import Proxy
from tests.drills import redis_topologies
from tests.drills.counts import count_together, granted
from tests.drills.load import Seen
from tests.drills.redis_outage import load_on, redis_under_test, seconds_until, take
from tests.drills.report import Row, counted
from tests.drills.stage import Stage
from tests.upstreams import Upstream

#: A limit for three instances, and the requests that come at once to each of them.
LIMIT, EACH = 30, 20

#: How far from the limit what all grant together may be while Redis is away.
TOLERANCE = LIMIT // 10


@contextmanager
def three_proxies(stage: Stage, redis_url: str) -> Iterator[list[Proxy]]:
    """Three proxies, two workers each, in front of one fake MLflow."""
    with Upstream() as mlflow:
        settings = {
            "REDIS_URL": redis_url,
            "REDIS_TIMEOUT": 2,  # a machine that is busy for a moment is not an outage
            "MLFLOW_SERVER_URL": mlflow.url,
            "AUTH_CACHE_SECRET": "the same for all",
            "INSTANCES": 3,
            "WEB_CONCURRENCY": 2,
        }
        yield [stage.proxy(**settings) for _ in range(3)]
        stage.clear()


def outage(stage: Stage) -> Iterator[Row]:
    """One Redis: before, in and after an outage."""
    with (
        redis_under_test(stage.folder) as broken,
        three_proxies(stage, broken.server.url) as proxies,
    ):
        yield limit_row(stage, proxies, "none", 0)
        broken.server.kill()
        yield limit_row(stage, proxies, "Redis stopped", TOLERANCE)
        broken.start()
        recovery = until_together(stage, proxies, [broken.client])
        yield limit_row(stage, proxies, "Redis started again, empty", 0, recovery)


def failover(stage: Stage) -> Iterator[Row]:
    """The master is killed under load; its replica takes over."""
    behind = redis_topologies.Sentinels(own_folder(stage))
    with behind.running(), three_proxies(stage, behind.url) as proxies:
        yield limit_row(stage, proxies, "none, behind three sentinels", 0)

        def kill() -> list["redis.Redis"]:
            behind.master.kill()
            return [behind.replica.client]

        yield from under_load(stage, proxies, "the master killed, sentinels fail over", kill)
        assert behind.has_failed_over()


def lost_node(stage: Stage) -> Iterator[Row]:
    """A node of the cluster is killed under load, and started again."""
    cluster = redis_topologies.Cluster(own_folder(stage))
    with cluster.running(), three_proxies(stage, cluster.url) as proxies:
        yield limit_row(stage, proxies, "none, on a cluster of three nodes", 0)

        def restart_a_node() -> list["redis.Redis"]:
            node = cluster.nodes[1]
            node.kill()
            time.sleep(3 * redis_topologies.SILENCE)
            node.start()
            node.wait_until_ready()
            return [node.client for node in cluster.nodes]

        yield from under_load(stage, proxies, "a node of the cluster gone for 3 s", restart_a_node)


def own_folder(stage: Stage) -> Path:
    """A new one."""
    return Path(tempfile.mkdtemp(prefix="redis-", dir=stage.folder))


def under_load(
    stage: Stage,
    proxies: list[Proxy],
    fault: str,
    break_it: Callable[[], list["redis.Redis"]],
) -> Iterator[Row]:
    """What clients of all proxies see; `break_it` returns the servers that count afterwards."""
    keys = (stage.new_key(1_000_000)[0], stage.key())
    with (
        load_on(proxies[0], keys) as one,
        load_on(proxies[1], keys) as two,
        load_on(proxies[2], keys) as three,
    ):
        take(one, 200)
        servers = break_it()
        recovery = until_together(stage, proxies, servers)
        take(one, 200)
    seen = one.seen + two.seen + three.seen
    yield load_row(fault, seen, recovery)
    yield limit_row(stage, proxies, f"after: {fault}", 0)


def load_row(fault: str, seen: list[Seen], recovery: float) -> Row:
    """It held where nobody noticed."""
    statuses = [one.status for one in seen]
    longest = round(1000 * max(one.seconds for one in seen))
    return Row(
        "instances",
        fault,
        f"{len(statuses):,} requests to three proxies, half of them limited",
        f"{counted(statuses)}; longest {longest} ms",
        recovery,
        {"every request is answered": set(statuses) == {200}},
        {"longest": longest},
    )


def limit_row(
    stage: Stage, proxies: list[Proxy], fault: str, tolerance: int, recovery: float | None = None
) -> Row:
    """A new key's limit, asked for twice over by all at once."""
    statuses = granted(proxies, stage.new_key(LIMIT)[0], EACH)
    return Row(
        "instances",
        fault,
        f"limit {LIMIT}, {EACH} requests at once to each of three proxies",
        counted(statuses.elements()),
        recovery,
        {
            "the limit is granted": abs(statuses[200] - LIMIT) <= tolerance,
            "the others get 429": statuses.keys() <= {200, 429},
        },
        {"granted": statuses[200]},
    )


def until_together(stage: Stage, proxies: list[Proxy], servers: list["redis.Redis"]) -> float:
    """Seconds until all proxies count on these servers."""
    probe = stage.new_key(1_000_000)

    def together() -> bool:
        try:
            return count_together(proxies, servers, probe)
        except redis.RedisError:
            return False

    return seconds_until(together)
