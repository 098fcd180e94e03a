"""Limits: counted in Redis for all, by each instance while Redis is away, waits told exactly."""

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask
from limits import RateLimitItemPerHour, RateLimitItemPerSecond
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from app.limits.in_flight import InFlight
from app.limits.request_limits import Limits, shared_limiter
from app.request.errors import Overloaded, RateLimited
from app.request.permit import Permit
from app.state.instance_database import InstanceDatabase
from app.state.redis_link import RedisLink
from app.state.window_counts import WindowCounts
from app.state.windows import LinkStorage, look, remaining, seconds_to_change, seconds_to_wait
from devstack.redis import Redis
from tests.app.samples import permit, principal
from tests.upstreams import eventually, refused_port

MakeLimits = Callable[..., Limits]


@pytest.fixture
def make_limits(redis_url: str) -> Iterator[MakeLimits]:
    """Limits as one worker has them; `store` is the file that its instance's workers share."""
    links = []

    def make(
        url: str = redis_url,
        instances: int = 1,
        failure_limit: int = 30,
        store: Path | None = None,
    ) -> Limits:
        link = RedisLink(url, 0.5, 0.05)
        links.append(link)
        shared = shared_limiter(Flask("test"), link)
        return Limits(
            shared=shared,
            link=link,
            own=WindowCounts(InstanceDatabase(store)),
            instances=instances,
            failure_limit=failure_limit,
        )

    yield make
    for link in links:
        if link.client is not None:
            link.client.close()


@pytest.fixture(params=["redis", "memory"])
def limits(request: pytest.FixtureRequest, make_limits: MakeLimits, redis_url: str) -> Limits:
    """The counts in Redis, and in the memory of one process."""
    return make_limits(redis_url if request.param == "redis" else "memory://", failure_limit=5)


def asking(limit: int | None, key_id: str | None = None) -> Permit:
    """A request with a key of this limit; a new key unless it is named."""
    return permit(who=principal(limit_per_hour=limit, key_id=key_id or uuid.uuid4().hex))


def granted(limits: Limits, asked: Permit, times: int) -> int:
    """How many of so many requests are granted."""
    count = 0
    for _ in range(times):
        try:
            limits.limit(asked)
            count += 1
        except RateLimited:
            pass
    return count


def refusal(limits: Limits, asked: Permit) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        limits.limit(asked)
    return caught.value


# --- a key's limit -------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_so_many_are_granted_and_the_next_one_is_refused(limits: Limits, limit: int) -> None:
    assert granted(limits, asking(limit), limit + 3) == limit


def test_each_key_has_a_count_of_its_own(limits: Limits) -> None:
    names = [f"{uuid.uuid4().hex}{rest}" for rest in ("", "/a", "/a/b", "{a}", "%7Ba%7D", "/", " ")]
    assert [granted(limits, asking(2, name), 3) for name in names] == [2] * len(names)


def test_a_limit_of_nothing_refuses_everything(limits: Limits) -> None:
    refused = refusal(limits, asking(0))
    assert refused.headers["X-RateLimit-Limit"] == "0"
    assert 3600 <= int(str(refused.headers["Retry-After"])) <= 3601


def test_no_limit_is_no_limit(limits: Limits) -> None:
    assert granted(limits, asking(None), 200) == 200


def test_a_refusal_says_when_to_come_back(limits: Limits) -> None:
    asked = asking(3)
    granted(limits, asked, 3)
    refused = refusal(limits, asked)
    wait = int(str(refused.headers["Retry-After"]))
    assert 1 <= wait <= 3601
    assert refused.headers["X-RateLimit-Limit"] == "3"
    assert refused.headers["X-RateLimit-Remaining"] == "0"
    reset = int(str(refused.headers["X-RateLimit-Reset"]))
    assert reset == pytest.approx(time.time() + wait, abs=2)
    assert f"3 requests an hour, and has used them up. Wait {wait} s" in refused.message


def test_each_grant_says_what_is_left_and_until_when(limits: Limits) -> None:
    asked = asking(3)
    for left in ("2", "1", "0"):
        fields = limits.limit(asked)
        assert (fields["X-RateLimit-Limit"], fields["X-RateLimit-Remaining"]) == ("3", left)
        assert 0 < int(fields["X-RateLimit-Reset"]) - time.time() <= 3602
    reset = int(str(refusal(limits, asked).headers["X-RateLimit-Reset"]))
    assert reset >= int(fields["X-RateLimit-Reset"]) - 1, "both are rounded up to a second"
    assert limits.limit(asking(None)) == {}


def test_counting_and_what_is_left_are_one_question_to_redis(
    make_limits: MakeLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, asked, sent = make_limits(), asking(2), []
    limits.limit(asked)  # the script is known from now on
    client: Any = limits._link.client
    execute = client.execute_command

    def noted(*arguments: Any, **options: Any) -> Any:
        sent.append(arguments[0])
        return execute(*arguments, **options)

    monkeypatch.setattr(client, "execute_command", noted)
    limits.limit(asked)
    refusal(limits, asked)
    assert sent == ["EVALSHA"] * 2


def test_what_is_left_of_the_previous_window_counts_too(window: "Window", redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    item, key = window._set(10, (6, 1800.0, 2))
    granted, windows = LinkStorage("link://", client).take(item.key_for(key), 10, 3600)
    client.close()
    assert (granted, windows.previous, windows.current) == (True, 6, 3)
    assert remaining(item, windows) in (4, 5), "10 - floor(6 x 1799.9 / 3600) - 3"
    assert seconds_to_change(item, windows) == pytest.approx(1800, abs=SLACK)


def test_all_instances_share_the_count(make_limits: MakeLimits) -> None:
    asked, workers = asking(10), [make_limits() for _ in range(2)]
    assert [granted(worker, asked, 7) for worker in workers] == [7, 3]


def test_threads_at_once_get_no_more_than_the_limit(limits: Limits) -> None:
    asked, counts = asking(20), []
    threads = [
        threading.Thread(target=lambda: counts.append(granted(limits, asked, 10))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 20


# --- without Redis -------------------------------------------------------------------------------


@pytest.fixture
def away() -> Iterator[str]:
    """The address of a Redis that is not there."""
    with refused_port() as port:
        yield f"redis://127.0.0.1:{port}/0"


@pytest.mark.parametrize(
    ("limit", "instances", "own"), [(10, 1, 10), (10, 4, 2), (9, 3, 3), (3, 4, 1), (0, 4, 0)]
)
def test_while_redis_is_away_an_instance_grants_its_part(
    make_limits: MakeLimits, away: str, limit: int, instances: int, own: int
) -> None:
    assert granted(make_limits(away, instances), asking(limit), limit + 3) == own


def test_the_workers_of_an_instance_share_its_part(
    make_limits: MakeLimits, away: str, tmp_path: Path
) -> None:
    asked = asking(10)
    workers = [make_limits(away, 2, store=tmp_path / "shared.db") for _ in range(2)]
    assert [granted(worker, asked, 4) for worker in workers] == [4, 1]


def test_a_refusal_by_ones_own_part_names_the_whole_limit(
    make_limits: MakeLimits, away: str
) -> None:
    worker, asked = make_limits(away, 5), asking(10)
    granted(worker, asked, 2)
    headers = refusal(worker, asked).headers
    assert headers["X-RateLimit-Limit"] == "10"
    assert 1 <= int(str(headers["Retry-After"])) <= 3601


def test_no_limit_needs_no_redis(make_limits: MakeLimits, away: str) -> None:
    assert granted(make_limits(away), asking(None), 5) == 5


def test_it_goes_back_to_the_shared_count_by_itself(
    make_limits: MakeLimits, start_redis: Callable[[], Redis]
) -> None:
    server = start_redis()
    worker, asked = make_limits(server.url, 2), asking(4)
    assert granted(worker, asked, 1) == 1
    server.stop()
    assert granted(worker, asked, 9) == 2, "its part of four"
    server.start()
    server.wait_until_ready()
    counts = []

    def all_four() -> bool:
        counts.append(granted(worker, asked, 9))
        return sum(counts) == 4

    eventually(all_four, "the shared count, which this Redis had forgotten")


# --- failed authentications ----------------------------------------------------------------------


def test_failures_of_an_address_are_limited(limits: Limits) -> None:
    address = f"192.0.2.{random.randrange(256)}"
    for _ in range(5):
        limits.check_failures(address)
        limits.note_failure(address)
    with pytest.raises(RateLimited) as caught:
        limits.check_failures(address)
    assert 1 <= int(str(caught.value.headers["Retry-After"])) <= 61
    assert caught.value.headers["X-RateLimit-Limit"] == "5"
    assert address in caught.value.message
    limits.check_failures("198.51.100.9")


def test_failures_are_counted_for_the_network_of_an_ipv6_address(limits: Limits) -> None:
    network = f"2001:db8:{random.randrange(65536):x}:{random.randrange(65536):x}"
    for number in range(5):
        limits.check_failures(f"{network}::{number}")
        limits.note_failure(f"{network}::{number}")
    with pytest.raises(RateLimited, match=f"{network}::77") as caught:
        limits.check_failures(f"{network}::77")
    assert f"network ({network}::/64" in caught.value.message
    limits.check_failures("2001:db9::1")


@pytest.mark.parametrize("written", ["64:ff9b::", "64:ff9b:1::", "::ffff:0:"])
def test_an_ipv6_address_that_stands_for_an_ipv4_address_has_a_count_of_its_own(
    limits: Limits, written: str
) -> None:
    """A translator in front writes all of them into one network."""
    theirs, ours = (f"{written}198.51.100.{number}" for number in random.sample(range(256), 2))
    for _ in range(5):
        limits.note_failure(theirs)
    with pytest.raises(RateLimited):
        limits.check_failures(theirs)
    limits.check_failures(ours)


def test_browser_sessions_and_the_key_itself_have_a_count_each(limits: Limits) -> None:
    who = principal(limit_per_hour=2, key_id=uuid.uuid4().hex)
    for counted in ("session", "key"):
        for _ in range(2):
            limits.count(who, counted)
    with pytest.raises(RateLimited, match="browser sessions of this API key"):
        limits.count(who, "session")
    with pytest.raises(RateLimited, match="This API key may make 2 requests"):
        limits.count(who)


def test_looking_does_not_count(limits: Limits) -> None:
    for _ in range(50):
        limits.check_failures("192.0.2.77")


def test_failures_are_limited_without_redis_too(make_limits: MakeLimits, away: str) -> None:
    worker = make_limits(away, instances=2, failure_limit=4)
    for _ in range(2):
        worker.check_failures("192.0.2.1")
        worker.note_failure("192.0.2.1")
    with pytest.raises(RateLimited):
        worker.check_failures("192.0.2.1")


# --- the wait ------------------------------------------------------------------------------------

PERIOD = 3600.0

#: Seconds by which the clock may go on between two steps of a test.
SLACK = 0.5


class Window:
    """The sliding window of one key in Redis, its two counters set directly."""

    def __init__(self, client: Any, url: str) -> None:
        self.storage = RedisStorage(url)
        self.limiter = SlidingWindowCounterRateLimiter(self.storage)
        self._client = client

    def seconds_to_wait(self, limit: int, state: tuple[int, float, int]) -> float:
        item, key = self._set(limit, state)
        return seconds_to_wait(item, look(self.storage, item, (key,)))

    def grants(self, limit: int, state: tuple[int, float, int], after: float) -> bool:
        """Whether the library itself grants one more, `after` seconds on from this state."""
        item, key = self._set(limit, state, after)
        return self.limiter.hit(item, key)

    def _set(
        self, limit: int, state: tuple[int, float, int], after: float = 0.0
    ) -> tuple[RateLimitItemPerHour, str]:
        """`state`: the previous window's count, the seconds it still matters, the current count."""
        previous, rest, current = state
        item, key = RateLimitItemPerHour(limit), uuid.uuid4().hex
        name = f"LIMITS:{{{item.key_for(key)}}}"
        counters = ((f"{name}/-1", previous, rest - after), (name, current, rest - after + PERIOD))
        for counter, count, seconds in counters:
            if count and seconds > 0:
                self._client.set(counter, count, px=round(seconds * 1000))
        return item, key


@pytest.fixture
def window(redis_url: str) -> Iterator[Window]:
    client = redis.Redis.from_url(redis_url)
    window = Window(client, redis_url)
    yield window
    window.storage.storage.close()
    client.close()


def test_the_counters_of_this_test_are_the_librarys(window: Window) -> None:
    item, key = window._set(10, (4, 1800.0, 3))
    previous, rest, current, _ = window.storage.get_sliding_window(item.key_for(key), 3600)
    assert (previous, current) == (4, 3)
    assert rest == pytest.approx(1800, abs=SLACK)


@pytest.mark.parametrize(
    ("limit", "state", "wait"),
    [
        (10, (0, 0.0, 0), 0),
        (10, (0, 1800.0, 9), 0),
        (10, (0, 1800.0, 10), 1800),
        (10, (10, 3600.0, 0), 0),
        (10, (10, 1800.0, 5), 0),
        (10, (10, 1800.0, 6), 360),
        (10, (10, 1800.0, 9), 1440),
        (10, (10, 1800.0, 10), 1800),
        (1, (1, 3600.0, 0), 0),
        (1, (1, 20.0, 1), 20),
        (1000, (1000, 3599.0, 999), 3595.4),
        (0, (0, 0.0, 0), 3600),
    ],
)
def test_when_one_more_is_granted(
    window: Window, limit: int, state: tuple[int, float, int], wait: float
) -> None:
    assert window.seconds_to_wait(limit, state) == pytest.approx(wait, abs=SLACK)


def test_the_wait_is_exact_by_the_librarys_own_count(window: Window) -> None:
    """Any state that the library can be in: refused up to the wait's end, granted right after."""
    chance = random.Random(20261121)
    for _ in range(150):
        limit = chance.choice((1, 2, 3, 10, 100, 1000))
        state = (chance.randint(0, limit), chance.uniform(5, 3595), chance.randint(0, limit))
        wait = window.seconds_to_wait(limit, state)
        case = f"limit {limit}, state {state}, wait {wait}"
        assert 0 <= wait <= PERIOD, case
        assert window.grants(limit, state, wait + SLACK), f"still refused: {case}"
        if wait > SLACK:
            assert not window.grants(limit, state, wait - SLACK), f"granted before: {case}"


@pytest.fixture(params=["redis", "memory", "store"])
def storage(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Any]:
    """Each place where windows are counted."""
    if request.param == "redis":
        counts = RedisStorage(redis_url)
        yield counts
        counts.storage.close()
    else:
        yield MemoryStorage() if request.param == "memory" else WindowCounts(InstanceDatabase(None))


def test_whoever_waits_for_so_long_is_granted_in_real_time(storage: Any) -> None:
    limiter, item = SlidingWindowCounterRateLimiter(storage), RateLimitItemPerSecond(3)
    identity = (uuid.uuid4().hex,)
    while limiter.hit(item, *identity):
        pass
    time.sleep(seconds_to_wait(item, look(storage, item, identity)) + 0.02)
    assert limiter.hit(item, *identity)


@pytest.mark.parametrize("limit", [1, 5])
def test_a_window_that_is_full_at_its_beginning_is_waited_for_whole(
    window: Window, limit: int
) -> None:
    """Asked within the millisecond in which it began, as some of these are."""
    waits = [window.seconds_to_wait(limit, (0, PERIOD, limit)) for _ in range(50)]
    assert waits == [pytest.approx(PERIOD, abs=SLACK)] * 50


# --- in flight -----------------------------------------------------------------------------------


def test_one_key_has_so_many_slots() -> None:
    in_flight = InFlight(per_key=2, in_all=10)
    slots = [in_flight.acquire("key-1") for _ in range(2)]
    with pytest.raises(Overloaded, match="2 requests in flight") as caught:
        in_flight.acquire("key-1")
    assert caught.value.headers == {"Retry-After": "5"}
    in_flight.acquire("key-2").release()
    slots[0].release()
    in_flight.acquire("key-1")
    with pytest.raises(Overloaded):
        in_flight.acquire("key-1")


def test_all_keys_together_have_so_many_slots() -> None:
    in_flight = InFlight(per_key=5, in_all=3)
    slots = [in_flight.acquire(f"key-{number}") for number in range(3)]
    with pytest.raises(Overloaded, match="The proxy is busy"):
        in_flight.acquire("key-4")
    slots[0].release()
    in_flight.acquire("key-4")
    assert in_flight.total == 3


def test_those_without_a_key_have_a_quarter() -> None:
    in_flight = InFlight(per_key=5, in_all=8, timeout=0)
    slots = [in_flight.acquire(f"network {number}", has_key=False) for number in range(2)]
    with pytest.raises(Overloaded, match="The proxy is busy"):
        in_flight.acquire("network 3", has_key=False)
    in_flight.acquire("key-1")
    slots[0].release()
    in_flight.acquire("network 3", has_key=False)


@pytest.mark.parametrize(("per_key", "in_all"), [(1, 40), (5, 4)])
def test_who_has_no_key_waits_for_a_slot(per_key: int, in_all: int) -> None:
    in_flight = InFlight(per_key=per_key, in_all=in_all, timeout=20)
    first = in_flight.acquire("network 1", has_key=False)
    threading.Timer(0.1, first.release).start()
    in_flight.acquire("network 1", has_key=False).release()
    assert in_flight.total == 0


def test_who_has_no_key_waits_so_long() -> None:
    in_flight = InFlight(per_key=1, in_all=40, timeout=0.1)
    in_flight.acquire("network 1", has_key=False)
    began = time.monotonic()
    with pytest.raises(Overloaded, match="1 requests in flight"):
        in_flight.acquire("network 1", has_key=False)
    assert time.monotonic() - began >= 0.1


def test_leaving_twice_gives_one_place_back() -> None:
    in_flight = InFlight(per_key=1, in_all=2)
    slot, _ = in_flight.acquire("key-1"), in_flight.acquire("key-2")
    slot.release()
    slot.release()
    assert in_flight.total == 1
    in_flight.acquire("key-1")
    with pytest.raises(Overloaded):
        in_flight.acquire("key-3")


def test_a_refused_request_takes_no_place() -> None:
    in_flight = InFlight(per_key=1, in_all=2)
    slot = in_flight.acquire("key-1")
    for _ in range(5):
        with pytest.raises(Overloaded):
            in_flight.acquire("key-1")
    assert in_flight.total == 1
    slot.release()
    assert in_flight.total == 0


def test_slots_are_counted_right_by_many_threads() -> None:
    in_flight = InFlight(per_key=100, in_all=1000)

    def come_and_go() -> None:
        for _ in range(500):
            in_flight.acquire("key-1").release()

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert in_flight.total == 0
