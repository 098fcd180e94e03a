"""A revoked key ends within a second, in every worker of every instance."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import requests
from mlflow.exceptions import RestException

from devstack.auth_service import revocation
from devstack.proxy import Proxy
from tests.drills.stage import Quiet
from tests.pipeline.conftest import eventually

#: Connections at once, each of them new: enough to reach each of two workers.
EACH = 8


def statuses(proxy: Proxy, key: str) -> set[int]:
    """What a key is answered by the workers of an instance."""

    def ask(_: int) -> int:
        headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
        return requests.get(f"{proxy.api}/version", headers=headers, timeout=60).status_code

    with ThreadPoolExecutor(EACH) as pool:
        return set(pool.map(ask, range(EACH)))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_revoked_key_is_refused_by_two_instances_within_a_second(
    start_proxy: Callable[..., Proxy], auth_service: Any, connect: Callable[..., Any], alone: Quiet
) -> None:
    one, two = start_proxy(), start_proxy()
    revoked, other = auth_service.create_key(), auth_service.create_key()
    client = connect(one.api, revoked.key)
    client.search_experiments(max_results=1)
    assert statuses(one, revoked.key) == statuses(two, revoked.key) == {200}

    def is_refused(proxy: Proxy) -> bool:
        return statuses(proxy, revoked.key) == {401}

    with alone():
        auth_service.revoke(revoked.key_id)
        end = time.monotonic() + 1
        for proxy in (one, two):
            eventually(partial(is_refused, proxy), end - time.monotonic())
        # Asked after one second, or earlier if it was refused by then.
        assert statuses(one, revoked.key) == statuses(two, revoked.key) == {401}

    with pytest.raises(RestException, match=r"^UNAUTHENTICATED: .*revoked"):
        client.search_experiments(max_results=1)
    assert statuses(one, other.key) == statuses(two, other.key) == {200}


@pytest.mark.slow
def test_a_revoked_key_that_the_service_still_accepts_is_never_refused(
    start_proxy: Callable[..., Proxy], auth_service: Any, redis_url: str
) -> None:
    """`flask revoke` ends its sessions. A refusal would end a training, and count as a guess."""
    proxy = start_proxy(AUTH_FAILURE_LIMIT=3)
    key = auth_service.create_key()
    assert statuses(proxy, key.key) == {200}
    revocation.announce(redis_url, key.key_id)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert statuses(proxy, key.key) == {200}
