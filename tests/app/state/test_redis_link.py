"""The way to Redis: left alone when it is certain that it is away, and found again by itself."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import redis
from prometheus_client import REGISTRY, generate_latest

from app.state.redis_client import LazyCluster, connect
from app.state.redis_link import RedisLink, RedisUnavailable
from devstack.ports import HOST
from devstack.redis import Redis
from tests.drills.redis_topologies import Cluster, Node
from tests.fault_proxy import FaultProxy
from tests.upstreams import Upstream, eventually, refused_port

TIMEOUT, RETRY = 0.2, 0.1

MakeLink = Callable[..., RedisLink]


@pytest.fixture
def server(start_redis: Callable[[], Redis]) -> Redis:
    """A Redis to be broken."""
    return start_redis()


@pytest.fixture
def way(server: Redis) -> Iterator[FaultProxy]:
    """The way to it, which can be broken too."""
    with FaultProxy(server.port) as way:
        yield way


@pytest.fixture
def make_link(way: FaultProxy) -> Iterator[MakeLink]:
    """Links through that way, or to another address."""
    made: list[RedisLink] = []

    def make(url: str = f"redis://{way.address}/0", timeout: float = TIMEOUT) -> RedisLink:
        made.append(RedisLink(url, timeout, RETRY))
        return made[-1]

    yield make
    for link in made:
        if link.client is not None:
            link.client.close()


@pytest.fixture
def link(make_link: MakeLink) -> RedisLink:
    return make_link()


def ping(link: RedisLink) -> bool:
    """Whether Redis answers."""
    try:
        return bool(link.call(lambda: link.client.ping()))
    except RedisUnavailable:
        return False


def seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


# --- away ----------------------------------------------------------------------------------------


def test_without_redis_nothing_is_asked(make_link: MakeLink) -> None:
    link = make_link("memory://")
    assert (link.client, link.unavailable, ping(link)) == (None, True, False)


def test_a_closed_client_leaves_no_connection(make_link: MakeLink, redis_url: str) -> None:
    link = make_link(redis_url)
    number = link.call(link.client.client_id)
    link.client.close()
    with redis.Redis.from_url(redis_url) as client:
        eventually(
            lambda: str(number) not in {seen["id"] for seen in client.client_list()}, "its end"
        )


def test_an_answer_is_passed_on(link: RedisLink) -> None:
    assert link.call(link.client.echo, "hello") == b"hello"
    assert not link.unavailable


def test_a_defect_in_its_use_fails_no_request_and_is_logged_once(
    link: RedisLink, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise TypeError("of a library")

    for _ in range(3):
        with pytest.raises(RedisUnavailable):
            link.call(fail)
    assert [record.message for record in caplog.records] == ["the use of Redis failed"]
    assert ping(link), "others use it on"


def test_connections_to_a_host_that_is_gone_do_not_keep_it_away(
    make_link: MakeLink, server: Redis, way: FaultProxy, start_redis: Callable[[], Redis]
) -> None:
    """As after a fail-over by DNS: nobody answers on the old connections, nor resets them."""
    link, many = make_link(), 30
    together = threading.Barrier(many, timeout=30)

    def ping_together() -> bool:
        together.wait()
        return ping(link)

    with ThreadPoolExecutor(many) as threads:
        list(threads.map(lambda _: ping_together(), range(many)))
    other = start_redis()
    os.kill(server.pid, signal.SIGSTOP)
    try:
        way.lead_to(other.port, with_reset=False)
        eventually(lambda: not ping(link) and link.unavailable, "the outage")
        assert seconds(lambda: eventually(lambda: ping(link), "its end")) < 10 * (TIMEOUT + RETRY)
    finally:
        os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize("fault", ["refuse", "stall"])
def test_after_two_failures_it_is_left_alone(link: RedisLink, way: FaultProxy, fault: str) -> None:
    assert ping(link)
    getattr(way, fault)()
    assert [ping(link), ping(link)] == [False, False]
    connections = way.connections
    assert seconds(lambda: [ping(link) for _ in range(100)]) < TIMEOUT
    assert way.connections - connections <= 1, "the probe's"
    assert link.unavailable


def test_one_that_is_slower_than_the_time_out_is_away(link: RedisLink, way: FaultProxy) -> None:
    assert ping(link)
    way.delay(TIMEOUT * 2)
    assert seconds(lambda: [ping(link) for _ in range(100)]) < TIMEOUT * 4
    assert link.unavailable


def test_one_broken_connection_is_no_outage(link: RedisLink, way: FaultProxy) -> None:
    way.cut(after=1)
    assert not ping(link)
    assert link.unavailable, "until it answers"
    way.heal()
    assert ping(link)
    assert not link.unavailable


def test_a_command_that_failed_while_others_were_answered_says_nothing(
    make_link: MakeLink, way: FaultProxy
) -> None:
    """As in a worker that is too busy to read the answers in time."""
    link, waiting, go_on = make_link(), threading.Barrier(9), threading.Event()

    def late() -> None:
        waiting.wait(20)
        assert go_on.wait(20)
        raise redis.TimeoutError

    def call_late(_: int) -> None:
        with pytest.raises(RedisUnavailable):
            link.call(late)

    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(call_late, number) for number in range(8)]
        waiting.wait(20)
        assert ping(link)
        go_on.set()
        for call in calls:
            call.result()
    assert not link.unavailable


@pytest.mark.parametrize(
    ("setting", "broken", "whole"),
    [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")],
    ids=["full", "without the replicas it wants"],
)
def test_one_that_takes_no_writes_is_away_though_it_answers(
    link: RedisLink,
    server: Redis,
    caplog: pytest.LogCaptureFixture,
    setting: str,
    broken: str,
    whole: str,
) -> None:
    with redis.Redis(port=server.port) as operator:
        operator.config_set(setting, broken)
        with pytest.raises(RedisUnavailable):
            link.call(link.client.set, "name", "value")
        time.sleep(3 * RETRY)
        assert link.unavailable, "though it answers pings"
        operator.config_set(setting, whole)
    eventually(lambda: ping(link), "its return")
    eventually(lambda: not link._is_watched and link._refusal is None, "the end of the watch")
    assert len(caplog.messages) == 2, "gone and back"


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_command_that_is_refused_is_no_outage_and_is_said_once(
    make_link: MakeLink, server: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis(port=server.port) as operator:
        operator.execute_command("ACL", "SETUSER", "u", "on", ">s", "~*", "&*", "+@all", "-getex")
        link = make_link(f"redis://u:s@{HOST}:{server.port}/0", timeout=5)
        for _ in range(20):
            with pytest.raises(RedisUnavailable):
                link.call(link.client.getex, "name")
            assert ping(link)
            assert not link.unavailable
        eventually(lambda: "may not run GETEX" in caplog.text, "the line")
        shown = generate_latest(REGISTRY).decode()
        assert 'hokusai_proxy_redis_refused{right="getex"} 1.0' in shown
        operator.execute_command("ACL", "SETUSER", "u", "+getex")
        eventually(lambda: "no longer refuses anything" in caplog.text, "the end of it", timeout=20)
        assert len(caplog.messages) == 2
        assert 'right="getex"} 0.0' in generate_latest(REGISTRY).decode()


def test_a_refusal_that_the_probe_does_not_find_leaves_redis_in_use(link: RedisLink) -> None:
    link.call(link.client.set, "name", "value")
    with pytest.raises(RedisUnavailable):
        link.call(link.client.lpush, "name", "value")  # of the wrong type
    assert not link.unavailable
    assert ping(link)


@pytest.mark.slow
def test_a_cluster_without_one_of_its_nodes_is_used_for_the_rest(
    make_link: MakeLink, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = Cluster(tmp_path)
    with made.running():
        for node in made.nodes:
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        link = make_link(made.url, timeout=5)
        names = [f"name-{number}" for number in range(12)]
        assert all(link.call(link.client.set, name, "1") for name in names)
        made.nodes[1].kill()

        def has_heard(node: Node) -> bool:
            return "fail" in str(node.ask("CLUSTER NODES"))

        for node in (made.nodes[0], made.nodes[2]):
            eventually(partial(has_heard, node), "the news")

        def is_known() -> bool:
            for name in names:
                _is_set(link, name)
            return "Redis refuses some commands" in caplog.text

        eventually(is_known, "the line")
        answered = [name for name in names if _is_set(link, name)]
        assert 0 < len(answered) < len(names)
        assert not link._unavailable
        assert caplog.text.count("Redis is back") <= 1, "before it was known"


@pytest.mark.slow
def test_a_slot_that_stays_in_migration_leaves_redis_in_use(
    make_link: MakeLink, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As an interrupted reshard leaves it: no script runs on two keys one of which exists."""
    made = Cluster(tmp_path)
    with made.running():
        link = make_link(made.url, timeout=5)
        assert _is_set(link, "{a}1")
        slot = made.nodes[0].ask("CLUSTER", "KEYSLOT", "{a}1")
        ends = [node for node in made.nodes if (b"{a}1" in node.ask("KEYS", "*"))]
        ends += [node for node in made.nodes if node not in ends][:1]
        for node, state, peer in zip(ends, ("MIGRATING", "IMPORTING"), ends[::-1], strict=True):
            node.ask("CLUSTER", "SETSLOT", slot, state, peer.ask("CLUSTER MYID"))
        script = link.client.register_script(b"return 1")
        for _ in range(3):
            with pytest.raises(RedisUnavailable):
                link.call(script, ["{a}1", "{a}2"], [])
        assert not link._unavailable
        assert _is_set(link, "{a}1")
        eventually(lambda: "Redis refused one command: TTL exhausted." in caplog.text, "the line")
        assert len(caplog.messages) == 1


def _is_set(link: RedisLink, name: str) -> bool:
    try:
        return bool(link.call(link.client.set, name, "1"))
    except RedisUnavailable:
        return False


# --- back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["refuse", "stall"])
def test_it_is_found_again_by_itself(link: RedisLink, way: FaultProxy, fault: str) -> None:
    getattr(way, fault)()
    assert not any(ping(link) for _ in range(5))
    way.heal()
    eventually(lambda: not link.unavailable, "its return")
    assert ping(link)


def test_going_and_coming_are_said_once_and_not_every_time(
    link: RedisLink, way: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hokusai.redis")
    for _ in range(4):
        way.refuse()
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: ping(link), range(100)))
        assert link.unavailable
        way.heal()
        eventually(lambda: ping(link), "its return")
    eventually(lambda: len(caplog.messages) >= 2, "what is said")
    away, back = caplog.messages
    assert away == "Redis is unavailable (ConnectionError); continuing without it"
    assert back == "Redis is back"


# --- addresses -----------------------------------------------------------------------------------


def test_a_cluster_that_is_away_keeps_nobody_from_starting() -> None:
    with refused_port() as port:
        link = RedisLink(f"redis+cluster://:secret@{HOST}:{port}", TIMEOUT, RETRY)
        assert isinstance(link.client, LazyCluster)
        assert not ping(link)
        assert link.unavailable


def test_the_hosts_and_the_service_of_sentinels_are_read() -> None:
    client = connect("redis+sentinel://ann:p%40ss@one:26379,two:26380/mymaster/3", TIMEOUT)
    pool = client.connection_pool
    asked = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in asked] == [("one", 26379), ("two", 26380)]
    assert pool.service_name == "mymaster"
    wanted = {"db": 3, "username": "ann", "password": "p@ss", "socket_timeout": TIMEOUT}
    assert wanted.items() <= pool.connection_kwargs.items()


# --- what is wrong -------------------------------------------------------------------------------

WRONG = {
    "read-only": "REPLICAOF 127.0.0.1 1",
    "full": "CONFIG SET maxmemory 1",
    "no password": "CONFIG SET requirepass secret",
    "permission": "ACL SETUSER default resetkeys",
    "replicas": "CONFIG SET min-replicas-to-write 1",
}


@pytest.mark.parametrize("word", WRONG)
def test_a_redis_that_answers_and_is_of_no_use(
    make_link: MakeLink, server: Redis, word: str
) -> None:
    with redis.Redis.from_url(server.url) as operator:
        operator.execute_command(WRONG[word])
    trouble = make_link(timeout=5).trouble()
    assert trouble is not None
    assert trouble[0] == word


def test_a_redis_that_is_well(link: RedisLink) -> None:
    assert link.trouble() is None


def test_a_redis_that_is_silent_or_gone(make_link: MakeLink, way: FaultProxy) -> None:
    link = make_link()
    way.stall()
    trouble = link.trouble()
    assert trouble is not None
    assert trouble[0] == "silent"
    way.refuse()
    trouble = make_link().trouble()
    assert trouble is not None
    assert trouble[0] == "unreachable"
    way.heal()
    eventually(lambda: make_link().trouble() is None, "the recovery")


def test_a_redis_that_wants_tls(make_link: MakeLink) -> None:
    """It takes our bytes for a broken handshake, and closes."""
    with Upstream() as closing:
        link = make_link(f"redis://127.0.0.1:{closing.port}/0", timeout=5)
        with ThreadPoolExecutor(1) as threads:
            asking = threads.submit(link.trouble)
            eventually(lambda: closing.open_connections, "the connection")
            closing.drop_connections()
            trouble = asking.result(10)
    assert trouble is not None
    assert trouble[0] == "closed"
