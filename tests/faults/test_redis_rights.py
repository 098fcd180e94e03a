"""A Redis that refuses something: health, log, metrics and commands say what; the rest goes on,
and nothing alternates."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
import redis

from app.commands.doctor import checks_from_here
from app.doctor.steps import Failed
from config import Settings
from devstack.environments import ROOT
from devstack.ports import HOST
from devstack.proxy import Proxy
from devstack.redis import Redis
from tests.app.state.test_redis_rights import RULE
from tests.drills.counts import ask
from tests.fault_proxy import FaultProxy
from tests.faults.test_revocation import run
from tests.pipeline.signing_in import cookie_of, sign_in
from tests.upstreams import Upstream, eventually
from tests.wire import call

CHANNEL = "hokusai:auth:revoked"


class Operator:
    """Whoever may change what the proxy's user may do."""

    def __init__(self, server: Redis) -> None:
        self.client = redis.Redis(port=server.port)
        self.url = f"redis://hokusai:s3cret@{HOST}:{server.port}/0"

    def allow(self, *rule: str) -> None:
        """Exactly this, from now on."""
        self.client.execute_command("ACL", "SETUSER", "hokusai", "reset", "on", ">s3cret", *rule)  # type: ignore[no-untyped-call]


@pytest.fixture
def operator(start_redis: Callable[[], Redis]) -> Any:
    made = Operator(start_redis())
    made.allow(*RULE)
    yield made
    made.client.close()


@pytest.fixture
def start(
    start_proxy: Callable[..., Proxy], operator: Operator, fake: Upstream
) -> Callable[..., Proxy]:
    def begin(**settings: object) -> Proxy:
        return start_proxy(
            REDIS_URL=operator.url,
            MLFLOW_SERVER_URL=fake.url,
            HEALTH_CACHE_TTL=0,
            REDIS_TIMEOUT=2,
            **settings,
        )

    return begin


def health_of_redis(proxy: Proxy) -> dict[str, str]:
    with urllib.request.urlopen(f"{proxy.url}/api/health") as answer:
        return dict(json.load(answer)["checks"]["redis"])


def metric(proxy: Proxy, name: str) -> float:
    with urllib.request.urlopen(f"{proxy.url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def listeners(proxy: Proxy, state: str) -> float:
    return metric(proxy, f'hokusai_proxy_revocation_listeners{{state="{state}"}}')


def lines(proxy: Proxy, logger: str) -> list[str]:
    """What the workers have logged there, in the order of time."""
    return [
        line["message"] for line in proxy.log_lines() if line.get("logger") == f"hokusai.{logger}"
    ]


@pytest.mark.slow
def test_with_the_documented_rights_nothing_is_refused(
    operator: Operator, start: Callable[..., Proxy], auth_service: Any
) -> None:
    operator.client.acl_log_reset()
    proxy = start()
    eventually(lambda: listeners(proxy, "subscribed") == 2, "the listeners")
    limited = auth_service.create_key(limit=2)
    assert [ask(proxy, limited.key) for _ in range(3)] == [200, 200, 429]
    assert page(proxy, auth_service.create_key().key) == 200
    assert ask(proxy, "hk_test_nobody") == 401
    done = run("flask", "revoke", limited.key_id, REDIS_URL=operator.url)
    assert (done.returncode, done.stderr) == (0, "")
    eventually(lambda: f"key {limited.key_id} is revoked" in lines(proxy, "revocations"), "its end")
    assert health_of_redis(proxy)["status"] == "healthy"
    refused = {entry["object"] for entry in operator.client.acl_log()}
    assert refused <= {"client|setinfo"}
    assert lines(proxy, "redis") == []


@pytest.mark.slow
def test_who_may_not_subscribe_hears_nothing_and_everybody_is_told(
    operator: Operator, start: Callable[..., Proxy], auth_service: Any
) -> None:
    operator.allow(*(word for word in RULE if not word.startswith("&")))
    proxy = start()
    eventually(lambda: listeners(proxy, "refused") == 2, "the refusals")
    found = health_of_redis(proxy)
    assert found["status"] == "degraded"
    assert f"subscribe to {CHANNEL}" in found["message"]
    assert f"Add to its ACL, on each node: &{CHANNEL}." in found["message"]
    assert "revocations are not received" in found["message"]
    eventually(
        lambda: metric(proxy, f'hokusai_proxy_redis_refused{{right="{CHANNEL}"}}') == 2,
        "the metric",
    )
    time.sleep(4)  # the listeners try again each second: that is not said again
    said = [line for line in lines(proxy, "redis") if f"&{CHANNEL}" in line]
    assert len(said) == 2, "once by each worker"
    assert len(lines(proxy, "revocations")) == 2
    assert not any("away" in line or "back" in line for line in lines(proxy, "redis"))
    key = auth_service.create_key(limit=1)
    assert [ask(proxy, key.key) for _ in range(2)] == [200, 429], "what works goes on"

    done = run("flask", "revoke", key.key_id, REDIS_URL=operator.url)
    assert done.returncode == 1
    assert "Redis error: NOPERM" in done.stderr
    assert f"+publish +subscribe &{CHANNEL}" in done.stderr
    assert "cannot be reached" not in done.stderr
    by_the_service = (
        sys.executable, "-m", "devstack.auth_service", "revoke", key.key_id,
        "--database", str(auth_service.database), "--redis-url", operator.url,
    )  # fmt: skip
    done = subprocess.run(by_the_service, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "NOPERM" in done.stderr
    assert "s3cret" not in done.stderr

    operator.allow(*RULE)
    eventually(lambda: listeners(proxy, "subscribed") == 2, "the listeners")
    eventually(lambda: metric(proxy, "hokusai_proxy_redis_refused") == 0, "the end of it", 20)
    assert health_of_redis(proxy)["status"] == "healthy"


@pytest.mark.slow
def test_a_right_that_is_taken_away_in_mid_life_is_noticed(
    operator: Operator, start: Callable[..., Proxy]
) -> None:
    """Redis then ends the subscriptions."""
    proxy = start()
    eventually(lambda: listeners(proxy, "subscribed") == 2, "the listeners")
    operator.allow(*(word for word in RULE if not word.startswith("&")))
    eventually(lambda: listeners(proxy, "refused") == 2, "the refusals")
    said = " ".join(lines(proxy, "revocations"))
    assert "revocations are not received" in said


@pytest.mark.slow
def test_a_subscription_that_is_silently_dead_is_begun_anew(
    start_redis: Callable[[], Redis], start_proxy: Callable[..., Proxy], fake: Upstream
) -> None:
    """As behind a firewall that has forgotten the connection: no byte, and no end."""
    server = start_redis()
    with FaultProxy(server.port) as way:
        proxy = start_proxy(REDIS_URL=f"redis://{way.address}/0", MLFLOW_SERVER_URL=fake.url)
        eventually(lambda: listeners(proxy, "subscribed") == 2, "the listeners")
        way.stall()
        eventually(lambda: listeners(proxy, "unavailable") == 2, "that they notice")
        way.heal()
        eventually(lambda: listeners(proxy, "subscribed") == 2, "the listeners")
        proxy.stop()


def test_without_redis_there_is_nothing_to_hear(
    start_proxy: Callable[..., Proxy], fake: Upstream
) -> None:
    proxy = start_proxy(REDIS_URL="memory://", WEB_CONCURRENCY=1, MLFLOW_SERVER_URL=fake.url)
    eventually(lambda: listeners(proxy, "off") == 1, "the worker")
    assert listeners(proxy, "unavailable") == listeners(proxy, "refused") == 0


def test_the_doctor_names_the_right_that_is_missing(operator: Operator) -> None:
    operator.allow(*(word for word in RULE if word != "+getex"))
    with pytest.raises(Failed) as failed:
        redis_from_here(operator)
    assert failed.value.fault == "redis-rights"
    assert "may not run GETEX" in failed.value.message
    assert "s3cret" not in failed.value.message
    operator.allow(*RULE)
    assert redis_from_here(operator) == "Redis answers."


def redis_from_here(operator: Operator) -> str:
    """What `flask doctor` finds of Redis."""
    return dict(checks_from_here(Settings(redis_url=operator.url)))["Redis, from here"]()


def test_the_limits_command_says_what_redis_said(operator: Operator) -> None:
    done = run("flask", "limits", "show", REDIS_URL=operator.url)
    assert done.returncode == 1
    assert "'scan' command" in done.stderr
    operator.allow(*RULE, "+scan")
    done = run("flask", "limits", "show", REDIS_URL=operator.url)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_who_may_subscribe_and_not_publish_hears_and_cannot_announce(
    operator: Operator, start: Callable[..., Proxy]
) -> None:
    operator.allow(*(word for word in RULE if word != "+publish"))
    proxy = start()
    eventually(lambda: listeners(proxy, "subscribed") == 2, "the listeners")
    assert "may not run PUBLISH" in health_of_redis(proxy)["message"]
    assert "flask revoke cannot announce" in health_of_redis(proxy)["message"]
    done = run("flask", "revoke", "key_1", REDIS_URL=operator.url)
    assert done.returncode == 1
    assert "its mark is in Redis" in done.stderr
    assert "'publish' command" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("without", "message", "hurts"),
    [
        ("+evalsha", "may not run EVALSHA", "each instance counts limits for itself"),
        ("+pttl", "may not run PTTL", "each instance counts limits for itself"),
        ("~LIMITS:*", "may not use the keys LIMITS*", "each instance counts limits for itself"),
        ("+getex", "may not run GETEX", "browser sessions get 503"),
        ("+get", "may not run GET", "do not share cached keys"),
    ],
)
def test_one_right_less_is_named_and_nothing_alternates(
    operator: Operator,
    start: Callable[..., Proxy],
    auth_service: Any,
    without: str,
    message: str,
    hurts: str,
) -> None:
    operator.allow(*(word for word in RULE if word != without))
    proxy = start(INSTANCES=2)
    key = auth_service.create_key(limit=4)
    eventually(lambda: listeners(proxy, "subscribed") == 2, "the listeners")
    own = [ask(proxy, key.key) for _ in range(5)]
    counted_alone = "limits" in hurts or without == "+get"
    assert own == ([200, 200, 429, 429, 429] if counted_alone else [200] * 4 + [429])
    found = health_of_redis(proxy)
    assert found["status"] == "degraded"
    assert message in found["message"]
    assert hurts in found["message"]
    for _ in range(10):
        ask(proxy, key.key)
        time.sleep(0.1)
    said = lines(proxy, "redis")
    assert not any("away" in line or "back" in line for line in said)
    assert 1 <= len(said) <= 2, "once by each worker"
    assert metric(proxy, "hokusai_proxy_redis_unavailable") == 0
    session = page(proxy, auth_service.create_key().key)
    assert session == (503 if without == "+getex" else 200)


@pytest.mark.slow
def test_a_redis_that_forgets_ends_sessions_and_begins_the_counts(
    operator: Operator, start: Callable[..., Proxy], auth_service: Any
) -> None:
    """As one that starts empty, or evicts."""
    proxy = start()
    limited = auth_service.create_key(limit=1)
    assert [ask(proxy, limited.key) for _ in range(2)] == [200, 429]
    cookie = cookie_of(sign_in(proxy, auth_service.create_key().key))
    target = "/mlflow/api/2.0/mlflow/runs/get?run_id=1"
    assert call(proxy.url, "GET", target, cookie).status == 200
    operator.client.flushall()
    assert call(proxy.url, "GET", target, cookie).status == 401
    assert [ask(proxy, limited.key) for _ in range(2)] == [200, 429]
    assert health_of_redis(proxy)["status"] == "healthy"


def page(proxy: Proxy, key: str) -> int:
    """The status of what a browser asks for after it has signed in."""
    answer = sign_in(proxy, key)
    assert answer.status == 303
    target = "/mlflow/api/2.0/mlflow/runs/get?run_id=1"
    return call(proxy.url, "GET", target, cookie_of(answer)).status
