"""The limit of a key: counted once for all instances, and waited for by MLflow's SDK."""

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from redis import Redis

from devstack.proxy import Proxy
from tests.pipeline.conftest import unique

Connect = Callable[..., Any]
HOUR_MS = 3_600_000

#: The SDK repeats twice, and of itself at once: only Retry-After makes it wait long enough.
BY_RETRY_AFTER = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
}


def ask(proxy: Proxy, key: str) -> requests.Response:
    """One small request."""
    headers = {"Authorization": f"Bearer {key}"}
    return requests.get(f"{proxy.api}/version", headers=headers, timeout=60)


@pytest.mark.slow
def test_two_instances_count_together(start_proxy: Callable[..., Proxy], auth_service: Any) -> None:
    patient = {"REDIS_TIMEOUT": 5}  # each would count by itself while Redis is slow
    one, two = start_proxy(**patient), start_proxy(**patient)
    for order in ((one, two) * 3, (one,) * 2 + (two,) * 4):
        key = auth_service.create_key(limit=2).key
        assert [ask(proxy, key).status_code for proxy in order] == [200] * 2 + [429] * 4

    key = auth_service.create_key(limit=10).key
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda proxy: ask(proxy, key), (one, two) * 20))
    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [429] * 30


def test_the_refusal_says_how_long_to_wait(proxy: Proxy, auth_service: Any) -> None:
    key = auth_service.create_key(limit=1).key
    assert ask(proxy, key).status_code == 200
    refused = ask(proxy, key)
    assert (refused.status_code, refused.json()["error_code"]) == (429, "REQUEST_LIMIT_EXCEEDED")
    wait = int(refused.headers["Retry-After"])
    assert 0 < wait <= 3600
    assert f"Wait {wait} s" in refused.json()["message"]
    assert refused.headers["X-RateLimit-Limit"] == "1"
    assert refused.headers["X-RateLimit-Remaining"] == "0"
    assert abs(int(refused.headers["X-RateLimit-Reset"]) - wait - time.time()) < 60


def test_each_answer_says_what_is_left(proxy: Proxy, auth_service: Any) -> None:
    headers = {"Authorization": f"Bearer {auth_service.create_key(limit=5).key}"}
    gateway, nothing = "api/3.0/mlflow/gateway/secrets/list", "api/9.0/nothing"
    asked = ("version", "api/2.0/mlflow/runs/get?run_id=none", gateway, nothing, "version")
    answers = [requests.get(f"{proxy.api}/{path}", headers=headers, timeout=60) for path in asked]
    assert [answer.status_code for answer in answers] == [200, 404, 403, 404, 200]
    assert [answer.headers["X-RateLimit-Limit"] for answer in answers] == ["5"] * 5
    left = [answer.headers["X-RateLimit-Remaining"] for answer in answers]
    assert left == ["4", "3", "3", "3", "2"], "what the proxy refuses does not count"
    assert time.time() < int(answers[-1].headers["X-RateLimit-Reset"]) < time.time() + 3603


def test_a_key_without_a_limit_is_told_of_none(proxy: Proxy, writer: str) -> None:
    answers = [ask(proxy, writer) for _ in range(5)]
    assert {answer.status_code for answer in answers} == {200}
    assert not any(name.startswith("X-RateLimit") for name in answers[-1].headers)


@pytest.fixture
def exhausted(proxy: Proxy, auth_service: Any, redis_url: str) -> str:
    """A key that has used up its limit, and gets its next request granted in two seconds."""
    key = auth_service.create_key(limit=2)
    assert [ask(proxy, key.key).status_code for _ in range(3)] == [200, 200, 429]
    end_the_window(redis_url, key.key_id, in_ms=2000)
    return str(key.key)


def end_the_window(redis_url: str, key_id: str, in_ms: int) -> None:
    """Moves a key's window into the past, so that it ends in a moment. Its counter lives for one
    period more, in which it counts, less and less, as the window before."""
    with Redis.from_url(redis_url) as redis:
        (counter,) = redis.scan_iter(f"LIMITS:*/{key_id}/*")
        assert HOUR_MS < redis.pttl(counter) <= 2 * HOUR_MS
        redis.pexpire(counter, HOUR_MS + in_ms)


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda client: client.search_experiments(max_results=1), id="a read"),
        pytest.param(lambda client: client.create_experiment(unique("waited")), id="a create"),
    ],
)
def test_the_sdk_waits_until_the_window_ends_and_goes_on(
    proxy: Proxy, connect: Connect, exhausted: str, call: Callable[[Any], Any]
) -> None:
    client = connect(proxy.api, exhausted, **BY_RETRY_AFTER)
    began = time.monotonic()
    assert call(client)
    assert time.monotonic() - began > 1  # it was refused at least once


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 20_000_000])
def test_an_upload_that_has_to_wait_arrives_whole(
    proxy: Proxy, connect: Connect, writer: str, exhausted: str, tmp_path: Path, size: int
) -> None:
    content = random.randbytes(size)
    (tmp_path / "data.bin").write_bytes(content)
    run = connect(proxy.api, writer).create_run("0").info
    connect(proxy.api, exhausted, **BY_RETRY_AFTER)
    get_artifact_repository(run.artifact_uri).log_artifact(str(tmp_path / "data.bin"))  # type: ignore[no-untyped-call]

    client = connect(proxy.api, writer)
    (tmp_path / "down").mkdir()
    got = client.download_artifacts(run.run_id, "data.bin", str(tmp_path / "down"))
    assert Path(got).read_bytes() == content
