"""A revoked key ends everywhere within a second, also where an answer about it is under way."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from app.auth import revocations
from app.auth.authentication import Authenticator
from app.auth.cache import DecisionCache
from app.auth.client import AuthService
from app.auth.revocations import Revocations
from app.auth.single_flight import SingleFlight
from app.request.credentials import Credentials
from app.request.errors import AuthServiceUnavailable, Unauthenticated
from app.state.instance_store import InstanceStore
from app.state.redis_client import CHANNEL
from app.state.redis_link import RedisLink
from app.state.shared_values import SharedValues
from app.upstream.circuit import Circuit
from devstack.environments import ROOT
from devstack.redis import Redis
from tests.drills.counts import ask
from tests.drills.load import Load
from tests.drills.stage import Quiet, Stage
from tests.fault_proxy import FaultProxy
from tests.upstreams import Answer, Exchange, Received, Step, Upstream, eventually, send, sized

IP = "203.0.113.7"


def run(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A command of this repository, to its end; it waits for a Redis on a busy machine."""
    environment = {"REDIS_TIMEOUT": "5"} | environment
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- through real proxies ------------------------------------------------------------------------


class Instances:
    """Some proxies of two workers each, on one Redis of their own."""

    def __init__(self, stage: Stage, server: Redis, upstream_url: str, count: int) -> None:
        self.server = server
        self.client = redis.Redis(port=server.port)
        self.proxies = [
            stage.proxy(REDIS_URL=server.url, MLFLOW_SERVER_URL=upstream_url, WEB_CONCURRENCY=2)
            for _ in range(count)
        ]
        self.wait_for_listeners(set())

    def wait_for_listeners(self, old: set[str]) -> None:
        """Returns when every worker listens, two of each proxy, with a new subscription."""
        wanted = 2 * len(self.proxies)
        eventually(lambda: len(self.listeners() - old) == wanted, f"{wanted} listeners")

    def listeners(self) -> set[str]:
        """The subscriptions. Not by PUBSUB NUMSUB: Valkey 9.1.2 answers nonsense at the eighth."""
        return {client["id"] for client in self.client.client_list(_type="pubsub")}

    def statuses(self, secret: str) -> set[int]:
        """What a key is answered by them all; twelve connections reach both workers of each."""
        asked = self.proxies * 12
        with ThreadPoolExecutor(12) as threads:
            return set(threads.map(lambda proxy: ask(proxy, secret), asked))

    def seconds_to_refusal(
        self, secret: str, key_id: str, announce: Callable[[str], object]
    ) -> float:
        """From when the announcement was heard to when nobody lets the key in."""
        with self.client.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
            channel.subscribe(CHANNEL)
            channel.get_message(timeout=5)  # the subscription's own
            heard: list[float] = []

            def listen() -> None:
                told: Any = b""  # as is what workers publish to see whether they may
                while told != key_id.encode():
                    told = (channel.get_message(timeout=20) or {}).get("data")
                heard.append(time.monotonic())

            listener = threading.Thread(target=listen)
            listener.start()
            with ThreadPoolExecutor(1) as aside:  # a command's own end takes a second when busy
                announcing = aside.submit(announce, key_id)
                listener.join(30)
                eventually(lambda: self.statuses(secret) == {401}, "the end of the key")
                seconds = time.monotonic() - heard[0]
                announcing.result()
            return seconds


@pytest.fixture
def start_instances(
    stage: Stage, start_redis: Callable[[], Redis], fake: Upstream
) -> Iterator[Callable[[int], Instances]]:
    """Starts so many instances on a fresh Redis."""
    made: list[Instances] = []

    def start(count: int) -> Instances:
        made.append(Instances(stage, start_redis(), fake.url, count))
        return made[-1]

    yield start
    stage.clear()
    for instances in made:
        instances.client.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_ends_a_key_in_every_worker_of_three_instances_within_a_second(
    start_instances: Callable[[int], Instances], auth_service: Any, alone: Quiet
) -> None:
    instances = start_instances(3)
    url = instances.server.url

    def by_the_proxys_command(key_id: str) -> None:
        auth_service.store.revoke(key_id)
        done = run("flask", "revoke", key_id, REDIS_URL=url)
        assert (done.returncode, done.stderr) == (0, "")
        # The six workers, and the test.
        assert f"Announced on {CHANNEL}; workers that heard it: 7." in done.stdout

    def by_the_auth_services_command(key_id: str) -> None:
        database = str(auth_service.database)
        done = run(
            "devstack.auth_service", "revoke", key_id, "--database", database, "--redis-url", url
        )
        assert (done.returncode, done.stderr) == (0, "")

    for announce in (by_the_proxys_command, by_the_auth_services_command):
        revoked, other = auth_service.create_key(), auth_service.create_key()
        assert instances.statuses(revoked.key) == instances.statuses(other.key) == {200}
        with alone():
            seconds = instances.seconds_to_refusal(revoked.key, revoked.key_id, announce)
        print(f"{announce.__name__}: refused everywhere after {seconds:.2f} s")
        assert seconds < 1
        assert instances.statuses(other.key) == {200}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", ["its connections are reset", "it is frozen for a while"])
def test_the_proxies_listen_again_after_redis_was_away(
    start_instances: Callable[[int], Instances], auth_service: Any, fault: str, alone: Quiet
) -> None:
    instances = start_instances(1)
    old = instances.listeners()
    if fault == "its connections are reset":
        instances.client.client_kill_filter(_type="pubsub")
    else:
        os.kill(instances.server.pid, signal.SIGSTOP)
        time.sleep(5)  # longer than a listener takes to notice
        os.kill(instances.server.pid, signal.SIGCONT)
    instances.wait_for_listeners(old)
    key = auth_service.create_key()
    assert instances.statuses(key.key) == {200}
    auth_service.store.revoke(key.key_id)

    def announce(key_id: str) -> None:
        instances.client.publish(CHANNEL, key_id)

    with alone():
        seconds = instances.seconds_to_refusal(key.key, key.key_id, announce)
    assert seconds < 1


@pytest.mark.slow
def test_what_is_announced_while_an_instance_is_paused_ends_the_key_afterwards(
    start_instances: Callable[[int], Instances], auth_service: Any
) -> None:
    """As `docker pause` or a snapshot does, for longer than a subscription may be silent."""
    instances = start_instances(1)
    key = auth_service.create_key()
    assert instances.statuses(key.key) == {200}
    auth_service.store.revoke(key.key_id)
    workers = psutil.Process(instances.proxies[0].pid).children()
    for worker in workers:
        worker.suspend()
    time.sleep(revocations.SILENCE + 1.5)
    instances.client.publish(CHANNEL, key.key_id)
    for worker in workers:
        worker.resume()
    eventually(lambda: instances.statuses(key.key) == {401}, "the end of the key")


@pytest.mark.slow
def test_where_the_announcement_is_lost_the_lifetime_is_the_bound_and_no_hit_extends_it(
    stage: Stage, fake: Upstream, auth_service: Any, redis_url: str
) -> None:
    lifetime = 2.0
    proxy = stage.proxy(
        MLFLOW_SERVER_URL=fake.url,
        REDIS_URL=redis_url,
        WEB_CONCURRENCY=2,
        AUTH_CACHE_TTL=lifetime,
        AUTH_STALE_TTL=600,
    )
    key = auth_service.create_key()
    with Load(lambda number: ask(proxy, key.key), 4, pause=0.02) as load:
        eventually(lambda: load.statuses.count(200) > 20, "answers")
        auth_service.store.revoke(key.key_id)
        revoked = time.monotonic()
        eventually(lambda: 401 in load.statuses, "the end of the key")
        eventually(lambda: load.statuses.count(401) > 50, "refusals")
    stage.clear()
    last = max(seen.began for seen in load.seen if seen.status == 200)
    assert last - revoked < lifetime + 0.2
    assert set(load.statuses) == {200, 401}


# --- the command ---------------------------------------------------------------------------------


def test_the_command_fails_where_nobody_listens(start_redis: Callable[[], Redis]) -> None:
    """The proxies may have another Redis, and let the key in."""
    done = run("flask", "revoke", "key_1", REDIS_URL=start_redis().url)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Announced on {CHANNEL}; workers that heard it: 0." in done.stderr
    assert "No proxy listens there" in done.stderr


class CountsNobody(FaultProxy):
    """In front of a Redis that has just been replaced: it does not count the command itself."""

    def _before_the_cut(self, link: Any, side: str, data: bytes) -> bytes:
        return b":0\r\n" if data == b":1\r\n" else data


def test_the_command_fails_where_not_even_itself_is_counted(
    start_redis: Callable[[], Redis],
) -> None:
    with CountsNobody(start_redis().port) as way:
        done = run("flask", "revoke", "key_1", REDIS_URL=f"redis://{way.address}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "workers that heard it: 0." in done.stderr


def test_blanks_around_an_id_are_no_part_of_its_mark(start_redis: Callable[[], Redis]) -> None:
    """Listeners read it so; who did not hear has to find the mark by the same name."""
    server = start_redis()
    run("flask", "revoke", " key_1\n", REDIS_URL=server.url)
    with redis.Redis(port=server.port) as client:
        marks = {key for key in client.keys("hokusai:auth:revoked:*") if b"probe" not in key}
        assert marks == {b"hokusai:auth:revoked:key_1"}, "beside what a look at the rights leaves"


def test_the_command_says_why_no_mark_could_be_left(start_redis: Callable[[], Redis]) -> None:
    server = start_redis()
    with redis.Redis(port=server.port) as client:
        client.config_set("maxmemory", 1)
    done = run("flask", "revoke", "key_1", REDIS_URL=server.url)
    assert done.returncode == 1
    assert "its mark could not be set" in done.stderr
    assert "Redis is out of memory" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key_id", "environment", "complaint"),
    [
        ("key_1", {"REDIS_URL": "memory://"}, "REDIS_URL is memory://"),
        ("key_1", {"REDIS_URL": "redis://ann:secret@127.0.0.1:1"}, "Redis cannot be reached"),
        ("key_1", {"REDIS_URL": "redis+cluster://:secret@127.0.0.1:1"}, "Redis cannot be reached"),
        ("hk_test_0123456789", {"REDIS_URL": "memory://"}, "That is a key. Give its id"),
        ("", {"REDIS_URL": "memory://"}, "nothing is revoked"),
        (" \n", {"REDIS_URL": "memory://"}, "nothing is revoked"),
    ],
    ids=["no Redis", "Redis is away", "the cluster is away", "a key", "an unset variable", "blank"],
)
def test_the_command_says_what_is_wrong(
    key_id: str, environment: dict[str, str], complaint: str
) -> None:
    done = run("flask", "revoke", key_id, AUTH_CACHE_TTL="70", AUTH_STALE_TTL="5", **environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert complaint in done.stderr
    assert ("ends 70 s after it asked the auth service, or 75 s" in done.stderr) == (
        key_id == "key_1"
    )
    assert "secret" not in done.stderr
    assert "0123456789" not in done.stderr
    assert "Traceback" not in done.stderr


# --- the race ------------------------------------------------------------------------------------

ROUNDS, THREADS = 1000, 8


class NoFailureLimit:
    """Failed attempts are not what is tested here."""

    def check_failures(self, client_ip: str) -> None:
        pass

    def guess(self, client_ip: str) -> AbstractContextManager[None]:
        return nullcontext()

    def note_failure(self, client_ip: str) -> None:
        pass


@dataclass
class Worker:
    """The parts of one worker that have to do with it, put together as create_app does."""

    link: RedisLink
    cache: DecisionCache
    authenticator: Authenticator
    service: AuthService

    def lets_in(self, key: str) -> bool:
        """Whether a key is let in; whatever else happens is a failure."""
        try:
            self.authenticator.authenticate(Credentials(key), IP)
            return True
        except (Unauthenticated, AuthServiceUnavailable):  # the second: revoked meanwhile
            return False

    def remembers(self, key: str) -> bool:
        """Whether it would let the key in without asking, now or in an outage."""
        digest = self.cache.digest(key, IP, "platform")
        return bool(self.cache.fresh(digest) or self.cache.stale(digest))


@pytest.fixture
def start_worker(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Workers of different instances, on one Redis; `listens` to announcements or does not."""
    made: list[Worker] = []

    def start(auth_url: str, listens: bool = True) -> Worker:
        link = RedisLink(redis_url, 5.0, 0.05)
        folder = tmp_path / str(len(made))
        folder.mkdir()
        cache = DecisionCache(
            SharedValues(link, InstanceStore.at(None)),
            secret=b"the same for all",
            ttl=60.0,
            negative_ttl=10.0,
            stale_ttl=600.0,
        )
        circuit = Circuit("auth_service", 1000, 60.0)
        service = AuthService(auth_url, service_id="platform", timeout=20.0, circuit=circuit)
        authenticator = Authenticator(
            cache=cache,
            flights=SingleFlight(folder / "locks"),
            service=service,
            issuer="platform",
            timeout=20.0,
            retry_interval=3.0,
            failures=NoFailureLimit(),
        )
        made.append(Worker(link, cache, authenticator, service))
        if listens:
            revocations = Revocations(link, cache.revocations)
            revocations.start()
            assert revocations.listening.wait(20)
        return made[-1]

    yield start
    for worker in made:
        worker.service._session.close()


def yes_after(*steps: Step) -> Callable[[Received], Answer]:
    """The auth service says yes to every key, whose id is in its name; the steps come first."""

    def script(received: Received) -> Answer:
        key_id = key_id_of(received)
        answer = {"user_id": "ann", "key_id": key_id, "scopes": ["read"]}
        return Answer(*steps, send(sized(json.dumps(answer).encode())))

    return script


def key_id_of(received: Received) -> str:
    return str(received.one("Authorization")).rpartition("_")[2]


@pytest.mark.slow
def test_a_revocation_wins_a_thousand_times_against_an_answer_that_is_under_way(
    redis_url: str, start_worker: Callable[..., Worker]
) -> None:
    chance = random.Random(1)
    publisher = redis.Redis.from_url(redis_url)

    def announce(exchange: Exchange) -> None:
        """While the question is under way. Then the answer comes, before or after the listener
        has heard; at times just when it does."""
        publisher.publish(CHANNEL, key_id_of(exchange.request))
        time.sleep(chance.uniform(0, 0.006))

    with Upstream() as auth:
        auth.answers_by(yes_after(announce))
        asking, other = start_worker(auth.url), start_worker(auth.url)
        deaf = start_worker(auth.url, listens=False)
        keys = [f"hk_test_race_{number}x{os.getpid()}" for number in range(ROUNDS)]
        with ThreadPoolExecutor(THREADS) as threads:
            under_way = Counter(threads.map(asking.lets_in, keys))
        print(f"of those under way, {under_way[True]} were still let in")
        workers = (asking, other, deaf)

        def is_forgotten() -> bool:
            return not any(worker.remembers(key) for worker in workers for key in keys)

        eventually(is_forgotten, "the end of all keys", timeout=5.0)
        assert len(auth.requests) == ROUNDS

        auth.answers(Answer(send(sized(b"{}", 401))))
        again = keys[:: ROUNDS // 20]
        assert not any(worker.lets_in(key) for worker in workers for key in again)
    publisher.close()


def test_a_key_that_is_found_valid_after_its_revocation_is_let_in(
    redis_url: str, start_worker: Callable[..., Worker]
) -> None:
    """An announcement says "ask again", not "never again"."""
    key = f"hk_test_back_{os.getpid()}"
    with Upstream() as auth, redis.Redis.from_url(redis_url) as publisher:
        auth.answers_by(yes_after())
        worker = start_worker(auth.url)
        assert worker.lets_in(key)
        publisher.publish(CHANNEL, str(os.getpid()))
        eventually(lambda: not worker.remembers(key), "the end of the key")
        eventually(lambda: worker.lets_in(key), "its return")
        assert worker.remembers(key)
