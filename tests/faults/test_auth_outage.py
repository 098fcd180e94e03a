"""The auth service is down, slow or lying: known keys go on for a while, unknown ones come back."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from devstack.proxy import Proxy
from devstack.redis import Redis
from tests.drills.auth_outage import FAULTS, AuthService, Fault, outage, says, start
from tests.drills.counts import TARGET, ask
from tests.drills.load import Load
from tests.drills.report import kept
from tests.drills.stage import Stage
from tests.fault_proxy import FaultProxy
from tests.upstreams import Answer, Received, Upstream, eventually, refused_port, silence, until
from tests.wire import Wire, bearer, call, request

CREATE = "/api/mlflow/api/2.0/mlflow/runs/create"
THOUSAND = 1000


@pytest.fixture
def service() -> Iterator[AuthService]:
    """A fake auth service that says yes to every key."""
    with Upstream() as fake, FaultProxy(fake.port) as way:
        yield AuthService(fake, way)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_known_keys_go_on_and_unknown_ones_are_told_to_come_back(
    stage: Stage, fault: Fault
) -> None:
    row = outage(stage, fault)
    stage.clear()
    print(row.line())
    assert row.facts == kept(
        "known keys are served",
        "known keys hardly wait",
        "unknown keys get 503, and 429 where they create",
        "Retry-After is given",
        "one question a key in AUTH_RETRY_INTERVAL",
        "the circuit opens where it should, and closes",
    ), row


@pytest.mark.slow
def test_a_known_key_goes_on_for_its_stale_time_and_no_longer(
    stage: Stage, service: AuthService, fake: Upstream
) -> None:
    life, stale, late = 1.0, 4.0, 2.0
    proxy = start(stage, service, fake, AUTH_STALE_TTL=stale)
    key = f"hk_test_stale_{proxy.port}"
    with Load(lambda number: ask(proxy, key), 4, pause=0.02) as load:
        eventually(lambda: load.statuses.count(200) > 50, "answers")
        service.way.refuse()
        went = time.monotonic()
        eventually(lambda: load.statuses[-20:] == [503] * 20, "the end of its stale time")
        back = time.monotonic()
        service.way.heal()
        eventually(lambda: load.statuses[-20:] == [200] * 20, "its return")
    stage.clear()
    refused = [seen for seen in load.seen if seen.status != 200]
    assert {seen.status for seen in refused} == {503}
    served = [seen for seen in load.seen if seen.status == 200 and seen.began + seen.seconds < back]
    # It was last asked about up to `life` before the service went; on a busy machine, one question
    # before that can be in vain.
    assert stale - late < refused[0].began - went
    assert max(seen.began for seen in served) - went < life + stale + late


@pytest.mark.slow
def test_a_401_ends_a_key_at_once_in_both_workers_while_stale_results_are_allowed(
    stage: Stage, service: AuthService, fake: Upstream
) -> None:
    proxy = start(stage, service, fake, AUTH_RETRY_INTERVAL=0.3)
    ended, other = f"hk_test_ended_{proxy.port}", f"hk_test_other_{proxy.port}"
    with Load(lambda number: ask(proxy, (ended, other)[number % 2]), 8, pause=0.02) as load:
        eventually(lambda: load.statuses.count(200) > 100, "answers")
        service.answer = says(b"{}", 503)
        time.sleep(1.5)  # their life is over
        assert set(load.statuses) == {200}

        def no_to_one(received: Received) -> Answer:
            one = ended in str(received.one("Authorization"))
            return says(b"{}", 401)(received) if one else service.yes(received)

        service.answer = no_to_one
        eventually(lambda: 401 in load.statuses, "the end of the key")
        first = next(seen for seen in load.seen if seen.status == 401)
        service.answer = says(b"{}", 503)
        time.sleep(1.5)
    assert {ask(proxy, ended) for _ in range(20)} == {401}
    assert {ask(proxy, other) for _ in range(20)} == {200}
    stage.clear()
    later = [seen.status for seen in load.since(first.began + first.seconds + 0.2)]
    assert Counter(later)[401] == pytest.approx(len(later) / 2, rel=0.2)


@pytest.mark.slow
def test_throttling_is_told_as_it_came_and_known_keys_do_not_notice_while_they_live(
    stage: Stage, service: AuthService, fake: Upstream
) -> None:
    proxy = start(stage, service, fake, AUTH_CACHE_TTL=60)
    known, unknown = f"hk_test_known_{proxy.port}", f"hk_test_new_{proxy.port}"
    assert ask(proxy, known) == 200
    asked = len(service.asked)
    service.answer = says(b"{}", 429, ("Retry-After", "7"))
    for _ in range(20):
        assert ask(proxy, known) == 200
        answer = call(proxy.url, "GET", TARGET, bearer(unknown))
        assert answer.error == (429, "REQUEST_LIMIT_EXCEEDED")
        assert answer.one("Retry-After") == "7"
    assert len(service.asked) == asked + 1
    assert call(proxy.url, "POST", CREATE, bearer(unknown), body=b"{}").status == 429
    service.answer = service.yes
    eventually(lambda: ask(proxy, unknown) == 200, "its turn")
    stage.clear()


# --- a thousand at once --------------------------------------------------------------------------


@pytest.fixture(params=["there", "stopped", "frozen"])
def redis_in_some_state(
    request: pytest.FixtureRequest, start_redis: Callable[[], Redis]
) -> Iterator[str]:
    """A Redis that is there, or away in one of two ways."""
    with ExitStack() as ends:
        if request.param == "stopped":
            yield f"redis://127.0.0.1:{ends.enter_context(refused_port())}/0"
            return
        server = start_redis()
        if request.param == "frozen":
            os.kill(server.pid, signal.SIGSTOP)
            ends.callback(os.kill, server.pid, signal.SIGCONT)
        yield server.url


@pytest.mark.slow
def test_a_thousand_at_once_with_a_new_key_make_one_call_per_instance(
    stage: Stage, service: AuthService, fake: Upstream, redis_in_some_state: str
) -> None:
    settings = {
        "REDIS_URL": redis_in_some_state,
        "AUTH_CACHE_TTL": 60,
        "AUTH_TIMEOUT": 20,
        "MAX_IN_FLIGHT": THOUSAND,
        "MAX_IN_FLIGHT_PER_KEY": THOUSAND,
    }
    proxy = start(stage, service, fake, **settings)
    all_asked = threading.Event()
    service.answer = lambda received: Answer(until(all_asked), *service.yes(received).steps)
    key = f"hk_test_many_{proxy.port}"
    assert thousand(proxy, key, all_asked) == {200: THOUSAND}
    assert [len(times) for times in service.asked.values()] == [1]
    stage.clear()


@pytest.mark.slow
def test_a_thousand_at_once_make_one_call_where_no_answer_comes(
    stage: Stage, service: AuthService, fake: Upstream
) -> None:
    proxy = start(stage, service, fake, AUTH_RETRY_INTERVAL=30, AUTH_TIMEOUT=3)
    all_asked, key = threading.Event(), f"hk_test_none_{proxy.port}"
    service.answer = lambda received: Answer(silence())
    assert thousand(proxy, key, all_asked) == {503: THOUSAND}
    assert [len(times) for times in service.asked.values()] == [1]
    stage.clear()


def test_health_says_that_it_answers_and_validates_nothing(
    stage: Stage, service: AuthService, fake: Upstream
) -> None:
    """Its database is down, and it looks first whether there is a key."""
    proxy = start(stage, service, fake, HEALTH_CACHE_TTL=0, WEB_CONCURRENCY=1)
    refused, failed = says(b"{}", 401), says(b"{}", 500)
    service.answer = lambda asked: (failed if asked.one("Authorization") else refused)(asked)
    assert _auth_health(proxy) == "healthy"
    keys = [f"hk_test_new_{number}_{proxy.port}" for number in range(3)]
    assert [ask(proxy, key) for key in keys] == [503] * 3
    assert _auth_health(proxy) == "degraded"
    service.answer = service.yes
    assert ask(proxy, f"hk_test_newer_{proxy.port}") == 200
    assert _auth_health(proxy) == "healthy"
    stage.clear()


def _auth_health(proxy: Proxy) -> str:
    return str(call(proxy.url, "GET", "/api/health").json["checks"]["auth_service"]["status"])


def thousand(proxy: Proxy, key: str, all_asked: threading.Event) -> "Counter[int]":
    """What as many connections are answered, all of which ask before the first answer."""
    with ExitStack() as ends:
        wires = [ends.enter_context(Wire(proxy.url)) for _ in range(THOUSAND)]
        for wire in wires:
            wire.send(request("GET", TARGET, bearer(key)))
        all_asked.set()
        return Counter(wire.read().status for wire in wires)
