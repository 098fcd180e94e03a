"""Names: a name server that freezes, a name that moves, and what the proxy says meanwhile."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from devstack.redis import Redis
from tests.drills import frozen_names
from tests.drills.frozen_names import TARGET, ask, named
from tests.drills.load import Client, Load, all_at_once, timed
from tests.drills.report import kept
from tests.drills.stage import Stage
from tests.name_server import NameServer, why_not
from tests.upstreams import (
    OK,
    Answer,
    Received,
    Upstream,
    chunk,
    eventually,
    head,
    pause,
    send,
)
from tests.wire import bearer, call, request

pytestmark = pytest.mark.skipif(bool(why_not()), reason=str(why_not()))

HERE, THERE = "127.0.0.1", "127.0.0.2"
NAMES = ("mlflow.test", "auth.test", "redis.test")


@pytest.fixture
def names(tmp_path: Path) -> Iterator[NameServer]:
    """A name server that knows NAMES, at first as this machine."""
    with NameServer(tmp_path, {name: [HERE] for name in NAMES}) as server:
        yield server


@pytest.mark.slow
def test_a_frozen_name_server_delays_nobody_for_longer_than_a_connect(stage: Stage) -> None:
    rows = list(frozen_names.drill(stage, together=20))
    for row in rows:
        print(row.line())
    if not rows[0].facts:
        pytest.skip(rows[0].saw)
    known, unknown = rows
    quick = "nobody waits longer than a connect"
    assert known.facts == kept("all are answered", quick, "health names the look-ups"), known
    assert unknown.facts == kept("all get 502", quick, "requests share a look-up"), unknown


@pytest.mark.slow
def test_look_ups_that_hang_do_not_delay_those_of_other_names(
    stage: Stage, fake: Upstream, names: NameServer
) -> None:
    """More requests than gevent has threads for look-ups, all for one silent name: the auth
    service's, which nobody has asked for yet, is found meanwhile."""
    names.silent.add("mlflow.test")
    proxy = stage.start(
        names.proxies(),
        {
            "MLFLOW_SERVER_URL": named(fake.url, "mlflow.test"),
            "HOKUSAI_AUTH_SERVICE_URL": named(stage.auth_url, "auth.test"),
            "MLFLOW_CONNECT_TIMEOUT": 8,
            "MLFLOW_RETRY_DEADLINE": 0,
            "CIRCUIT_FAIL_MAX": 1_000_000,
        },
    )
    known = stage.key()
    assert call(proxy.url, "GET", TARGET, bearer(known)).status == 502
    names.asked.clear()
    waiting = threading.Thread(target=all_at_once, args=(lambda _: ask(proxy, known), 30))
    waiting.start()
    time.sleep(1)  # FRESH: the name of the auth service has to be looked up again
    found = timed(lambda: ask(proxy, "hk_test_nobody").status)
    waiting.join()
    stage.clear()
    assert found.status == 401, "the auth service was asked"
    assert found.seconds < 7
    assert names.asked.count("mlflow.test") < 20


@pytest.mark.slow
def test_everything_goes_on_by_its_last_address(
    stage: Stage, fake: Upstream, names: NameServer
) -> None:
    """New connections to all three, keys that nobody has seen, and nothing but 200."""
    proxy = stage.start(
        names.proxies(),
        {
            "MLFLOW_SERVER_URL": named(fake.url, "mlflow.test"),
            "HOKUSAI_AUTH_SERVICE_URL": named(stage.auth_url, "auth.test"),
            "REDIS_URL": named(stage.redis_url, "redis.test"),
            "MLFLOW_KEEPALIVE": 0,
            "REDIS_TIMEOUT": 2,
        },
    )
    assert ask(proxy, stage.key()).status == 200
    names.failing = True  # SERVFAIL: an answer, but none about the name
    time.sleep(1.1)
    redis.Redis.from_url(stage.redis_url).client_kill_filter(_type="normal", skipme=True)
    statuses = [ask(proxy, stage.key()).status for _ in range(10)]

    def checks() -> dict[str, dict[str, str]]:
        answer = call(proxy.url, "GET", "/api/health/mlflow")
        return dict(answer.json["checks"])

    eventually(lambda: "lookups" in checks()["auth_service"]["message"], "the message", 30)
    said = checks()
    metric = call(proxy.url, "GET", "/metrics").body.decode()
    log = [line for line in proxy.log_lines() if line["logger"] == "hokusai.names"]
    names.failing = False
    eventually(lambda: checks()["redis"]["status"] == "healthy", "the end of it", 60)
    stage.clear()
    assert set(statuses) == {200}
    for check, variable in (("connectivity", "MLFLOW_SERVER_URL"), ("redis", "REDIS_URL")):
        assert said[check]["status"] == "degraded"
        assert f"lookups of the host name in {variable} fail" in said[check]["message"]
    assert "hokusai_proxy_names_failing 3.0" in metric
    assert len(log) == 3, "each name once"
    assert all(HERE in line["message"] for line in log)


def by(name: str) -> Answer:
    return Answer(send(head(200, ("Content-Length", "4"))), send(name.encode()))


@pytest.mark.slow
def test_mlflow_moves_while_its_old_address_still_accepts(stage: Stage, names: NameServer) -> None:
    """Steady traffic goes to the new address; what is under way at the old one ends there."""

    def old_answers(asked: Received) -> Answer:
        if b"slow" not in asked.target:
            return by("old!")
        in_chunks = head(200, ("Transfer-Encoding", "chunked"))
        steps = [step for _ in range(8) for step in (send(chunk(b"x")), pause(0.5))]
        return Answer(send(in_chunks), *steps, send(b"0\r\n\r\n"))

    with Upstream() as old, Upstream(THERE, old.port) as new:
        old.answers_by(old_answers)
        new.answers(by("new!"))
        proxy = stage.start(
            names.proxies(),
            {
                "MLFLOW_SERVER_URL": named(old.url, "mlflow.test"),
                "MLFLOW_CONNECTION_MAX_AGE": 1,
                "MLFLOW_KEEPALIVE": 60,
            },
        )
        key, client = stage.key(), Client(proxy.url)
        question = request("GET", TARGET, bearer(key))
        bodies: list[bytes] = []

        def one(_: int) -> int:
            answer = client.ask(question)
            bodies.append(answer.body)
            return answer.status

        slow: list[bytes] = []
        transfer = threading.Thread(
            target=lambda: slow.append(ask_slowly(proxy.url, key)), daemon=True
        )
        with Load(one, 1, pause=0.01) as load:
            eventually(lambda: len(load.seen) > 20, "traffic")
            transfer.start()
            old.wait_for(lambda: any(b"slow" in asked.target for asked in old.requests))
            names.names["mlflow.test"] = [THERE]
            eventually(lambda: bodies[-1] == b"new!", "the move")
            after = len(bodies)
            eventually(lambda: len(bodies) > after + 100, "more traffic")
            transfer.join(20)
        client.close()
        stage.clear()
    assert set(load.statuses) == {200}
    assert set(bodies[after:]) == {b"new!"}
    assert slow == [b"x" * 8], "a request in progress is not cut"


def ask_slowly(url: str, key: str) -> bytes:
    return call(url, "GET", "/api/mlflow/get-artifact?path=slow&run_uuid=1", bearer(key)).body


@pytest.mark.slow
def test_redis_fails_over_by_its_name(
    stage: Stage, fake: Upstream, names: NameServer, tmp_path: Path
) -> None:
    """As ElastiCache does it: the old primary lives on, read-only, and the name means another."""
    old, new = Redis(tmp_path / "old"), Redis(tmp_path / "new")
    new.command += ["--bind", THERE, "--port", str(old.port)]
    fake.answers(OK)
    try:
        old.start()
        old.wait_until_ready()
        new.start()
        admins = [redis.Redis(host=host, port=old.port) for host in (HERE, THERE)]
        eventually(lambda: answers(admins[1]), "the new Redis")
        proxy = stage.start(
            names.proxies(),
            {
                "MLFLOW_SERVER_URL": fake.url,
                "REDIS_URL": named(old.url, "redis.test"),
                "REDIS_RETRY_INTERVAL": 0.2,
            },
        )
        key = stage.new_key(1_000_000)[0]
        statuses = [one.status for one in all_at_once(lambda _: ask(proxy, key), 8)]
        admins[0].replicaof(THERE, str(old.port))
        names.names["redis.test"] = [THERE]

        def is_back() -> bool:
            statuses.append(ask(proxy, key).status)
            return any(b"LIMIT" in name.upper() for name in admins[1].keys("*"))

        eventually(is_back, "a count in the new primary", 30)
        stage.clear()
    finally:
        old.stop()
        new.stop()
    assert set(statuses) == {200}


def answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
