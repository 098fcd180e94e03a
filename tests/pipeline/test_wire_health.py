"""Health over the wire, in front of a fake MLflow and a fake auth service: form, cost, loops."""

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.health.faults import fault
from devstack.ports import free_port
from devstack.proxy import Proxy
from tests.upstreams import OK, Answer, Upstream, eventually, head, pause, send, silence, sized
from tests.wire import Response, bearer, call

PUBLIC = (
    "/api/health",
    "/api/health/mlflow",
    "/api/mlflow/health/mlflow",
    "/mlflow/health/mlflow",
)
DETAILED = tuple(f"{path}/detailed" for path in PUBLIC[1:])
CHECKS = ["connectivity", "experiments_api", "models_api", "artifacts_api"]
CHECKS += ["redis", "auth_service", "circuit", "instance"]
STATUSES = {"healthy", "degraded", "unhealthy"}

#: Each question of a test is asked anew; what is asked at the same time is asked once.
ANEW = {"HEALTH_CACHE_TTL": 0, "HEALTH_TIMEOUT": 5}


def health(proxy: Proxy, path: str = "/api/health/mlflow", *fields: str) -> Response:
    return call(proxy.url, "GET", path, *fields)


def said(proxy: Proxy, check: str) -> str:
    """The message of a check."""
    return str(health(proxy).json["checks"][check]["message"])


def for_path(path: str, answer: Answer) -> Callable[[Any], Answer]:
    """This answer to what is asked of a path, and OK to all else."""
    return lambda asked: answer if path.encode() in asked.target else OK


@pytest.fixture(scope="module")
def auth() -> Iterator[Upstream]:
    """A fake auth service, which answers 401 to a question without a key."""
    with Upstream() as fake:
        yield fake


YES = b'{"user_id": "ann", "key_id": "key_1", "scopes": ["read"], "rate_limit_per_hour": null}'


def validate(asked: Any) -> Answer:
    """As the auth service does: a key is good, no key is 401."""
    json_type = ("Content-Type", "application/json")
    if asked.one("Authorization"):
        return Answer(send(sized(YES, 200, json_type)))
    return Answer(send(sized(b"{}", 401, json_type)))


@pytest.fixture(scope="module")
def anew(start_front: Callable[..., Proxy], auth: Upstream) -> Proxy:
    """A proxy that asks at each probe."""
    return start_front(HOKUSAI_AUTH_SERVICE_URL=auth.url, **ANEW)


@pytest.fixture(autouse=True)
def _well(upstream: Upstream, auth: Upstream) -> None:
    auth.answers_by(validate)


# --- form ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PUBLIC)
def test_every_name_tells_the_same(anew: Proxy, path: str) -> None:
    answer = health(anew, path)
    assert answer.status == 200, answer
    document = answer.json
    assert document.keys() == {"status", "version", "checks"}
    assert document["status"] == "healthy"
    assert list(document["checks"]) == CHECKS
    for check in document["checks"].values():
        assert check.keys() == {"status", "latency_ms", "message"}
        assert check["status"] in STATUSES
        assert check["latency_ms"] >= 0
        assert check["message"]
    assert answer.one("Cache-Control") == "no-store"


@pytest.mark.parametrize("path", DETAILED)
def test_the_details_are_for_keys(anew: Proxy, path: str) -> None:
    assert health(anew, path).error == (401, "UNAUTHENTICATED")
    document = health(anew, path, bearer("hk_test_0123456789")).json
    assert document.keys() == {"status", "version", "checks", "internal"}
    for check in document["checks"].values():
        assert check["age_s"] >= 0
        assert check["asked_by_worker"] > 0
        assert "detail" in check


@pytest.mark.parametrize("path", ["/health", "/ready", *PUBLIC])
def test_head_has_the_head_of_get(anew: Proxy, path: str) -> None:
    get, head_only = health(anew, path), call(anew.url, "HEAD", path)
    assert (head_only.status, head_only.body, get.status) == (200, b"", 200)
    assert head_only.one("Content-Type") == get.one("Content-Type") == "application/json"
    assert int(head_only.one("Content-Length") or 0) > 0


def test_what_the_details_show_and_what_they_hide(
    start_front: Callable[..., Proxy], upstream: Upstream, auth: Upstream, redis_url: str
) -> None:
    with_secrets = start_front(
        HOKUSAI_AUTH_SERVICE_URL=auth.url,
        MLFLOW_UPSTREAM_TOKEN="very-secret-token",
        AUTH_CACHE_SECRET="very-secret-secret",
        REDIS_URL=redis_url.replace("://", "://:very-secret-password@"),
        **ANEW,
    )
    answer = health(with_secrets, DETAILED[0], bearer("hk_test_0123456789"))
    inside = answer.json["internal"]
    assert inside["mlflow_server_url"] == upstream.url
    assert inside["mlflow_addresses"] == inside["auth_service_addresses"] == ["127.0.0.1"]
    assert inside["auth_service_url"] == auth.url
    assert inside["redis"] == redis_url
    assert inside["circuits"].keys() == {"mlflow", "auth_service"}
    assert inside["circuits"]["mlflow"] == {"this_worker": "closed", "not_closed": {}}
    assert inside["connections_opened"] > 0
    assert inside["worker"]["pid"] in {check["asked_by_worker"] for check in checks_of(answer)}
    assert inside["settings"]["MLFLOW_SERVER_URL"] == upstream.url
    assert inside["settings"]["MLFLOW_UPSTREAM_TOKEN"] == "(set, hidden)"
    assert inside["settings"]["MLFLOW_UPSTREAM_PASSWORD"] == "(not set)"
    assert b"very-secret" not in answer.body
    assert "very-secret" not in with_secrets.log.read_text()


def checks_of(answer: Response) -> list[dict[str, Any]]:
    return list(answer.json["checks"].values())


# --- what MLflow and the auth service answer ------------------------------------------------------

PAGE = sized(b"<!doctype html><title>Sign in</title>", 200, ("Content-Type", "text/html"))
MLFLOW_SAYS = [
    ("/health", PAGE, "connectivity", "page", "unhealthy"),
    ("/health", head(404, ("Content-Length", "0")), "connectivity", "not found", "unhealthy"),
    ("experiments", sized(b"Invalid Host header", 403), "experiments_api", "host", "unhealthy"),
    ("experiments", sized(b'{"status":"ok"}'), "experiments_api", "another", "unhealthy"),
    ("experiments", sized(b"", 401), "experiments_api", "no credentials", "unhealthy"),
    ("registered-models", sized(b"{}", 500), "models_api", "fails", "degraded"),
    (
        "artifacts?",
        sized(b"--no-serve-artifacts", 503),
        "artifacts_api",
        "no artifacts",
        "degraded",
    ),
]


@pytest.mark.parametrize(("path", "sent", "check", "word", "overall"), MLFLOW_SAYS)
def test_what_mlflow_answers_is_explained(
    anew: Proxy, upstream: Upstream, path: str, sent: bytes, check: str, word: str, overall: str
) -> None:
    upstream.answers_by(for_path(path, Answer(send(sent))))
    answer = health(anew)
    assert answer.status == (503 if overall == "unhealthy" else 200)
    assert answer.json["status"] == overall
    status = int(sent.split()[1])
    assert answer.json["checks"][check]["message"] == str(fault(f"mlflow.{word}", status=status))
    assert [c for c in CHECKS if answer.json["checks"][c]["status"] != "healthy"] == [check]
    ready = health(anew, "/ready")
    assert ready.status == answer.status
    assert bool(ready.json["missing"]) == (overall == "unhealthy")


def test_whoever_holds_a_key_is_told_which_host_to_allow(anew: Proxy, upstream: Upstream) -> None:
    refused = Answer(send(sized(b"Invalid Host header", 403)))
    upstream.answers_by(for_path("experiments", refused))
    answer = health(anew, DETAILED[0], bearer("hk_test_0123456789"))
    detail = answer.json["checks"]["experiments_api"]["detail"]
    assert detail == f"mlflow server --allowed-hosts 127.0.0.1:{upstream.port}"


AUTH_SAYS = [
    (404, ("Content-Type", "application/json"), "no path", "degraded"),
    (429, ("Content-Type", "application/json"), "throttled", "degraded"),
    (403, ("Content-Type", "text/html"), "another", "unhealthy"),
    (503, ("Content-Type", "text/plain"), "fails", "unhealthy"),
]


@pytest.mark.parametrize(("status", "kind", "word", "level"), AUTH_SAYS)
def test_what_the_auth_service_answers_is_explained(
    anew: Proxy, auth: Upstream, status: int, kind: tuple[str, str], word: str, level: str
) -> None:
    auth.answers(Answer(send(sized(b'{"detail": "Not Found"}', status, kind))))
    check = health(anew).json["checks"]["auth_service"]
    assert check["message"].startswith(str(fault(f"auth.{word}", status=status)))
    assert check["status"] == level
    assert health(anew).json["status"] == "degraded"


def test_a_404_of_its_own_is_an_answer_of_the_auth_service(anew: Proxy, auth: Upstream) -> None:
    known = Answer(send(sized(b'{"detail": "no such key"}', 404)))
    unknown = Answer(send(sized(b'{"detail": "Not Found"}', 404)))
    auth.answers_by(lambda asked: known if asked.target.endswith(b"/validate") else unknown)
    assert said(anew, "auth_service") == "The auth service answers."


# --- a broken connection, and an old one ----------------------------------------------------------


def test_a_connection_that_mlflow_had_closed_is_no_illness(anew: Proxy, upstream: Upstream) -> None:
    for _ in range(5):
        assert health(anew).json["status"] == "healthy"
        upstream.drop_connections()


# --- cost and timeout ---------------------------------------------------------------------------


@pytest.mark.slow
def test_probes_on_all_workers_ask_mlflow_once(
    start_front: Callable[..., Proxy], upstream: Upstream, auth: Upstream
) -> None:
    proxy = start_front(
        HOKUSAI_AUTH_SERVICE_URL=auth.url, WEB_CONCURRENCY=3, HEALTH_CACHE_TTL=60, HEALTH_TIMEOUT=20
    )
    upstream.forget()
    paths = ("/ready", *PUBLIC)
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda n: health(proxy, paths[n % 5]), range(240)))
    assert {answer.status for answer in answers} == {200}
    assert len(upstream.requests) == 4
    assert len({asked.target for asked in upstream.requests}) == 4


@pytest.mark.slow
def test_a_silent_mlflow_makes_no_answer_late(
    start_front: Callable[..., Proxy], upstream: Upstream, auth: Upstream
) -> None:
    """One probe at a time waits, at most for the time-out; /health and the auth service's check
    wait for nothing."""
    proxy = start_front(
        HOKUSAI_AUTH_SERVICE_URL=auth.url,
        WEB_CONCURRENCY=2,
        HEALTH_CACHE_TTL=0.5,
        HEALTH_TIMEOUT=1,
    )
    assert health(proxy).json["status"] == "healthy"
    upstream.answers(Answer(silence()))
    eventually(lambda: health(proxy).json["status"] == "unhealthy", "the finding")
    with ThreadPoolExecutor(8) as threads:
        seconds = list(threads.map(lambda n: _timed(proxy, n), range(200)))
    assert max(seconds) < 1 + 0.25 + 2, "two seconds are for a machine that is busy"
    assert sorted(seconds)[150] < 0.5, "three of four waited for nothing"
    assert said(proxy, "connectivity").startswith("MLflow does not answer in time")
    assert said(proxy, "auth_service") == "The auth service answers."
    upstream.answers(OK)
    eventually(lambda: health(proxy).json["status"] == "healthy", "the recovery")


def _timed(proxy: Proxy, number: int) -> float:
    began = time.monotonic()
    health(proxy, ("/ready", "/health", "/api/health", "/api/health/mlflow")[number % 4])
    return time.monotonic() - began


def test_an_answer_that_trickles_holds_nobody(
    start_front: Callable[..., Proxy], upstream: Upstream, auth: Upstream
) -> None:
    proxy = start_front(HOKUSAI_AUTH_SERVICE_URL=auth.url, HEALTH_CACHE_TTL=0, HEALTH_TIMEOUT=0.5)
    drops = [step for _ in range(40) for step in (send(b"x"), pause(0.2))]
    upstream.answers(Answer(send(head(200, ("Content-Length", "1000"))), *drops))
    answer = health(proxy)
    assert answer.status == 503
    upstream.answers(OK)
    eventually(lambda: health(proxy).json["status"] == "healthy", "the recovery")


# --- the circuits --------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_open_circuit_hides_neither_that_mlflow_is_gone_nor_that_it_is_back(
    start_front: Callable[..., Proxy], upstream: Upstream, auth: Upstream
) -> None:
    proxy = start_front(
        HOKUSAI_AUTH_SERVICE_URL=auth.url,
        WEB_CONCURRENCY=2,
        CIRCUIT_FAIL_MAX=1,
        CIRCUIT_RESET_TIMEOUT=600,
        MLFLOW_READ_TIMEOUT=0.2,
        MLFLOW_ARTIFACT_READ_TIMEOUT=0.2,
        **ANEW | {"HEALTH_TIMEOUT": 1},
    )
    upstream.answers(Answer(silence()))
    answer = call(proxy.url, "GET", "/mlflow/version", bearer("hk_test_0123456789"))
    assert answer.error == (504, "DEADLINE_EXCEEDED")
    eventually(lambda: "circuit to mlflow is now open" in proxy.log.read_text(), "the opening")
    gone = health(proxy).json
    assert gone["status"] == gone["checks"]["connectivity"]["status"] == "unhealthy"
    upstream.answers(OK)
    back = health(proxy).json
    assert back["checks"]["connectivity"]["status"] == "healthy"
    assert back["status"] == "degraded", "in whichever worker it is open"
    assert "in 1 worker." in back["checks"]["circuit"]["message"]
    inside = health(proxy, DETAILED[0], bearer("hk_test_0123456789")).json["internal"]
    assert list(inside["circuits"]["mlflow"]["not_closed"].values()) == ["open"]
    assert health(proxy, "/ready").status == 200


# --- loops ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("path", ["", "/api/mlflow", "/mlflow"])
def test_a_proxy_that_is_its_own_mlflow_says_so(
    path: str, auth: Upstream, redis_url: str, tmp_path: Any
) -> None:
    """With a prefix and without, with a key that it would itself accept, and without."""
    port = free_port()
    settings = {
        "MLFLOW_SERVER_URL": f"http://127.0.0.1:{port}{path}",
        "HOKUSAI_AUTH_SERVICE_URL": auth.url,
        "REDIS_URL": redis_url,
        "WEB_CONCURRENCY": "2",
        "GRACEFUL_TIMEOUT": "2",
        "MLFLOW_UPSTREAM_TOKEN": "hk_test_0123456789",
        "MLFLOW_WORKSPACES": "off",  # else nothing is forwarded: that question loops, too
    }
    proxy = Proxy(tmp_path / "loop", settings, port=port, ready="/health")
    proxy.start()
    try:
        proxy.wait_until_ready()
        answer = health(proxy)
        assert answer.status == 503
        for check in CHECKS[:4]:
            assert answer.json["checks"][check]["message"] == str(fault("mlflow.loop"))
        assert health(proxy, "/ready").status == 503
        began = time.monotonic()
        for target in ("/mlflow/version", "/api/mlflow/api/2.0/mlflow/runs/get", "/mlflow/health"):
            looped = call(proxy.url, "GET", target, bearer("hk_test_0123456789"))
            assert looped.error == (508, "INTERNAL_ERROR")
            assert "MLFLOW_SERVER_URL" in looped.json["message"]
        assert time.monotonic() - began < 10, "no time-out was waited for"
        eventually(lambda: len(outcomes(proxy, "loop")) >= 3, "the log lines of the loop")
        eventually(lambda: len(outcomes(proxy, "forwarded")) == 3, "each forwarded once")
    finally:
        proxy.stop()


def outcomes(proxy: Proxy, outcome: str) -> list[dict[str, Any]]:
    """The log lines of requests that ended so."""
    return [line for line in proxy.log_lines() if line.get("outcome") == outcome]


@pytest.mark.slow
def test_two_proxies_that_are_each_others_mlflow(
    start_front: Callable[..., Proxy], auth: Upstream, redis_url: str, tmp_path: Any
) -> None:
    """As behind a load balancer, where the loop leads to another instance."""
    port = free_port()
    first = start_front(
        MLFLOW_SERVER_URL=f"http://127.0.0.1:{port}/api/mlflow",
        HOKUSAI_AUTH_SERVICE_URL=auth.url,
        **ANEW,
    )
    settings = {"MLFLOW_SERVER_URL": first.api, "HOKUSAI_AUTH_SERVICE_URL": auth.url}
    settings |= {"REDIS_URL": redis_url, "WEB_CONCURRENCY": "1", "GRACEFUL_TIMEOUT": "2"}
    second = Proxy(tmp_path / "second", settings, port=port, ready="/health")
    second.start()
    try:
        second.wait_until_ready()
        for proxy in (first, second):
            assert said(proxy, "experiments_api") == str(fault("mlflow.loop"))
        answer = call(first.url, "GET", "/mlflow/version", bearer("hk_test_0123456789"))
        assert answer.error == (508, "INTERNAL_ERROR")
    finally:
        second.stop()


def test_no_client_can_pass_the_mark_on(front: Proxy, upstream: Upstream, key: str) -> None:
    """One that has the mark is refused, another value never arrives."""
    marked = call(front.url, "GET", "/mlflow/version", bearer(key), "X-Hokusai-Hop: 1")
    assert marked.error == (508, "INTERNAL_ERROR")
    assert upstream.requests == []
    assert call(front.url, "GET", "/mlflow/version", bearer(key), "X-Hokusai-Hop: 2").status == 200
    assert upstream.requests[0].all("X-Hokusai-Hop") == ["1"]


# --- what the log says ---------------------------------------------------------------------------


def test_a_change_is_a_line_in_the_log_with_its_cause(anew: Proxy, upstream: Upstream) -> None:
    health(anew)
    upstream.answers_by(for_path("registered-models", Answer(send(sized(b"{}", 500)))))
    health(anew)
    upstream.answers(OK)
    health(anew)
    lines = [line for line in anew.log_lines() if line["logger"] == "hokusai.health"]
    told = [(x["level"], x["was"], x["status"]) for x in lines if x["check"] == "models_api"][-2:]
    assert told == [("WARNING", "healthy", "unhealthy"), ("INFO", "unhealthy", "healthy")]
    assert re.search(r"answered 500", json.dumps(lines))
