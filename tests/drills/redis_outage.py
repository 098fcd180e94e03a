"""Redis breaks under load: known keys go on, hardly slower, and the shared count comes back."""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

import redis

from devstack.ports import HOST
from devstack.proxy import Proxy
from devstack.redis import Redis
from tests.drills.counts import TARGET, count_together
from tests.drills.load import Client, Load, Seen
from tests.drills.report import Row, counted, median_ms
from tests.drills.stage import Quiet, Stage
from tests.fault_proxy import FaultProxy
from tests.upstreams import Upstream, eventually
from tests.wire import bearer, request

#: What "a few ms" may be on a busy machine: so many times as long, and so many ms. A Redis that is
#: waited for costs each request 100 ms and more.
TIMES, MEDIAN_ROOM, P95_ROOM = 2, 20.0, 60.0

#: Lines that two workers may log about one outage: gone and back, each.
LINES = 4


class RedisUnderTest:
    """A Redis of the drill's own; `through` is a way to it that can be slowed down."""

    def __init__(self, server: Redis, through: FaultProxy) -> None:
        self.server = server
        self.through = through
        self.client = redis.Redis(port=server.port)

    def signal(self, number: int) -> None:
        """Sends the process a signal."""
        os.kill(self.server.pid, number)

    def start(self) -> None:
        """Starts it again, empty."""
        self.server.start()
        self.server.wait_until_ready()


@dataclass(frozen=True)
class Fault:
    """What is done to Redis, and how it is taken back. `slowed`: the proxy goes `through`."""

    name: str
    begin: Callable[[RedisUnderTest], object]
    end: Callable[[RedisUnderTest], object]
    slowed: bool = False


FAULTS = (
    Fault("Redis stopped, started empty", lambda r: r.server.kill(), RedisUnderTest.start),
    Fault(
        "Redis frozen (SIGSTOP)",
        lambda r: r.signal(signal.SIGSTOP),
        lambda r: r.signal(signal.SIGCONT),
    ),
    Fault("Redis 100 ms slower", lambda r: r.through.delay(0.1), lambda r: r.through.heal(), True),
    Fault("Redis 1 s slower", lambda r: r.through.delay(1.0), lambda r: r.through.heal(), True),
    Fault(
        "Redis read-only (a replica)",
        lambda r: r.client.replicaof(HOST, 1),
        lambda r: r.client.replicaof("NO", "ONE"),
    ),
    Fault(
        "Redis has too few replicas to write",
        lambda r: r.client.config_set("min-replicas-to-write", 1),
        lambda r: r.client.config_set("min-replicas-to-write", 0),
    ),
    Fault(
        "Redis full (maxmemory, noeviction)",
        lambda r: r.client.config_set("maxmemory", "1mb"),
        lambda r: r.client.config_set("maxmemory", "0"),
    ),
    Fault(
        "network to Redis drops packets",
        lambda r: r.through.stall(),
        lambda r: r.through.heal(),
        True,
    ),
)


@contextmanager
def redis_under_test(folder: Path) -> Iterator[RedisUnderTest]:
    """A fresh one, which ends with the block."""
    server = Redis(Path(tempfile.mkdtemp(prefix="redis-", dir=folder)))
    server.start()
    try:
        server.wait_until_ready()
        with FaultProxy(server.port) as through:
            tested = RedisUnderTest(server, through)
            yield tested
            tested.client.close()
    finally:
        server.kill()


def drill(stage: Stage) -> Iterator[Row]:
    """Every fault, each on a proxy of its own."""
    for fault in FAULTS:
        yield outage(stage, fault)
        stage.clear()


def outage(stage: Stage, fault: Fault, answers: int = 500, quiet: Quiet = nullcontext) -> Row:
    """Eight clients, half of them with a limited key; so many `answers` are waited for before the
    fault, in it (after its first second) and after it. What is compared is measured in `quiet`."""
    with Upstream() as mlflow, redis_under_test(stage.folder) as broken:
        address = broken.through.address if fault.slowed else f"{HOST}:{broken.server.port}"
        proxy = stage.proxy(
            REDIS_URL=f"redis://{address}/0",
            MLFLOW_SERVER_URL=mlflow.url,
            WEB_CONCURRENCY=2,
            INSTANCES=3,
        )
        limited, probe = stage.new_key(1_000_000), stage.new_key(1_000_000)
        with ExitStack() as ends:
            with quiet():
                load = ends.enter_context(load_on(proxy, (limited[0], stage.key()) * 4))
                take(load, answers)  # the first ones are slower: connections, decisions
                before = take(load, answers)
                lines = len(remarks(proxy))
                began = time.monotonic()
                fault.begin(broken)
                time.sleep(1)
                at_first = load.since(began)
                after = take(load, answers)
            fault.end(broken)
            recovery = seconds_until(lambda: count_together([proxy], [broken.client], probe))
            take(load, answers)
        said = remarks(proxy)[lines:]
        return row(fault.name, load.statuses, (before, at_first, after), said, recovery)


@contextmanager
def load_on(proxy: Proxy, keys: Sequence[str]) -> Iterator[Load]:
    """A client for each of the keys, with a kept-alive connection."""
    clients = [Client(proxy.url) for _ in keys]
    asked = [request("GET", TARGET, bearer(key)) for key in keys]
    try:
        with Load(lambda n: clients[n].ask(asked[n]).status, len(keys), pause=0.01) as load:
            yield load
    finally:
        for client in clients:
            client.close()


def row(
    name: str,
    statuses: list[int],
    phases: tuple[list[Seen], list[Seen], list[Seen]],
    lines: list[str],
    recovery: float,
) -> Row:
    """The row; `phases` are before the fault, its first second, and after that. It held where all
    answers were 200, later on hardly slower than before, and the log was left in peace."""
    before, at_first, after = phases
    medians = [median_ms([one.seconds for one in seen]) for seen in (before, after)]
    p95s = [p95_ms(seen) for seen in (before, after)]
    longest = round(max(one.seconds for one in at_first) * 1000)
    slower = medians[1] > TIMES * medians[0] + MEDIAN_ROOM or p95s[1] > TIMES * p95s[0] + P95_ROOM
    rate = round(len(before) / (before[-1].began - before[0].began))
    return Row(
        "redis_outage",
        name,
        f"{rate} requests/s, half of them limited",
        f"{counted(statuses)}; median {medians[0]} → {medians[1]} ms, "
        f"p95 {p95s[0]} → {p95s[1]} ms, longest in the first second {longest} ms; "
        f"{len(lines)} log lines",
        recovery,
        {
            "every request is answered": set(statuses) == {200},
            "hardly slower": not slower,
            "the log is quiet": len(lines) <= LINES,
        },
        {"medians": medians, "p95s": p95s, "longest": longest, "lines": lines},
    )


def take(load: Load, answers: int) -> list[Seen]:
    """So many answers to requests from now on."""
    began = time.monotonic()
    eventually(lambda: len(load.since(began)) >= answers, f"{answers} answers", 60)
    return load.since(began)


def p95_ms(seen: list[Seen]) -> float:
    """What 95% stay under, in milliseconds."""
    return round(1000 * quantiles([one.seconds for one in seen], n=20)[-1], 2)


def remarks(proxy: Proxy) -> list[str]:
    """The lines of the log that are not about one request."""
    lines = [line for line in proxy.log_lines() if line["logger"] != "hokusai.access"]
    return [f"{line['level']} {line['message']}" for line in lines]


def seconds_until(condition: Callable[[], bool]) -> float:
    """How long it takes until the condition holds."""
    began = time.monotonic()
    eventually(condition, "recovery", 30)
    return time.monotonic() - began
