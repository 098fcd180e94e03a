"""The subscription to revocations: kept, renewed, and heard to its end, on real Redis servers."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from app.auth import revocations
from app.auth.revocation_marks import TOMBSTONE, RevocationMarks
from app.auth.revocations import Revocations
from app.state.instance_store import InstanceStore
from app.state.redis_client import CHANNEL
from app.state.redis_link import RedisLink, RedisUnavailable
from app.state.shared_values import SharedValues
from devstack.ports import HOST, free_port
from devstack.redis import Redis
from tests.drills.redis_topologies import Cluster, Node, running
from tests.fault_proxy import FaultProxy
from tests.upstreams import eventually


def test_who_listens_follows_the_name_to_another_server(
    start_redis: Callable[[], Redis], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server of before still takes connections, and hears of nothing."""
    monkeypatch.setattr(revocations, "MAX_AGE", 1.0)
    before, after = start_redis(), start_redis()
    with FaultProxy(before.port) as way:
        link = RedisLink(f"redis://{way.address}/0", 2, 1)
        marks = RevocationMarks(SharedValues(link, InstanceStore.at(tmp_path / "store")), 660)
        listener = Revocations(link, marks)
        listener.start()
        assert listener.listening.wait(10)
        for number in range(200):  # none is missed where one subscription follows another
            with redis.Redis(port=before.port) as client:
                client.publish(CHANNEL, f"key-{number}")
            time.sleep(0.02)
        eventually(lambda: len(marks._revoked) == 200, "all of them")
        way.lead_to(after.port, with_reset=False)

        def is_heard() -> bool:
            with redis.Redis(port=after.port) as client:
                client.publish(CHANNEL, "moved")
            return "moved" in marks._revoked

        eventually(is_heard, "that it listens there")


def test_who_listens_keeps_to_what_it_has_where_no_new_connection_is_left(
    start_redis: Callable[[], Redis], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(revocations, "MAX_AGE", 0.5)
    server = start_redis()
    with redis.Redis(port=server.port) as client:
        link = RedisLink(server.url, 2, 1)
        marks = RevocationMarks(SharedValues(link, InstanceStore.at(tmp_path / "store")), 660)
        listener = Revocations(link, marks)
        listener.start()
        assert listener.listening.wait(10)
        eventually(lambda: marks.revoke("first"), "a connection for marks")
        client.config_set("maxclients", len(client.client_list()))
        for number in range(100):
            client.publish(CHANNEL, f"key-{number}")
            time.sleep(0.02)
        eventually(lambda: len(marks._revoked) == 101, "all of them")


def test_who_listens_subscribes_again_at_once_where_redis_is_well(
    start_redis: Callable[[], Redis], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Something between has closed the connection; what is announced until then is lost."""
    monkeypatch.setattr(revocations, "RETRY_INTERVAL", 0.1)
    pauses: list[float] = []
    sleep = time.sleep

    def note(seconds: float) -> None:
        if threading.current_thread().name == "revocations":
            pauses.append(seconds)
        sleep(seconds)

    server = start_redis()
    link = RedisLink(server.url, 2, 1)
    marks = RevocationMarks(SharedValues(link, InstanceStore.at(tmp_path / "store")), 660)
    listener = Revocations(link, marks)
    listener.start()
    assert listener.listening.wait(10)
    sleep(0.1)
    monkeypatch.setattr(time, "sleep", note)
    with redis.Redis(port=server.port) as client:
        client.client_kill_filter(_type="pubsub")
        eventually(lambda: client.publish(CHANNEL, "key-1"), "the next subscription")
    eventually(lambda: "key-1" in marks._revoked, "the key's end")
    assert pauses[0] == 0


def test_what_is_announced_while_redis_stands_still_is_heard_afterwards(
    start_redis: Callable[[], Redis], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For longer than a subscription may be silent; Redis counts the old one as a receiver."""
    monkeypatch.setattr(revocations, "SILENCE", 1.0)
    server = start_redis()
    link = RedisLink(server.url, 2, 1)
    marks = RevocationMarks(SharedValues(link, InstanceStore.at(tmp_path / "store")), 660)
    listener = Revocations(link, marks)
    listener.start()
    assert listener.listening.wait(10)
    with (
        redis.Redis(port=server.port, socket_timeout=60) as client,
        ThreadPoolExecutor(1) as thread,
    ):
        client.ping()
        os.kill(server.pid, signal.SIGSTOP)
        published = thread.submit(client.publish, CHANNEL, "key-1")
        eventually(lambda: not listener.listening.is_set(), "that it is silent")
        os.kill(server.pid, signal.SIGCONT)
        assert published.result()
    eventually(lambda: "key-1" in marks._revoked, "the key's end")


def test_a_command_that_fails_in_a_cluster_breaks_no_subscription(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """redis-py makes all connections of its pool for that node anew."""
    monkeypatch.setattr(revocations, "PING_INTERVAL", 0.2)
    cluster = Cluster(tmp_path / "cluster")
    with cluster.running(), ThreadPoolExecutor(1) as thread:
        link = RedisLink(cluster.url, 0.5, 1)
        marks = RevocationMarks(SharedValues(link, InstanceStore.at(tmp_path / "store")), 660)
        listener = Revocations(link, marks)
        listener.start()
        assert listener.listening.wait(10)
        port = link.client.get_node_from_key(CHANNEL).port
        (node,) = (node for node in cluster.nodes if node.port == port)
        with redis.Redis(port=port, socket_timeout=60) as client:
            client.ping()
            os.kill(node.pid, signal.SIGSTOP)
            published = thread.submit(client.publish, CHANNEL, "key-1")
            with pytest.raises(RedisUnavailable):
                link.call(link.client.get, CHANNEL)
            time.sleep(0.5)  # more than the listener waits for one message
            os.kill(node.pid, signal.SIGCONT)
            assert published.result()
        eventually(lambda: "key-1" in marks._revoked, "the key's end")
        link.client.close()


def test_what_comes_late_over_the_subscription_before_is_heard(
    start_redis: Callable[[], Redis], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After an outage of the network TCP waits before it sends again what was lost; meanwhile a new
    connection is there."""
    monkeypatch.setattr(revocations, "SILENCE", 1.0)
    server = start_redis()
    with FaultProxy(server.port) as before, FaultProxy(before.port) as way:
        link = RedisLink(f"redis://{way.address}/0", 2, 1)
        marks = RevocationMarks(SharedValues(link, InstanceStore.at(tmp_path / "store")), 660)
        listener = Revocations(link, marks)
        listener.start()
        assert listener.listening.wait(10)
        before.stall()
        with redis.Redis(port=server.port) as client:
            assert client.publish(CHANNEL, "key-1")
        eventually(lambda: not listener.listening.is_set(), "that it is silent")
        way.lead_to(server.port, with_reset=False)
        assert listener.listening.wait(10)
        before.heal()
        eventually(lambda: "key-1" in marks._revoked, "the key's end")


def test_of_many_announcements_none_waits_for_redis_to_mark_those_before(
    start_redis: Callable[[], Redis], tmp_path: Path
) -> None:
    """A list of keys leaked, or a team is closed. Redis is 40 ms away."""
    server = start_redis()
    with FaultProxy(server.port) as way, redis.Redis(port=server.port) as client:
        link = RedisLink(f"redis://{way.address}/0", 2, 1)
        marks = RevocationMarks(SharedValues(link, InstanceStore.at(tmp_path / "store")), 660)
        listener = Revocations(link, marks)
        listener.start()
        assert listener.listening.wait(10)
        way.delay(0.04)
        began = time.monotonic()
        for number in range(100):
            client.publish(CHANNEL, f"key-{number}")
        eventually(lambda: len(marks._revoked) == 100, "all of them")
        assert time.monotonic() - began < 2, "not 100 times 40 ms"
        eventually(lambda: client.exists(f"{TOMBSTONE}key-99"), "the last mark")


@pytest.mark.slow
def test_who_listens_at_a_lost_node_of_a_cluster_follows_without_any_request(
    tmp_path: Path,
) -> None:
    """Lost without a reset; its replica takes over."""
    made = Cluster(tmp_path / "cluster")
    replica = Node(
        tmp_path / "replica",
        *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
        *("--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0"),
    )
    with made.running(), running(replica):
        link = RedisLink(made.url, 2, 1)
        marks = RevocationMarks(SharedValues(link, InstanceStore.at(tmp_path / "store")), 660)
        listener = Revocations(link, marks)
        listener.start()
        assert listener.listening.wait(10)
        (lost,) = (node for node in made.nodes if node.client.client_list(_type="pubsub"))
        bus = lost.command[lost.command.index("--cluster-port") + 1]
        replica.ask("CLUSTER MEET", HOST, lost.port, bus)
        lost_id = lost.ask("CLUSTER MYID").decode()
        eventually(lambda: lost_id in str(replica.ask("CLUSTER NODES")), "that they met")
        replica.ask("CLUSTER REPLICATE", lost_id)
        eventually(lambda: b"connected" in replica.client.role(), "a replica in step")
        os.kill(lost.pid, signal.SIGSTOP)
        eventually(lambda: replica.client.role()[0] == b"master", "the fail-over")

        def is_heard() -> bool:
            replica.ask("PUBLISH", CHANNEL, "key-1")
            return "key-1" in marks._revoked

        eventually(is_heard, "that it listens elsewhere", timeout=30)
