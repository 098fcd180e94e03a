"""One Redis, sentinels, a cluster: REDIS_URL is all that changes."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from app.auth.cache import RECHECK
from app.state import redis_link
from app.state.redis_link import RedisLink, RedisUnavailable
from devstack.environments import ROOT
from devstack.ports import HOST
from devstack.proxy import Proxy
from tests.drills.auth_outage import AuthService, key_id_of, says
from tests.drills.counts import ask, count_together, granted
from tests.drills.redis_topologies import Cluster, Node, Sentinels, running
from tests.drills.stage import Quiet, Stage
from tests.fault_proxy import FaultProxy
from tests.upstreams import Upstream, eventually
from tests.wire import Wire, bearer, request


@dataclass(frozen=True)
class Kind:
    """One way to run Redis: its REDIS_URL, how it is started, the servers that count, and what is
    done when one of them is killed."""

    url: str
    running: Callable[[], AbstractContextManager[None]]
    nodes: Sequence[Node]
    replace: Callable[[Node], None]

    @property
    def clients(self) -> list["redis.Redis"]:
        """Of the servers that run."""
        return [node.client for node in self.nodes if node.is_running()]

    def listeners(self) -> Counter[Node]:
        """How many subscriptions each server has."""
        running = [node for node in self.nodes if node.is_running()]
        return Counter({node: len(node.client.client_list(_type="pubsub")) for node in running})

    def lose_the_one_where_all_listen(self) -> None:
        """Kills it, and waits until all listen again, there or elsewhere."""
        ((node, listeners),) = self.listeners().most_common(1)
        node.kill()
        self.replace(node)
        eventually(lambda: self.listeners().total() == listeners, "that all listen again")


def start_again(node: Node) -> None:
    node.start()
    node.wait_until_ready()


def single(folder: Path) -> Kind:
    node = Node(folder)

    @contextmanager
    def run() -> Iterator[None]:
        with running(node):
            yield

    return Kind(node.url, run, [node], start_again)


def sentinels(folder: Path) -> Kind:
    made = Sentinels(folder)

    def fail_over(master: Node) -> None:
        eventually(made.has_failed_over, "the fail-over")

    return Kind(made.url, made.running, [made.master, made.replica], fail_over)


def cluster(folder: Path) -> Kind:
    made = Cluster(folder)

    def start_and_join(node: Node) -> None:
        start_again(node)
        eventually(made.is_whole, "a whole cluster")

    return Kind(made.url, made.running, made.nodes, start_and_join)


@pytest.mark.slow
@pytest.mark.parametrize("make", [single, sentinels, cluster])
def test_two_proxies_start_without_it_and_share_everything_once_it_is_there(
    make: Callable[[Path], Kind], stage: Stage, fake: Upstream, tmp_path: Path
) -> None:
    kind = make(tmp_path / "redis")
    with Upstream() as auth, FaultProxy(auth.port) as way:
        service = AuthService(auth, way)
        settings = {
            "REDIS_URL": kind.url,
            "REDIS_TIMEOUT": 2,  # a machine that is busy for a moment is not an outage
            "MLFLOW_SERVER_URL": fake.url,
            "HOKUSAI_AUTH_SERVICE_URL": service.url,
            "AUTH_CACHE_SECRET": "the same for both",
            "INSTANCES": 2,
            "WEB_CONCURRENCY": 2,
        }
        proxies = [stage.proxy(**settings) for _ in range(2)]
        service.limits = {"hk_test_alone": 4, "hk_test_probe": 1000, "hk_test_together": 5}
        assert granted(proxies, "hk_test_alone", 5) == {200: 4, 429: 6}, "each its half"
        with kind.running():
            probe = ("hk_test_probe", key_id_of("hk_test_probe"))
            eventually(lambda: count_together(proxies, kind.clients, probe), "the shared count")
            assert granted(proxies, "hk_test_together", 5) == {200: 5, 429: 5}
            the_second_one_need_not_ask(proxies, service)
            a_revocation_is_heard(proxies, service, kind, "hk_test_ending")
            kind.lose_the_one_where_all_listen()
            a_revocation_is_heard(proxies, service, kind, "hk_test_ending_later")
        stage.clear()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("make", [single, sentinels, cluster])
def test_hundreds_of_requests_that_begin_together_are_counted_together(
    make: Callable[[Path], Kind], stage: Stage, fake: Upstream, tmp_path: Path, alone: Quiet
) -> None:
    """On a worker whose client has no connection yet, and has fewer than requests begin."""
    kind = make(tmp_path / "redis")
    with kind.running(), ExitStack() as ends:
        settings = {"REDIS_URL": kind.url, "REDIS_TIMEOUT": 1, "MAX_IN_FLIGHT_PER_KEY": 1000}
        proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url, **settings)
        asked = request("GET", "/api/mlflow/version", bearer(stage.new_key(1000)[0]))
        with alone():
            wires = [ends.enter_context(Wire(proxy.url)) for _ in range(300)]
            for wire in wires:
                wire.send(asked)
            left = {wire.read().one("X-RateLimit-Remaining") for wire in wires}
        assert left == {str(number) for number in range(700, 1000)}
        stage.clear()


def test_a_cluster_that_was_not_whole_at_first_is_used_once_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """redis-py keeps the slots that it has read, and asks for no other."""
    monkeypatch.setattr(redis_link, "REFUSAL_INTERVAL", 0.2)
    made = Cluster(tmp_path / "redis")
    with running(*made.nodes):
        made.assign()
        link = RedisLink(f"redis+cluster://{HOST}:{made.nodes[1].port}", 2, 1)

        def is_used() -> bool:
            with suppress(RedisUnavailable):
                link.call(link.client.get, "k1")  # of the third node
                return True
            return False

        assert not is_used()
        made.join()
        eventually(is_used, "its use")
        link.client.close()


def the_second_one_need_not_ask(proxies: list[Proxy], service: AuthService) -> None:
    assert ask(proxies[0], "hk_test_learnt") == 200
    assert {ask(proxy, "hk_test_learnt") for proxy in proxies * 12} == {200}
    assert len(service.asked["hk_test_learnt"]) == 1


def a_revocation_is_heard(proxies: list[Proxy], service: AuthService, kind: Kind, key: str) -> None:
    service.answer = service.yes
    assert {ask(proxy, key) for proxy in proxies * 12} == {200}
    service.answer = says(b"{}", 401)
    command = [sys.executable, "-m", "flask", "revoke", key_id_of(key)]
    environment = os.environ | {"REDIS_URL": kind.url, "REDIS_TIMEOUT": "5"}
    done = subprocess.check_output(command, cwd=ROOT, env=environment, text=True)
    announced = time.monotonic()
    assert "workers that heard it: 4." in done
    eventually(lambda: {ask(proxy, key) for proxy in proxies * 12} == {401}, "the end of the key")
    assert time.monotonic() - announced < RECHECK, "none had to find the mark that is left in Redis"
