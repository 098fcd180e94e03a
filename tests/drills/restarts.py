"""Stops and restarts under load: nothing that was accepted is lost.

The load is clients of two sorts, some that keep their connection and some that open one for each
request, half of the requests being POSTs, which nobody may repeat. Each request counts whose answer
was not 200, or not whole.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import psutil

from devstack.proxy import Proxy
from devstack.server import answers
from tests.drills.load import Client, Load
from tests.drills.report import Row, counted, p99_ms
from tests.drills.stage import Stage
from tests.upstreams import Answer, Upstream, eventually, pause, send, sized
from tests.wire import bearer, request

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search?max_results=1"

#: Seconds MLflow takes for an answer, and seconds a client waits between two requests.
WORK, PAUSE = 0.005, 0.02


class Instances:
    """Several proxies behind a tiny round robin: one is asked only while its /ready is 200, looked
    at every `every` seconds, as a load balancer does. A context manager."""

    def __init__(self, proxies: list[Proxy], every: float = 0.1) -> None:
        self.proxies = proxies
        self.ready: list[Proxy] = []
        self._every = every
        self._turn = count()
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch)

    def __enter__(self) -> "Instances":
        self._watching.start()
        eventually(lambda: len(self.ready) == len(self.proxies), "all instances to be ready")
        return self

    def __exit__(self, *why: object) -> None:
        self._over.set()
        self._watching.join()

    def next(self) -> Proxy:
        """The next instance that is ready."""
        ready = self.ready
        return ready[next(self._turn) % len(ready)]

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            self.ready = [proxy for proxy in self.proxies if answers(f"{proxy.url}/ready")]


@contextmanager
def load_on(instances: Instances, key: str, clients: int) -> Iterator[Load]:
    """Requests through the round robin, until the block ends."""
    kept: list[dict[Proxy, Client]] = [{} for _ in range(clients)]
    fields, body = (bearer(key), "Content-Type: application/json"), b'{"max_results": 1}'
    asked = [request(method, SEARCH, *fields, body=body) for method in ("GET", "POST")]

    def ask(number: int) -> int:
        proxy = instances.next()
        fresh = Client(proxy.url)
        client = kept[number].setdefault(proxy, fresh) if number % 2 else fresh
        answer = client.ask(asked[number // 2 % 2])
        if not number % 2:
            client.close()
        return answer.status if answer.whole else 0

    with Load(ask, clients, PAUSE) as load:
        yield load
    for by_proxy in kept:
        for client in by_proxy.values():
            client.close()


@contextmanager
def working_mlflow() -> Iterator[Upstream]:
    """A fake MLflow that takes a moment for each answer."""
    with Upstream() as fake:
        fake.answers(Answer(pause(WORK), send(sized(b"{}"))))
        yield fake


def rolling_restart(stage: Stage, rounds: int, clients: int = 8) -> Row:
    """Two instances, each stopped by SIGTERM and started again in turn, under load."""
    with working_mlflow() as fake:
        settings = {"DRAIN_DELAY": 1, "GRACEFUL_TIMEOUT": 20, "HEALTH_CACHE_TTL": 0}
        proxies = [
            stage.proxy(MLFLOW_SERVER_URL=fake.url, WEB_CONCURRENCY=2, **settings) for _ in range(2)
        ]
        took = []
        with Instances(proxies) as instances, load_on(instances, stage.key(), clients) as load:
            for proxy in proxies * rounds:
                took.append(_restart(proxy))
                eventually(lambda: len(instances.ready) == 2, "both instances to be ready")
                time.sleep(0.5)
    return _row(
        "rolling restart",
        f"two instances stopped (SIGTERM) and started in turn, {rounds * 2} times",
        load,
        clients,
        f"stopped in {max(took):.1f} s at most (DRAIN_DELAY 1 s)",
    )


def _restart(proxy: Proxy) -> float:
    """Seconds that the stop took."""
    began = time.monotonic()
    os.kill(proxy.pid, signal.SIGTERM)
    eventually(lambda: not proxy.is_running(), "the end of the instance", 40)
    took = time.monotonic() - began
    proxy.stop()
    proxy.start()
    proxy.wait_until_ready()
    return took


def reload(stage: Stage, rounds: int, drain: float = 0.0, clients: int = 8) -> Row:
    """One instance whose workers are replaced by SIGHUP, under load."""
    with working_mlflow() as fake:
        proxy = stage.proxy(
            MLFLOW_SERVER_URL=fake.url, WEB_CONCURRENCY=2, GRACEFUL_TIMEOUT=20, DRAIN_DELAY=drain
        )
        alone = Instances([proxy])
        alone.ready = [proxy]  # whatever /ready says: nobody else is there
        took = []
        with load_on(alone, stage.key(), clients) as load:
            time.sleep(1)
            for _ in range(rounds):
                took.append(_reload(proxy))
                time.sleep(0.5)
    return _row(
        "reload",
        f"SIGHUP to one instance, {rounds} times, DRAIN_DELAY {drain:g} s",
        load,
        clients,
        f"new workers alone after {max(took):.1f} s at most",
    )


def _reload(proxy: Proxy) -> float:
    """Seconds until none of the old workers is left."""
    old = {worker.pid for worker in psutil.Process(proxy.pid).children()}
    began = time.monotonic()
    os.kill(proxy.pid, signal.SIGHUP)

    def replaced() -> bool:
        pids = {worker.pid for worker in psutil.Process(proxy.pid).children()}
        return len(pids) == len(old) and not pids & old

    eventually(replaced, "the new workers", 40)
    return time.monotonic() - began


def _row(drill: str, fault: str, load: Load, clients: int, more: str) -> Row:
    times = [seen.seconds for seen in load.seen]
    lost = sum(status != 200 for status in load.statuses)
    return Row(
        drill,
        fault,
        f"{clients} clients, half on kept connections, half POSTs: {len(times):,} requests",
        f"{counted(load.statuses)}; lost {lost}; p99 {p99_ms(times)} ms; {more}",
        None,
        facts={"no request is lost": lost == 0},
        numbers={"requests": len(times), "lost": lost, "p99_ms": p99_ms(times)},
    )
