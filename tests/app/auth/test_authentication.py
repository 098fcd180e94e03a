"""From a key to a principal: one question for many, bounded staleness, no outage told as a 401."""

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.auth.authentication import Authentication
from app.auth.cache import DecisionCache
from app.limits import request_limits
from app.limits.request_limits import GUESSES
from app.request.addresses import network
from app.request.credentials import Credentials
from app.request.errors import AuthServiceUnavailable, ProxyError, RateLimited, Unauthenticated
from app.request.principal import Decision
from app.services import Services, build
from tests.app.samples import principal, settings
from tests.upstreams import Answer, Exchange, Upstream, eventually, pause, reset, send, sized, until

TTL, NEGATIVE, STALE = 60.0, 1.0, 600.0
RETRY_INTERVAL = 1.0
FAILURE_LIMIT = 5
IP = "203.0.113.7"


def says(content: object, status: int = 200, *fields: tuple[str, str]) -> Answer:
    return Answer(send(sized(json.dumps(content).encode(), status, *fields)))


YES = says({"user_id": "ann", "key_id": "key-1", "scopes": ["read"]})
NO = says({"detail": "unknown"}, 401)
DOWN = says({}, 503)
THROTTLED = says({}, 429, ("Retry-After", "17"))
SLOWLY = Answer(pause(0.1), *YES.steps)


@dataclass
class Worker:
    """One worker, and what its callers ask of it."""

    services: Services

    @property
    def cache(self) -> DecisionCache:
        """What the authenticator keeps."""
        return self.services.authenticator._cache

    def digest(self, key: str, ip: str) -> str:
        """The name of a decision in the cache."""
        return self.cache.digest(key, ip, self.services.settings.key_issuer)

    def authenticate(self, key: str, ip: str = IP) -> Authentication:
        """As the walk does it, failed attempts limited."""
        return self.services.authenticator.authenticate(Credentials(key), ip)

    def outcome(self, key: str, ip: str = IP) -> str:
        """How the answer was found, or which error it was."""
        try:
            return self.authenticate(key, ip).source
        except ProxyError as error:
            return type(error).__name__

    def knows(self, key: str, age: float, ip: str = IP) -> None:
        """Puts a yes of this age into the cache, as if it had been asked for then."""
        decision = Decision(principal(), time.time() - age)
        for asked_from in (ip, network(ip)):
            assert self.cache.put(self.digest(key, asked_from), decision)


@pytest.fixture
def server() -> Iterator[Upstream]:
    """The auth service: counts the questions, and answers yes until told otherwise."""
    with Upstream() as server:
        server.answers(YES)
        yield server


@pytest.fixture
def make_worker(
    server: Upstream, redis_url: str, tmp_path: Path
) -> Iterator[Callable[..., Worker]]:
    """Workers of one instance; `changes` are other settings."""
    workers = []

    def make(**changes: Any) -> Worker:
        usual = {
            "auth_service_url": server.url,
            "auth_timeout": 5.0,
            "auth_cache_ttl": TTL,
            "auth_negative_ttl": NEGATIVE,
            "auth_stale_ttl": STALE,
            "auth_retry_interval": RETRY_INTERVAL,
            "auth_failure_limit": FAILURE_LIMIT,
            "auth_cache_secret": "secret",
            "circuit_fail_max": 1000,
            "redis_url": redis_url,
            "redis_timeout": 0.5,
            "redis_retry_interval": 0.05,
            "instance_folder": str(tmp_path),
        }
        workers.append(Worker(build(settings(**usual | changes))))
        return workers[-1]

    yield make
    for worker in workers:
        if (client := worker.services.link.client) is not None:
            client.close()
        worker.services.auth_service._session.close()
        worker.services.upstream._pool.close()


@pytest.fixture
def worker(make_worker: Callable[..., Worker]) -> Worker:
    return make_worker()


@pytest.fixture
def key() -> str:
    """A key that nobody has seen before."""
    return f"hk_test_{uuid.uuid4().hex}"


@pytest.fixture
def ip() -> str:
    """An address of a network from which nobody has failed before."""
    part = uuid.uuid4().hex
    return f"2001:{part[:4]}:{part[4:8]}:{part[8:12]}::1"


def at_once(number: int, ask: Callable[[int], str]) -> Counter[str]:
    """The outcomes of so many threads that ask at the same moment."""
    start = threading.Barrier(number)

    def run(index: int) -> str:
        start.wait(10)
        return ask(index)

    with ThreadPoolExecutor(number) as threads:
        return Counter(threads.map(run, range(number)))


# --- one question --------------------------------------------------------------------------------


def test_the_first_one_asks_and_the_next_one_need_not(
    worker: Worker, server: Upstream, key: str
) -> None:
    assert worker.outcome(key) == "miss"
    assert worker.outcome(key) == "hit"
    assert worker.authenticate(key).principal.user_id == "ann"
    assert len(server.requests) == 1


@pytest.mark.parametrize("url", [None, "memory://"], ids=["redis", "memory"])
def test_fifty_at_once_with_a_new_key_ask_once(
    make_worker: Callable[..., Worker], server: Upstream, key: str, url: str | None
) -> None:
    server.answers(SLOWLY)
    worker = make_worker(redis_url=url) if url else make_worker()
    assert at_once(50, lambda _: worker.outcome(key)) == {"miss": 1, "hit": 49}
    assert len(server.requests) == 1


def test_who_waits_takes_the_next_answer_however_short_its_life(
    make_worker: Callable[..., Worker], server: Upstream, key: str
) -> None:
    """AUTH_CACHE_TTL=0, or less than the service takes. Else each would wait for all before it."""
    server.answers(SLOWLY)
    worker, other = make_worker(auth_cache_ttl=0), make_worker(auth_cache_ttl=0)
    at_once(20, lambda index: (worker, other)[index % 2].outcome(key))
    assert len(server.requests) < 6
    asked = len(server.requests)
    assert worker.outcome(key) == worker.outcome(key) == "miss"
    assert len(server.requests) == asked + 2


def test_what_one_worker_learnt_another_need_not_ask(
    make_worker: Callable[..., Worker], server: Upstream, key: str
) -> None:
    assert [make_worker().outcome(key) for _ in range(3)] == ["miss", "hit", "hit"]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [(NO, "Unauthenticated"), (DOWN, "AuthServiceUnavailable"), (THROTTLED, "RateLimited")],
)
def test_many_at_once_ask_once_whatever_the_answer(
    worker: Worker, server: Upstream, key: str, ip: str, answer: Answer, outcome: str
) -> None:
    server.answers(Answer(pause(0.1), *answer.steps))
    assert at_once(FAILURE_LIMIT, lambda _: worker.outcome(key, ip)) == {outcome: FAILURE_LIMIT}
    assert len(server.requests) == 1


def test_different_keys_are_asked_about_at_the_same_time(worker: Worker, server: Upstream) -> None:
    everybody = threading.Barrier(8)

    def meet(exchange: Exchange) -> None:
        everybody.wait(10)

    server.answers(Answer(meet, *YES.steps))
    keys = [f"hk_test_{uuid.uuid4().hex}" for _ in range(8)]
    assert at_once(8, lambda index: worker.outcome(keys[index], f"192.0.2.{index}")) == {"miss": 8}


def test_a_key_is_asked_about_once_per_address(worker: Worker, server: Upstream, key: str) -> None:
    """The address is part of what was validated."""
    assert worker.outcome(key, "192.0.2.1") == "miss"
    assert worker.outcome(key, "192.0.2.2") == "miss"
    assert worker.outcome(key, "192.0.2.1") == "hit"
    assert [json.loads(asked.body)["client_ip"] for asked in server.requests] == [
        "192.0.2.1",
        "192.0.2.2",
    ]


def test_a_yes_past_its_life_is_asked_about_again(
    worker: Worker, server: Upstream, key: str
) -> None:
    worker.knows(key, TTL + 1)
    assert worker.outcome(key) == "miss"
    assert len(server.requests) == 1


# --- no ------------------------------------------------------------------------------------------


def test_a_bad_key_is_refused_and_not_asked_about_for_a_while(
    worker: Worker, server: Upstream, key: str, ip: str
) -> None:
    server.answers(NO)
    with pytest.raises(Unauthenticated, match="not valid") as caught:
        worker.authenticate(key, ip)
    assert key not in caught.value.message
    assert worker.outcome(key, ip) == "Unauthenticated"
    assert len(server.requests) == 1
    time.sleep(NEGATIVE + 0.05)
    server.answers(YES)
    assert worker.outcome(key, ip) == "miss", "it was made valid meanwhile"


def test_401_ends_a_key_at_once_also_while_a_stale_yes_would_be_allowed(
    worker: Worker, server: Upstream, key: str, ip: str
) -> None:
    worker.knows(key, TTL + 1, ip)
    server.answers(NO)
    assert worker.outcome(key, ip) == "Unauthenticated"
    server.answers(DOWN)
    assert worker.outcome(key, ip) == "Unauthenticated"
    time.sleep(NEGATIVE + 0.05)
    assert worker.outcome(key, ip) == "AuthServiceUnavailable", "nobody vouches for it any more"


def test_401_that_another_worker_got_ends_it_here_too(
    make_worker: Callable[..., Worker], server: Upstream, key: str, ip: str
) -> None:
    here, there = make_worker(), make_worker()
    here.knows(key, TTL + 1, ip)
    server.answers(NO)
    assert there.outcome(key, ip) == "Unauthenticated"
    server.answers(DOWN)
    time.sleep(NEGATIVE + 0.05)
    assert here.outcome(key, ip) == "AuthServiceUnavailable"


def test_a_key_that_is_revoked_while_it_is_asked_about_is_refused(
    worker: Worker, server: Upstream, key: str, ip: str
) -> None:
    key_id = f"key-{uuid.uuid4().hex}"
    yes = says({"user_id": "ann", "key_id": key_id})

    def revoke(exchange: Exchange) -> None:
        worker.cache.revocations.revoke(key_id)

    server.answers(Answer(revoke, *yes.steps))
    assert worker.outcome(key, ip) == "AuthServiceUnavailable", "a 401 would end a good key's job"
    server.answers(NO)
    assert worker.outcome(key, ip) == "Unauthenticated"
    assert len(server.requests) == 2, "the yes was not kept"


def test_a_revoked_key_that_the_service_still_accepts_is_asked_about_and_goes_on(
    worker: Worker, server: Upstream, key: str, ip: str
) -> None:
    """`flask revoke` also ends a key's sessions, or its old scopes."""
    key_id = f"key-{uuid.uuid4().hex}"
    server.answers(says({"user_id": "ann", "key_id": key_id}))
    assert worker.outcome(key, ip) == "miss"
    worker.cache.revocations.revoke(key_id)
    assert [worker.outcome(key, ip) for _ in range(2 * FAILURE_LIMIT)].count("hit") == 9
    assert len(server.requests) == 2


def test_a_revocation_that_the_service_announces_before_its_commit_ends_the_key_soon(
    worker: Worker, server: Upstream, key: str, ip: str
) -> None:
    """Or one of its replicas is late. A busy key asks within milliseconds."""
    key_id = f"key-{uuid.uuid4().hex}"
    server.answers(says({"user_id": "ann", "key_id": key_id}))
    assert worker.outcome(key, ip) == "miss"
    worker.cache.revocations.revoke(key_id)
    assert worker.outcome(key, ip) == "miss"
    server.answers(NO)
    began = time.monotonic()
    eventually(lambda: worker.outcome(key, ip) == "Unauthenticated", "the end of the key")
    assert time.monotonic() - began < 2, "not after RECHECK"


# --- no answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [DOWN, Answer(reset())], ids=["503", "reset"])
def test_a_yes_is_believed_a_while_longer_while_nobody_answers(
    worker: Worker, server: Upstream, key: str, answer: Answer
) -> None:
    server.answers(answer)
    worker.knows(key, TTL + 1)
    assert [worker.outcome(key) for _ in range(3)] == ["stale"] * 3
    worker.knows(key, TTL + STALE - 1)
    assert worker.outcome(key) == "stale"
    worker.knows(key, TTL + STALE + 1)
    assert worker.outcome(key) == "AuthServiceUnavailable"


def test_staleness_can_be_switched_off(
    make_worker: Callable[..., Worker], server: Upstream, key: str
) -> None:
    worker = make_worker(auth_stale_ttl=0.0)
    worker.knows(key, TTL + 1)
    server.answers(DOWN)
    assert worker.outcome(key) == "AuthServiceUnavailable"


def test_an_unknown_key_gets_503_and_never_401(worker: Worker, server: Upstream, key: str) -> None:
    server.answers(DOWN)
    with pytest.raises(AuthServiceUnavailable) as caught:
        worker.authenticate(key)
    assert caught.value.status == 503
    assert int(str(caught.value.headers["Retry-After"])) >= 1


def test_a_service_that_did_not_answer_is_asked_again_after_a_while(
    worker: Worker, server: Upstream, key: str
) -> None:
    server.answers(DOWN)
    outcomes = [worker.outcome(key) for _ in range(10)]
    assert outcomes == ["AuthServiceUnavailable"] * 10
    assert len(server.requests) == 1
    time.sleep(RETRY_INTERVAL + 0.05)
    server.answers(YES)
    assert worker.outcome(key) == "miss"
    assert worker.outcome(key) == "hit"
    assert len(server.requests) == 2


def test_many_at_once_with_a_stale_yes_ask_once(
    make_worker: Callable[..., Worker], server: Upstream, key: str
) -> None:
    worker = make_worker(
        auth_retry_interval=60.0
    )  # the last of them may come late on a busy machine
    server.answers(Answer(pause(0.1), *DOWN.steps))
    worker.knows(key, TTL + 1)
    assert at_once(20, lambda _: worker.outcome(key)) == {"stale": 20}
    assert len(server.requests) == 1


def test_where_no_answer_came_nobody_waits_for_the_one_who_asks_again(
    make_worker: Callable[..., Worker], server: Upstream, key: str
) -> None:
    asking, other = make_worker(), make_worker()
    asking.knows(key, TTL + 1)
    server.answers(DOWN)
    assert asking.outcome(key) == "stale"
    go_on = threading.Event()
    server.answers(Answer(until(go_on), *YES.steps))
    time.sleep(RETRY_INTERVAL)
    with ThreadPoolExecutor(1) as thread:
        again = thread.submit(asking.outcome, key)
        server.wait_for(lambda: len(server.requests) == 2)
        assert [asking.outcome(key), other.outcome(key)] == ["stale", "stale"]
        go_on.set()
        assert again.result() == "miss"
    assert [asking.outcome(key), other.outcome(key)] == ["hit", "hit"]
    assert asking.cache.unanswered.get(asking.digest(key, IP)) is None


def test_throttling_is_passed_on_and_a_key_is_asked_about_again_after_a_while(
    worker: Worker, server: Upstream, key: str
) -> None:
    server.answers(THROTTLED)
    for _ in range(3):
        with pytest.raises(RateLimited) as caught:
            worker.authenticate(key)
        assert caught.value.headers["Retry-After"] == "17"
    assert len(server.requests) == 1
    time.sleep(RETRY_INTERVAL + 0.05)
    server.answers(YES)
    assert worker.outcome(key) == "miss"


# --- failed attempts -----------------------------------------------------------------------------


def test_failed_attempts_of_an_address_are_limited(
    worker: Worker, server: Upstream, ip: str
) -> None:
    server.answers(NO)
    guesses = [worker.outcome(f"hk_test_{uuid.uuid4().hex}", ip) for _ in range(FAILURE_LIMIT + 3)]
    assert guesses == ["Unauthenticated"] * FAILURE_LIMIT + ["RateLimited"] * 3
    assert len(server.requests) == FAILURE_LIMIT, "the others were not asked about"


def test_guesses_that_come_together_are_limited_too(
    worker: Worker, server: Upstream, ip: str
) -> None:
    """Else each would be under way before the first one has failed."""
    server.answers(Answer(pause(0.1), *NO.steps))
    told = at_once(20, lambda _: worker.outcome(f"hk_test_{uuid.uuid4().hex}", ip))
    assert told == {"Unauthenticated": FAILURE_LIMIT, "RateLimited": 20 - FAILURE_LIMIT}
    assert len(server.requests) == FAILURE_LIMIT


def test_newcomers_that_come_together_are_all_let_in(
    worker: Worker, server: Upstream, ip: str
) -> None:
    server.answers(SLOWLY)
    told = at_once(4 * FAILURE_LIMIT, lambda _: worker.outcome(f"hk_test_{uuid.uuid4().hex}", ip))
    assert told == {"miss": 4 * FAILURE_LIMIT}


def test_a_newcomer_who_waits_too_long_is_told_of_overload(
    worker: Worker, server: Upstream, ip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is over a limit: exporters of traces, which repeat no 429, must come back."""
    monkeypatch.setattr(request_limits, "GUESS_PATIENCE", 0.1)
    server.answers(Answer(pause(1.0), *YES.steps))
    told = at_once(3, lambda _: worker.outcome(f"hk_test_{uuid.uuid4().hex}", ip))
    assert told == {"miss": FAILURE_LIMIT // GUESSES, "Overloaded": 3 - FAILURE_LIMIT // GUESSES}


def test_requests_with_one_new_key_wait_in_vain_together(
    worker: Worker, server: Upstream, key: str, ip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them holds one of everybody's places to wait for the auth service."""
    monkeypatch.setattr(request_limits, "GUESS_PATIENCE", 0.5)
    asked, let_go = threading.Event(), threading.Event()
    server.answers(Answer(lambda exchange: asked.set(), until(let_go), *YES.steps))
    other = threading.Thread(target=worker.outcome, args=("hk_test_other", ip))
    other.start()
    assert asked.wait(10)
    began = time.monotonic()
    told = at_once(8, lambda _: worker.outcome(key, ip))
    took = time.monotonic() - began
    let_go.set()
    other.join()
    assert told == {"Overloaded": 1, "AuthServiceUnavailable": 7}
    assert took < 3 * request_limits.GUESS_PATIENCE


def test_the_same_bad_key_again_is_another_failed_attempt(
    worker: Worker, server: Upstream, key: str, ip: str
) -> None:
    server.answers(NO)
    attempts = [worker.outcome(key, ip) for _ in range(FAILURE_LIMIT + 1)]
    assert attempts == ["Unauthenticated"] * FAILURE_LIMIT + ["RateLimited"]


def test_an_address_over_its_limit_can_go_on_with_a_key_that_is_known_to_be_good(
    worker: Worker, server: Upstream, key: str, ip: str
) -> None:
    assert worker.outcome(key, ip) == "miss"
    server.answers(NO)
    for _ in range(FAILURE_LIMIT):
        worker.outcome("hk_test_bad", ip)
    assert worker.outcome("hk_test_bad", ip) == "RateLimited"
    assert worker.outcome(key, ip) == "hit"


def test_a_key_that_was_good_lately_is_asked_about_in_spite_of_it(
    worker: Worker, server: Upstream, key: str, ip: str
) -> None:
    """Else one person's bad key in a loop shuts out everybody in his office."""
    worker.knows(key, age=TTL + 1, ip=ip)
    server.answers(NO)
    for _ in range(FAILURE_LIMIT + 1):
        worker.outcome("hk_test_bad", ip)
    assert worker.outcome(f"hk_test_{uuid.uuid4().hex}", ip) == "RateLimited"
    server.answers(YES)
    assert worker.outcome(key, ip) == "miss"
    worker.knows(key, age=TTL + 1, ip=ip)
    server.answers(NO)
    assert worker.outcome(key, ip) == "Unauthenticated"
    assert worker.outcome(key, ip) == "RateLimited", "it is not a good key any more"


def test_so_it_is_where_no_stale_decision_is_used(
    make_worker: Callable[..., Worker], server: Upstream, key: str, ip: str
) -> None:
    worker = make_worker(auth_stale_ttl=0.0)
    worker.knows(key, age=TTL + 1, ip=ip)
    server.answers(NO)
    for _ in range(FAILURE_LIMIT + 1):
        worker.outcome("hk_test_bad", ip)
    server.answers(YES)
    for each in (worker, make_worker(auth_stale_ttl=0.0)):
        each.knows(key, age=TTL + 1, ip=ip)
        assert each.outcome(key, ip) == "miss"
    server.answers(DOWN)
    worker.knows(key, age=TTL + 1, ip=ip)
    assert worker.outcome(key, ip) == "AuthServiceUnavailable", "it lets nobody in"


def test_so_it_is_with_a_key_that_is_revoked_and_that_the_service_still_accepts(
    make_worker: Callable[..., Worker], server: Upstream, key: str, ip: str
) -> None:
    """`flask revoke` ends its sessions. The other worker knows it from Redis only."""
    worker, other = make_worker(), make_worker()
    key_id = f"key-{uuid.uuid4().hex}"
    yes = says({"user_id": "ann", "key_id": key_id})
    server.answers(yes)
    assert worker.outcome(key, ip) == "miss"
    server.answers(NO)
    for _ in range(FAILURE_LIMIT):
        worker.outcome("hk_test_bad", ip)
    for each in (worker, other):
        each.cache.revocations.revoke(key_id)
    server.answers(yes)
    assert [each.outcome(key, ip) for each in (other, worker)] == ["miss", "miss"]
    worker.cache.revocations.revoke(key_id)
    server.answers(NO)
    assert worker.outcome(key, ip) == "Unauthenticated"
    assert worker.outcome(key, ip) == "RateLimited", "it is not a good key any more"


def test_a_key_that_is_in_use_in_a_network_is_no_guess_at_a_new_address_of_it(
    make_worker: Callable[..., Worker], server: Upstream, key: str, ip: str
) -> None:
    """Machines of one /64 share the count of failures, so they share the exemption from it too."""
    worker, bad = make_worker(), f"hk_test_{uuid.uuid4().hex}"
    assert worker.outcome(key, ip) == "miss"
    server.answers(NO)
    for _ in range(FAILURE_LIMIT):
        worker.outcome(bad, f"{ip}2")
    assert worker.outcome(bad, f"{ip}2") == "RateLimited"
    server.answers(YES)
    assert make_worker().outcome(key, f"{ip}3") == "miss", "asked about, not refused"
    assert worker.outcome(f"hk_test_{uuid.uuid4().hex}", f"{ip}4") == "RateLimited"
    server.answers(NO)
    assert worker.outcome(key, f"{ip}5") == "Unauthenticated"
    assert worker.outcome(key, f"{ip}6") == "RateLimited", "no good key any more"


def test_a_key_that_is_refused_at_a_neighbours_address_is_no_guess_at_its_own(
    worker: Worker, server: Upstream, key: str, ip: str
) -> None:
    worker.knows(key, age=TTL + 1, ip=ip)
    server.answers(NO)
    for _ in range(FAILURE_LIMIT):
        assert worker.outcome(key, f"{ip}2") == "Unauthenticated"
    assert worker.outcome(key, f"{ip}2") == "RateLimited"
    server.answers(YES)
    assert worker.outcome(key, ip) == "miss"


def test_an_outage_is_no_failed_attempt(worker: Worker, server: Upstream, ip: str) -> None:
    server.answers(DOWN)
    for _ in range(FAILURE_LIMIT * 2):
        worker.outcome(f"hk_test_{uuid.uuid4().hex}", ip)
    server.answers(YES)
    assert worker.outcome(f"hk_test_{uuid.uuid4().hex}", ip) == "miss"


def test_few_wait_for_a_slow_auth_service_and_the_others_are_told_at_once(
    make_worker: Callable[..., Worker], server: Upstream, ip: str
) -> None:
    """Each that waits holds a connection, and health checks need some."""
    worker = make_worker(max_connections=12)  # a quarter may wait
    server.answers(Answer(pause(1.0), *YES.steps))
    keys = [f"hk_test_{uuid.uuid4().hex}" for _ in range(10)]
    told = at_once(10, lambda number: worker.outcome(keys[number], ip))
    assert told == {"miss": 3, "AuthServiceUnavailable": 7}
    assert worker.outcome(keys[0], ip) in ("hit", "miss")
