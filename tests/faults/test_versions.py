"""Two versions of the proxy on one Redis, as in a rollout: stored decisions differ in form."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from app.auth.cache import PREFIX
from app.request.principal import STORED_VERSION
from app.state.redis_client import CHANNEL
from devstack.environments import ROOT
from devstack.proxy import Proxy
from tests.drills.rollback import Release, checkout
from tests.drills.stage import Stage
from tests.upstreams import Upstream, eventually
from tests.wire import bearer, call

pytestmark = pytest.mark.slow
SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search?max_results=1"


@pytest.fixture
def shared_url(start_redis: Callable[..., Any]) -> str:
    """A Redis of the test's own, which all versions share."""
    return str(start_redis().url)


@pytest.fixture
def shared(shared_url: str) -> Iterator[Redis]:
    """A client for that Redis."""
    with Redis.from_url(shared_url) as client:
        yield client


@pytest.fixture
def start(
    stage: Stage, fake: Upstream, shared_url: str, tmp_path: Path
) -> Callable[[str, int], Proxy]:
    """Start a version, told the number of its stored form; all of them with one secret."""

    def start(version: str, stored: int) -> Proxy:
        folder = checkout(version, ROOT, tmp_path / version)
        file = folder / "app" / "request" / "principal.py"
        text, edits = re.subn(
            r"^STORED_VERSION = \d+$", f"STORED_VERSION = {stored}", file.read_text(), flags=re.M
        )
        assert edits == 1
        file.write_text(text)
        settings = {
            "MLFLOW_SERVER_URL": fake.url,
            "HOKUSAI_AUTH_SERVICE_URL": stage.auth_url,
            "REDIS_URL": shared_url,
            "REDIS_TIMEOUT": "5",
            "AUTH_CACHE_SECRET": "the same for both versions",
            "WEB_CONCURRENCY": "1",
            "GRACEFUL_TIMEOUT": "2",
        }
        release = Release(folder, settings, ready="/health")
        release.log = tmp_path / f"{version}.log"
        stage.started.append(release)
        release.start()
        release.wait_until_ready()
        return release

    return start


def ask(proxy: Proxy, key: str) -> int:
    return call(proxy.url, "GET", SEARCH, bearer(key)).status


def how(proxy: Proxy) -> list[str]:
    """How each of this proxy's requests was authenticated: the log's `auth_source`."""
    return [str(li["auth_source"]) for li in proxy.log_lines() if li.get("message") == "request"]


def told(proxy: Proxy, *expected: str) -> None:
    eventually(lambda: len(how(proxy)) >= len(expected), "the lines of these requests")
    assert how(proxy) == list(expected)


def test_of_one_form_the_next_version_reads_what_the_last_one_wrote(
    start: Callable[..., Proxy], auth_service: Any
) -> None:
    """The control: without this, a miss below would prove nothing."""
    key = auth_service.create_key().key
    old, new = start("1.0.0", STORED_VERSION), start("1.0.1", STORED_VERSION)
    assert (ask(old, key), ask(new, key)) == (200, 200)
    told(old, "miss")
    told(new, "hit")


def test_another_form_is_a_miss_in_both_directions_and_no_error(
    start: Callable[..., Proxy], auth_service: Any
) -> None:
    key = auth_service.create_key().key
    old, new = start("1.0.0", STORED_VERSION), start("1.1.0", STORED_VERSION + 1)
    assert (ask(old, key), ask(new, key)) == (200, 200)
    told(old, "miss")
    told(new, "miss")
    back = start("1.0.0-again", STORED_VERSION)  # the roll-back: a fresh process, the old form
    assert ask(back, key) == 200
    told(back, "miss")


def test_both_count_together_and_hear_the_same_revocation(
    start: Callable[..., Proxy], auth_service: Any, shared: Redis
) -> None:
    limited, revoked = auth_service.create_key(limit=4), auth_service.create_key()
    old, new = start("1.0.0", STORED_VERSION), start("1.1.0", STORED_VERSION + 1)
    both = (old, new)
    assert [ask(proxy, limited.key) for proxy in (*both, *both)] == [200] * 4
    assert [ask(proxy, limited.key) for proxy in both] == [429, 429]

    assert [ask(proxy, revoked.key) for proxy in both] == [200, 200]
    auth_service.revoke(revoked.key_id)  # announced on another Redis than these two listen on
    assert shared.publish(CHANNEL, revoked.key_id) == 2

    def is_refused(proxy: Proxy) -> bool:
        return ask(proxy, revoked.key) == 401

    for proxy in both:
        eventually(partial(is_refused, proxy), "its end")


def test_names_in_redis_say_no_version_of_the_proxy(
    start: Callable[..., Proxy], auth_service: Any, shared: Redis
) -> None:
    """Else a rollout would empty the cache and start the counts again."""
    key = auth_service.create_key(limit=4).key
    proxy = start("9.9.9", STORED_VERSION)
    assert ask(proxy, key) == 200
    names = {name.decode() for name in shared.scan_iter()}
    assert [name for name in names if name.startswith(PREFIX)]
    assert [name for name in names if name.startswith("LIMITS")]
    assert not [name for name in names if "9.9.9" in name]
