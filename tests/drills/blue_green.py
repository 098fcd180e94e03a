"""Blue and green behind nginx, under load: the next version beside the present one, then back.

nginx stands in the load balancer's place, with the rules that are made from infrastructure/. A
version is started and ready before it is asked, and is asked before the other one is not; that one
is stopped last. Nothing is reloaded.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from devstack.environments import ROOT
from devstack.nginx import Nginx, find_nginx
from devstack.ports import HOST, free_port
from devstack.proxy import Proxy
from tests.drills.load import Client, Load
from tests.drills.report import Row, counted, p99_ms
from tests.drills.restarts import PAUSE, SEARCH
from tests.drills.rollback import NEW, OLD, Release, checkout
from tests.drills.stage import Stage
from tests.upstreams import eventually
from tests.wire import bearer, call, request

#: Instances of each group.
INSTANCES = 2
OTHER = {"blue": "green", "green": "blue"}
PUBLIC = "Host: registry.hokus.ai"


class BlueGreen:
    """Two groups of instances behind nginx; the old version is blue, the new one green."""

    def __init__(self, stage: Stage) -> None:
        find_nginx()
        self._stage = stage
        self._folder = stage.folder / f"blue-green-{free_port()}"
        self._folders = {
            group: checkout(version, ROOT, self._folder / version)
            for group, version in (("blue", OLD), ("green", NEW))
        }
        self._ports = {group: [free_port() for _ in range(INSTANCES)] for group in OTHER}
        self.serving: dict[str, list[Proxy]] = {"blue": [], "green": []}
        addresses = {g: [f"{HOST}:{port}" for port in ports] for g, ports in self._ports.items()}
        self.nginx = Nginx(self._folder / "nginx", addresses)

    def start(self, group: str) -> None:
        """All instances of a group, until they are ready."""
        settings = {
            "MLFLOW_SERVER_URL": self._stage.mlflow().url,
            "HOKUSAI_AUTH_SERVICE_URL": self._stage.auth_url,
            "REDIS_URL": self._stage.redis_url,
            "AUTH_CACHE_SECRET": "the same for both versions",
            "WEB_CONCURRENCY": "1",
            "TRUSTED_PROXY_HOPS": "1",
            "KEEPALIVE": "165",
            "DRAIN_DELAY": "1",
            "GRACEFUL_TIMEOUT": "20",
        }
        for number, port in enumerate(self._ports[group]):
            release = Release(self._folders[group], settings, port=port)
            release.log = self._folder / f"{group}-{number}.log"
            self._stage.started.append(release)
            release.start()
            self.serving[group].append(release)
        for proxy in self.serving[group]:
            proxy.wait_until_ready()

    def switch(self, group: str) -> str:
        """This group serves in the other one's place; what took how long."""
        other, began = OTHER[group], time.monotonic()
        self.start(group)
        ready = time.monotonic()
        self.nginx.put_in(group)
        eventually(lambda: self.version() == _version(group), "the first answer of this version")
        both = time.monotonic()
        self.nginx.take_out(other)
        only = {self.version() for _ in range(4 * INSTANCES)}
        if only != {_version(group)}:
            raise AssertionError(f"{only} answer")
        alone = time.monotonic()
        for proxy in self.serving[other]:
            os.kill(proxy.pid, signal.SIGTERM)
        gone = self.serving.pop(other)
        self.serving[other] = []
        eventually(lambda: not any(proxy.is_running() for proxy in gone), "their end", 40)
        if {proxy.exit_status() for proxy in gone} != {0}:
            raise AssertionError("they did not end in order")
        end = time.monotonic()
        return (
            f"ready {ready - began:.1f} s, in use {both - ready:.1f} s, the others out "
            f"{alone - both:.1f} s, drained and gone {end - alone:.1f} s, in all "
            f"{end - began:.1f} s"
        )

    def version(self) -> str:
        """Who answers through nginx."""
        return str(json.loads(call(self.nginx.url, "GET", "/health", PUBLIC).body)["version"])

    @contextmanager
    def load(self, clients: int) -> Iterator[Load]:
        """Requests through nginx: half on kept connections, half POSTs."""
        fields = (PUBLIC, bearer(self._stage.key()), "Content-Type: application/json")
        body = b'{"max_results": 1}'
        asked = [request(method, SEARCH, *fields, body=body) for method in ("GET", "POST")]
        kept = [Client(self.nginx.url) for _ in range(clients)]

        def ask(number: int) -> int:
            answer = kept[number].ask(asked[number // 2 % 2])
            if not number % 2:
                kept[number].close()
            return answer.status if answer.whole else 0

        with Load(ask, clients, PAUSE) as load:
            yield load
        for client in kept:
            client.close()


def _version(group: str) -> str:
    return {"blue": OLD, "green": NEW}[group]


def drill(stage: Stage, clients: int = 8, between: float = 3.0) -> Iterator[Row]:
    """Blue, green, blue again. `between`: seconds of load between the steps. NginxMissing where
    there is none."""
    there = BlueGreen(stage)
    there.start("blue")
    there.nginx.take_out("green")
    there.nginx.start()
    try:
        there.nginx.wait_until_ready()
        with there.load(clients) as load:
            time.sleep(between)
            forward = there.switch("green")
            time.sleep(between)
            back = there.switch("blue")
            time.sleep(between)
    finally:
        there.nginx.stop()
    times = [seen.seconds for seen in load.seen]
    failed = sum(status != 200 for status in load.statuses)
    yield Row(
        "blue-green",
        f"{INSTANCES} instances of the next version beside those that serve behind nginx, and back",
        f"{clients} clients, half on kept connections, half POSTs: {len(times):,} requests",
        f"{counted(load.statuses)}; failed {failed}; p99 {p99_ms(times)} ms; "
        f"forward: {forward}; back: {back}",
        None,
        held=failed == 0 and len(times) > 0,
        numbers={"requests": len(times), "failed": failed, "p99_ms": p99_ms(times)},
    )
