"""Decisions: fresh, negative, stale, revoked; shared through Redis under opaque names."""

import base64
import gc
import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
import redis

from app.auth.cache import MAX_LOCAL, PREFIX, DecisionCache
from app.auth.revocation_marks import CLOCK_SKEW
from app.request.principal import Decision, dump
from app.state.instance_store import InstanceStore
from app.state.redis_link import RedisLink
from app.state.shared_values import SharedValues
from devstack.redis import Redis
from tests.app.samples import KEY, principal
from tests.upstreams import eventually, refused_port

TTL, NEGATIVE, STALE = 60.0, 10.0, 600.0
SECRET = b"the same on all instances"

MakeCache = Callable[..., DecisionCache]


@pytest.fixture
def make_cache(redis_url: str) -> Iterator[MakeCache]:
    """A cache as one worker has it; all that are made here share Redis and the secret."""
    links = []

    def make(
        url: str = redis_url,
        secret: bytes = SECRET,
        ttl: float = TTL,
        negative: float = NEGATIVE,
        stale: float = STALE,
        store: Path | None = None,
    ) -> DecisionCache:
        link = RedisLink(url, 5, 0.05)
        links.append(link)
        return DecisionCache(
            SharedValues(link, InstanceStore.at(store)),
            secret=secret,
            ttl=ttl,
            negative_ttl=negative,
            stale_ttl=stale,
        )

    yield make
    for link in links:
        if link.client is not None:
            link.client.close()


@pytest.fixture
def cache(make_cache: MakeCache) -> DecisionCache:
    return make_cache()


@pytest.fixture
def other(make_cache: MakeCache) -> DecisionCache:
    """Another worker's cache."""
    return make_cache()


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    """Redis itself, for looking at what is in it."""
    client = redis.Redis.from_url(redis_url)
    yield client
    client.close()


@pytest.fixture
def key_id() -> str:
    return f"key-{uuid.uuid4().hex}"


@pytest.fixture
def digest(cache: DecisionCache, key_id: str) -> str:
    return cache.digest(KEY, "192.0.2.1", key_id)


def yes(key_id: str, age: float = 0.0) -> Decision:
    return Decision(principal(key_id=key_id), time.time() - age)


def no(age: float = 0.0) -> Decision:
    return Decision(None, time.time() - age)


# --- the name of a decision -----------------------------------------------------------------------


def test_all_that_was_validated_is_part_of_the_name(cache: DecisionCache) -> None:
    """The last two would be one, were the parts only put together."""
    questions = [
        ("key", "192.0.2.1", "platform"),
        ("other", "192.0.2.1", "platform"),
        ("key", "192.0.2.2", "platform"),
        ("key", "192.0.2.1", "billing"),
        ("key1", "92.0.2.1", "platform"),
        ("key", "192.0.2.1p", "latform"),
    ]
    assert len({cache.digest(*question) for question in questions}) == len(questions)


def test_the_name_depends_on_the_secret(make_cache: MakeCache) -> None:
    names = {make_cache(secret=secret).digest(KEY, "", "") for secret in (b"a", b"b")}
    assert len(names) == 2


def test_instances_with_one_secret_agree_on_it(cache: DecisionCache, other: DecisionCache) -> None:
    assert cache.digest(KEY, "a", "b") == other.digest(KEY, "a", "b")


def test_redis_holds_neither_the_key_nor_a_plain_hash_of_it(
    cache: DecisionCache, client: "redis.Redis", digest: str, key_id: str
) -> None:
    cache.put(digest, yes(key_id))
    cache.unanswered.note(digest, 5)
    cache.revocations.revoke(key_id)
    raw = KEY.encode()
    telling = [raw, base64.b64encode(raw), raw.hex().encode(), raw[-8:]]
    for kind in ("md5", "sha1", "sha256", "sha512", "blake2b"):
        hashed = hashlib.new(kind, raw)
        telling += [hashed.hexdigest().encode(), hashed.digest(), base64.b64encode(hashed.digest())]
    names = [name for name in client.scan_iter("hokusai:*")]
    assert f"{PREFIX}{digest}".encode() in names
    text = b"\n".join(names + [client.get(name) or b"" for name in names])
    assert not [each for each in telling if each in text]


# --- fresh ---------------------------------------------------------------------------------------


def test_what_was_never_put_is_a_miss(cache: DecisionCache, digest: str) -> None:
    assert cache.fresh(digest) is None
    assert cache.stale(digest) is None


@pytest.mark.parametrize(
    ("age", "is_fresh"),
    [(0.0, True), (TTL - 1, True), (TTL, False), (TTL + 1, False), (-5, True), (-20, False)],
)
def test_a_yes_is_believed_for_its_life(
    cache: DecisionCache, other: DecisionCache, digest: str, key_id: str, age: float, is_fresh: bool
) -> None:
    decision = yes(key_id, age)
    assert cache.put(digest, decision)
    expected = decision if is_fresh else None
    assert cache.fresh(digest) == expected
    assert other.fresh(digest) == expected, "another worker finds it in Redis"


@pytest.mark.parametrize(
    ("age", "is_fresh"), [(0.0, True), (NEGATIVE - 1, True), (NEGATIVE, False), (TTL - 1, False)]
)
def test_a_no_is_believed_for_its_own_shorter_life(
    cache: DecisionCache, other: DecisionCache, digest: str, age: float, is_fresh: bool
) -> None:
    decision = no(age)
    assert cache.put(digest, decision)
    expected = decision if is_fresh else None
    assert cache.fresh(digest) == expected
    assert other.fresh(digest) == expected


@pytest.mark.parametrize("is_good", [True, False])
def test_a_life_of_nothing_is_never_fresh(
    make_cache: MakeCache, digest: str, key_id: str, is_good: bool
) -> None:
    caches = [make_cache(ttl=0, negative=0, stale=0) for _ in range(2)]
    caches[0].put(digest, yes(key_id) if is_good else no())
    for cache in caches:
        assert cache.fresh(digest) is cache.stale(digest) is None
        assert cache.was_good(digest) is is_good


def test_a_hit_never_extends_a_life(
    cache: DecisionCache, other: DecisionCache, client: "redis.Redis", digest: str, key_id: str
) -> None:
    cache.put(digest, yes(key_id, TTL - 1))
    in_redis = client.pttl(PREFIX + digest)
    deadline = time.monotonic() + 1.05
    hits = 0
    while time.monotonic() < deadline:
        hits += bool(cache.fresh(digest)) + bool(other.fresh(digest))
        time.sleep(0.01)
    assert hits > 10
    assert cache.fresh(digest) is None
    assert other.fresh(digest) is None
    assert client.pttl(PREFIX + digest) < in_redis - 1000


def test_redis_forgets_a_decision_that_is_of_no_use_any_more(
    cache: DecisionCache, client: "redis.Redis", digest: str, key_id: str
) -> None:
    cache.put(digest, no())
    assert 0 < client.ttl(PREFIX + digest) <= NEGATIVE
    cache.put(digest, yes(key_id))
    assert NEGATIVE < client.ttl(PREFIX + digest) <= TTL + STALE


def test_the_newer_decision_replaces_the_older(
    cache: DecisionCache, digest: str, key_id: str
) -> None:
    cache.put(digest, yes(key_id, 5))
    newer = no()
    cache.put(digest, newer)
    assert cache.fresh(digest) == newer


@pytest.mark.parametrize(
    ("spoil", "is_hit"),
    [
        (lambda entry: entry, True),
        (lambda entry: orjson.dumps(orjson.loads(entry) | {"v": 2}), False),
        (lambda entry: orjson.dumps(orjson.loads(entry) | {"v": 0}), False),
        (lambda entry: b"", False),
        (lambda entry: b"garbage", False),
    ],
    ids=["this one", "newer", "older", "empty", "garbage"],
)
def test_an_entry_of_another_version_is_a_miss(
    cache: DecisionCache,
    client: "redis.Redis",
    digest: str,
    spoil: Callable[[bytes], bytes],
    is_hit: bool,
) -> None:
    client.set(PREFIX + digest, spoil(dump(yes("key-1"))), px=5000)
    assert (cache.fresh(digest) is not None) is is_hit
    assert (cache.stale(digest) is not None) is is_hit


# --- stale ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "is_usable"),
    [(TTL + 1, True), (TTL + STALE - 1, True), (TTL + STALE, False), (TTL + STALE + 1, False)],
)
def test_a_yes_past_its_life_is_stale_for_a_while(
    cache: DecisionCache,
    other: DecisionCache,
    digest: str,
    key_id: str,
    age: float,
    is_usable: bool,
) -> None:
    decision = yes(key_id, age)
    cache.put(digest, decision)
    expected = decision if is_usable else None
    assert cache.stale(digest) == expected
    assert other.stale(digest) == expected


def test_stale_can_be_switched_off(make_cache: MakeCache, digest: str, key_id: str) -> None:
    cache = make_cache(stale=0)
    cache.put(digest, yes(key_id, TTL + 0.01))
    assert cache.stale(digest) is None


def test_a_no_is_never_stale(cache: DecisionCache, other: DecisionCache, digest: str) -> None:
    cache.put(digest, no(NEGATIVE + 1))
    assert cache.stale(digest) is None
    assert other.stale(digest) is None


def test_a_no_ends_the_yes_that_another_worker_still_holds(
    make_cache: MakeCache, digest: str, key_id: str
) -> None:
    """Also after the no's own life, when the auth service is asked again and gives no answer."""
    cache, other = make_cache(negative=0.1), make_cache(negative=0.1)
    cache.put(digest, yes(key_id, TTL + 1))
    assert other.stale(digest) is not None
    other.put(digest, no())
    time.sleep(0.15)
    assert other.fresh(digest) is cache.fresh(digest) is None
    assert other.stale(digest) is None
    assert cache.stale(digest) is None


def test_a_newer_yes_of_another_worker_is_the_one_that_counts(
    cache: DecisionCache, other: DecisionCache, digest: str, key_id: str
) -> None:
    cache.put(digest, yes(key_id, TTL + STALE + 1))
    newer = yes(key_id, TTL + 1)
    other.put(digest, newer)
    assert cache.stale(digest) == newer


# --- revoked -------------------------------------------------------------------------------------


def test_a_revocation_ends_every_older_decision(
    cache: DecisionCache, digest: str, key_id: str
) -> None:
    cache.put(digest, yes(key_id))
    cache.revocations.revoke(key_id)
    assert cache.fresh(digest) is None
    assert cache.stale(digest) is None


def test_a_revocation_ends_what_was_asked_before_and_answered_after_it(
    cache: DecisionCache, other: DecisionCache, digest: str, key_id: str
) -> None:
    asked_before = yes(key_id, 0.5)
    cache.revocations.revoke(key_id)
    assert not cache.put(digest, asked_before)
    assert cache.fresh(digest) is None
    assert other.fresh(digest) is None


def test_a_key_that_is_found_valid_afterwards_is_valid(
    cache: DecisionCache, other: DecisionCache, digest: str, key_id: str
) -> None:
    cache.revocations.revoke(key_id)
    afterwards = yes(key_id, age=-(CLOCK_SKEW + 0.5))
    assert cache.put(digest, afterwards)
    assert cache.fresh(digest) == afterwards
    assert other.fresh(digest) == afterwards


def test_what_is_asked_right_after_a_revocation_counts_here_only(
    cache: DecisionCache, other: DecisionCache, digest: str, key_id: str
) -> None:
    """The service may still accept the key: its scopes changed, or its sessions had to end. Another
    process may have another clock, so it asks for itself."""
    for worker in (cache, other):
        worker.revocations.revoke(key_id)
    assert cache.put(digest, yes(key_id))
    assert cache.fresh(digest) is not None
    assert other.fresh(digest) is None
    cache.revocations.revoke(key_id)
    assert cache.fresh(digest) is None


def test_a_revocation_ends_no_other_keys_decision(cache: DecisionCache, digest: str) -> None:
    cache.put(digest, yes("key-that-stays"))
    cache.revocations.revoke("key-that-goes")
    assert cache.fresh(digest) is not None


def test_a_worker_that_did_not_hear_of_it_finds_the_tombstone(
    cache: DecisionCache, other: DecisionCache, digest: str, key_id: str
) -> None:
    cache.put(digest, yes(key_id))
    cache.revocations.revoke(key_id)
    assert other.fresh(digest) is None
    assert other.stale(digest) is None
    assert not other.put(digest, yes(key_id, 0.5))


@pytest.mark.parametrize(
    ("since", "lasts", "sees_it"),
    [(-60.0, 60.0, False), (-60.0, 0.0, True), (-CLOCK_SKEW / 2, 60.0, True)],
    ids=["it hears", "it hears no more", "it began to hear after the decision"],
)
def test_a_worker_that_hears_of_revocations_looks_for_none(
    cache: DecisionCache,
    other: DecisionCache,
    digest: str,
    key_id: str,
    since: float,
    lasts: float,
    sees_it: bool,
) -> None:
    """What it would have heard of: nobody tells it here, which shows whether it looks."""
    other.put(digest, yes(key_id))
    other.revocations.revoke(key_id)
    cache.revocations.note_subscribed(time.time() + since, time.monotonic() + lasts)
    assert (cache.fresh(digest) is None) is sees_it


def test_a_stale_yes_is_held_against_the_tombstone(
    cache: DecisionCache, other: DecisionCache, digest: str, key_id: str
) -> None:
    cache.put(digest, yes(key_id, TTL + 1))
    assert cache.stale(digest) is not None
    other.revocations.revoke(key_id)
    assert cache.stale(digest) is None


def test_a_tombstone_lasts_as_long_as_what_it_ends(
    cache: DecisionCache, client: "redis.Redis", key_id: str
) -> None:
    cache.revocations.revoke(key_id)
    (name,) = client.scan_iter(f"hokusai:auth:revoked:{key_id}")
    assert TTL + STALE - 1 <= client.ttl(name) <= TTL + STALE + CLOCK_SKEW


# --- unanswered ----------------------------------------------------------------------------------


def test_that_nobody_answered_is_known_to_all_workers_for_a_while(
    cache: DecisionCache, other: DecisionCache, digest: str
) -> None:
    assert cache.unanswered.get(digest) is None
    cache.unanswered.note(digest, 0.3)
    assert cache.unanswered.get(digest) == 0
    assert other.unanswered.get(digest) == 0
    time.sleep(0.31)
    assert cache.unanswered.get(digest) is None
    assert other.unanswered.get(digest) is None


def test_for_how_long_it_throttles_is_known_to_all_workers(
    cache: DecisionCache, other: DecisionCache, digest: str
) -> None:
    cache.unanswered.note(digest, 5, throttled_for=17)
    assert cache.unanswered.get(digest) == 17
    assert other.unanswered.get(digest) == 17


def test_while_one_asks_again_the_others_know_and_only_then(
    make_cache: MakeCache, cache: DecisionCache, other: DecisionCache, digest: str
) -> None:
    """Else one throttling comes back with a later question, maybe hours later, and for ever."""
    third = make_cache()
    cache.unanswered.note(digest, 0.05, throttled_for=17)
    assert other.unanswered.get(digest) == 17
    time.sleep(0.06)
    other.unanswered.extend(digest, 0.2)
    assert third.unanswered.get(digest) == 17
    time.sleep(0.21)
    third.unanswered.extend(digest, 5)  # knows of an extension only
    cache.unanswered.extend(digest, 0.2)  # its own is too long ago
    assert cache.unanswered.get(digest) is None


def test_an_answer_that_another_worker_got_ends_it(
    cache: DecisionCache, other: DecisionCache, digest: str, key_id: str
) -> None:
    cache.unanswered.note(digest, 0.05, throttled_for=17)
    time.sleep(0.06)
    other.put(digest, yes(key_id))
    assert cache.fresh(digest)
    cache.unanswered.extend(digest, 5)
    assert other.unanswered.get(digest) is None


def test_it_says_nothing_about_another_key(cache: DecisionCache, digest: str) -> None:
    cache.unanswered.note(digest, 5)
    assert cache.unanswered.get(cache.digest("another", "192.0.2.1", "platform")) is None


# --- without Redis -------------------------------------------------------------------------------


@pytest.fixture(params=["away", "memory"])
def without(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a Redis that is not there, and of none at all."""
    with refused_port() as port:
        yield f"redis://127.0.0.1:{port}/0" if request.param == "away" else "memory://"


def test_without_redis_a_decision_lives_in_the_instance(
    make_cache: MakeCache, without: str, digest: str, key_id: str, tmp_path: Path
) -> None:
    file = tmp_path / "shared.db"
    cache, neighbour, elsewhere = (make_cache(without, store=store) for store in (file, file, None))
    decision = yes(key_id)
    assert cache.put(digest, decision)
    assert cache.fresh(digest) == decision
    assert neighbour.fresh(digest) == decision
    assert elsewhere.fresh(digest) is None


def test_a_decision_that_redis_lost_need_not_be_asked_for_again_by_a_neighbour(
    make_cache: MakeCache, client: "redis.Redis", digest: str, key_id: str, tmp_path: Path
) -> None:
    """Of a thousand at once with a new key, one asks, also where one command fails in between."""
    file = tmp_path / "shared.db"
    cache, neighbour, elsewhere = (make_cache(store=store) for store in (file, file, None))
    decision = yes(key_id)
    cache.put(digest, decision)
    client.delete(PREFIX + digest)
    assert elsewhere.fresh(digest) is None
    assert neighbour.fresh(digest) == decision
    neighbour.revocations.revoke(key_id)
    assert neighbour.fresh(digest) is None


def test_without_redis_every_rule_holds(
    make_cache: MakeCache, without: str, digest: str, key_id: str
) -> None:
    cache = make_cache(without, negative=0.1)
    cache.put(digest, yes(key_id, TTL + 1))
    assert cache.fresh(digest) is None
    assert cache.stale(digest) is not None
    cache.put(digest, no())
    assert cache.stale(digest) is None
    cache.put(digest, yes(key_id, 0.5))
    cache.revocations.revoke(key_id)
    assert cache.fresh(digest) is cache.stale(digest) is None
    cache.unanswered.note(digest, 5)
    assert cache.unanswered.get(digest) == 0


def test_what_is_known_here_survives_that_redis_goes_away(
    make_cache: MakeCache, start_redis: Callable[[], Redis], digest: str, key_id: str
) -> None:
    server = start_redis()
    cache = make_cache(server.url)
    decision = yes(key_id)
    cache.put(digest, decision)
    server.stop()
    assert cache.fresh(digest) == decision
    newer = yes(key_id, -1)
    assert cache.put(digest, newer)
    assert cache.fresh(digest) == newer
    server.start()
    server.wait_until_ready()
    other = make_cache(server.url)
    eventually(lambda: cache.put(digest, newer) and other.fresh(digest) == newer, "Redis again")


# --- memory --------------------------------------------------------------------------------------


def test_so_many_are_kept_in_one_process_and_no_more(make_cache: MakeCache) -> None:
    cache = make_cache("memory://")
    before = decisions_alive()
    for number in range(MAX_LOCAL + 500):
        cache.put(f"{number:064x}", no())
    kept = decisions_alive() - before
    assert MAX_LOCAL - 10 <= kept <= MAX_LOCAL


def test_so_many_unanswered_keys_are_kept_and_no_more(make_cache: MakeCache) -> None:
    """In an outage anybody can invent keys."""
    cache = make_cache("memory://")
    for number in range(MAX_LOCAL + 500):
        cache.unanswered.note(f"{number:064x}", 60)
    assert len(cache.unanswered._local) <= MAX_LOCAL
    assert cache.unanswered.get(f"{1:064x}") == 0


def decisions_alive() -> int:
    gc.collect()
    return sum(isinstance(each, Decision) for each in gc.get_objects())
