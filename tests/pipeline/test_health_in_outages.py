"""The real stack, each part broken in turn: health, /ready and the log say what was broken.

Refused, frozen, answering wrongly: Redis, the auth service and MLflow are the real servers, and
what is frozen is stopped by SIGSTOP. After each outage all is found well again.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.health.checks import MLFLOW_QUESTIONS
from devstack.mlflow import MLflow
from devstack.proxy import Proxy
from devstack.redis import Redis
from tests.conftest import KeyedAuthService
from tests.docs.pages import ROOT
from tests.fault_proxy import FaultProxy
from tests.upstreams import Answer, Upstream, eventually, send, sized
from tests.wire import Response, bearer, call

pytestmark = pytest.mark.slow

TIMEOUT = 2.0
#: Seconds by which a machine that is busy may be late.
LATE = 8.0
JSON = "Content-Type: application/json"
MLFLOW_CHECKS = {"connectivity", "experiments_api", "models_api", "artifacts_api"}

#: Outages are found out, and forgotten, quickly; known keys must be asked about again soon.
SETTINGS = {
    "WEB_CONCURRENCY": "2",
    "GRACEFUL_TIMEOUT": "2",
    "HEALTH_CACHE_TTL": "0.3",
    "HEALTH_TIMEOUT": str(TIMEOUT),
    "CIRCUIT_FAIL_MAX": "1",
    "CIRCUIT_RESET_TIMEOUT": "2",
    "MLFLOW_READ_TIMEOUT": "3",
    "MLFLOW_RETRY_DEADLINE": "0",
    "REDIS_TIMEOUT": "0.5",
    "AUTH_TIMEOUT": "2",
    "AUTH_CACHE_TTL": "0.3",
    "AUTH_RETRY_INTERVAL": "1",
    "AUTH_FAILURE_LIMIT": "1000000",
}


class Stack:
    """The proxy, and what it depends on, each behind a way that can be broken."""

    def __init__(
        self, ways: dict[str, FaultProxy], servers: dict[str, Any], wrong: Upstream, folder: Path
    ) -> None:
        self.ways = ways
        self.servers = servers
        self.wrong = wrong
        addresses = {
            "MLFLOW_SERVER_URL": ways["mlflow"].url,
            "HOKUSAI_AUTH_SERVICE_URL": ways["auth"].url,
            "REDIS_URL": f"redis://{ways['redis'].address}/0",
        }
        self.proxy = Proxy(folder, SETTINGS | addresses)
        self.key = ""

    def get(self, path: str = "/api/health/mlflow") -> Response:
        """A health answer, which must not be late, whatever is broken."""
        began = time.monotonic()
        answer = call(self.proxy.url, "GET", path)
        assert time.monotonic() - began < TIMEOUT + LATE, f"{path} was late"
        return answer

    def ask(self, key: str = "") -> Response:
        """A request that walks to MLflow."""
        return call(self.proxy.url, "GET", "/mlflow/version", bearer(key or self.key))

    def bad(self) -> dict[str, str]:
        """The messages of all checks that are not healthy, by check."""
        checks = self.get().json["checks"]
        return {n: c["message"] for n, c in checks.items() if c["status"] != "healthy"}

    def is_well(self) -> bool:
        """Whether all is healthy, and a request is served (which closes a circuit)."""
        return self.ask().status == 200 and not self.bad() and self.get("/ready").status == 200

    def log_since(self, mark: int) -> list[dict[str, Any]]:
        """The lines of the log behind the first so many."""
        return self.proxy.log_lines()[mark:]


@pytest.fixture(scope="module")
def stack(mlflow_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All of it, this module's own: what is frozen here must not be another test's."""
    folder = tmp_path_factory.mktemp("outages")
    with contextlib.ExitStack() as ends:
        own_redis = Redis(folder / "redis")
        auth = KeyedAuthService(folder / "auth", own_redis.url)
        mlflow = MLflow(folder / "mlflow")
        for server in (mlflow, own_redis, auth):
            server.start()
            ends.callback(server.kill)
        for server in (mlflow, own_redis, auth):
            server.wait_until_ready()
        servers: dict[str, Any] = {"mlflow": mlflow, "auth": auth, "redis": own_redis}
        ways = {n: ends.enter_context(FaultProxy(s.port)) for n, s in servers.items()}
        wrong = ends.enter_context(Upstream())
        made = Stack(ways, servers, wrong, folder / "proxy")
        made.key = auth.create_key().key
        made.proxy.start()
        ends.callback(made.proxy.kill)
        made.proxy.wait_until_ready()
        yield made


# --- how each part is broken ---------------------------------------------------------------------

Breaking = contextlib.AbstractContextManager[object]
WEB_PAGE = Answer(send(sized(b"<!doctype html>Hello", 200, ("Content-Type", "text/html"))))


@contextlib.contextmanager
def refused(stack: Stack, part: str) -> Iterator[None]:
    """Nobody listens."""
    stack.ways[part].refuse()
    try:
        yield
    finally:
        stack.ways[part].heal()


@contextlib.contextmanager
def frozen(stack: Stack, part: str) -> Iterator[None]:
    """All its processes are stopped; the kernel still takes connections."""
    group = stack.servers[part].pid
    os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(group, signal.SIGCONT)


@contextlib.contextmanager
def a_website(stack: Stack, part: str) -> Iterator[None]:
    """Something else answers, with a page for a browser."""
    stack.wrong.answers(WEB_PAGE)
    stack.ways[part].lead_to(stack.wrong.port)
    try:
        yield
    finally:
        stack.ways[part].lead_to(stack.servers[part].port)


@contextlib.contextmanager
def a_replica(stack: Stack, part: str) -> Iterator[None]:
    """Redis takes no writes."""
    with redis.Redis.from_url(stack.servers[part].url) as operator:
        operator.execute_command("REPLICAOF 127.0.0.1 1")
        try:
            yield
        finally:
            operator.execute_command("REPLICAOF NO ONE")


@dataclass(frozen=True)
class Case:
    """A part that is broken in some way, and what must be said of it.

    `bad`: the checks that are not healthy, circuits apart; `says`: what each of their messages
    holds; `missing`: what /ready lacks; `answers`: what a request with a known key gets.
    """

    part: str
    broken: Callable[[Stack, str], Breaking]
    bad: frozenset[str]
    says: str
    status: str
    missing: frozenset[str] = frozenset()
    answers: tuple[int, ...] = (200,)
    outcomes: frozenset[str] = field(default_factory=lambda: frozenset(("forwarded",)))


MLFLOW = frozenset(MLFLOW_CHECKS)
LOST = frozenset(("connectivity", "experiments_api"))
CASES = {
    "MLflow refuses": Case(
        "mlflow",
        refused,
        MLFLOW,
        "MLflow refuses connections",
        "unhealthy",
        LOST,
        (502, 503),
        frozenset(("upstream_unreachable", "circuit_open")),
    ),
    "MLflow is frozen": Case(
        "mlflow",
        frozen,
        MLFLOW,
        "MLflow does not answer in time",
        "unhealthy",
        LOST,
        (504, 503),
        frozenset(("upstream_timeout", "circuit_open")),
    ),
    "a website in MLflow's place": Case(
        "mlflow", a_website, MLFLOW, "A web page came back instead", "unhealthy", LOST
    ),
    "the auth service refuses": Case(
        "auth",
        refused,
        frozenset(("auth_service",)),
        "The auth service refuses connections",
        "degraded",
    ),
    "the auth service is frozen": Case(
        "auth",
        frozen,
        frozenset(("auth_service",)),
        "The auth service does not answer in time",
        "degraded",
    ),
    "a website in the auth service's place": Case(
        "auth",
        a_website,
        frozenset(("auth_service",)),
        "did not come from the auth service",
        "degraded",
    ),
    "Redis refuses": Case(
        "redis", refused, frozenset(("redis",)), "Redis refuses connections", "degraded"
    ),
    "Redis is frozen": Case(
        "redis", frozen, frozenset(("redis",)), "Redis does not answer within", "degraded"
    ),
    "Redis is read-only": Case(
        "redis", a_replica, frozenset(("redis",)), "Redis is read-only", "degraded"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_broken_is_what_is_said(stack: Stack, name: str) -> None:
    case = CASES[name]
    eventually(stack.is_well, "a stack that is well", timeout=30)
    mark, before = len(stack.proxy.log_lines()), scrape(stack)
    with case.broken(stack, case.part):
        eventually(lambda: stack.bad().keys() - {"circuit"} == case.bad, f"the finding: {name}")
        compare_health(stack, case)
        compare_requests(stack, case)
        compare_readiness(stack, case)
        compare_log(stack, case, mark)
        compare_metrics(stack, name, before)
    eventually(stack.is_well, "the recovery", timeout=30)
    recovered = {line["check"] for line in changes(stack, mark) if line["status"] == "healthy"}
    assert recovered >= case.bad


def compare_health(stack: Stack, case: Case) -> None:
    answer = stack.get()
    assert answer.json["status"] == case.status
    assert answer.status == (503 if case.status == "unhealthy" else 200)
    for check in case.bad:
        assert case.says in answer.json["checks"][check]["message"], answer.json
    assert not re.search(rb"127\.0\.0\.1|localhost|:\d{5}", answer.body), "no address for everybody"
    for path in ("/api/health", "/api/mlflow/health/mlflow", "/mlflow/health/mlflow"):
        assert stack.get(path).json["status"] == case.status
    assert stack.get("/health").status == 200, "the process lives"


def compare_requests(stack: Stack, case: Case) -> None:
    """Whoever is known is served, as long as there is an MLflow."""
    assert {stack.ask().status for _ in range(6)} <= set(case.answers)
    if case.part == "auth":
        unknown = stack.ask("hk_test_nobody_knows_me")
        assert unknown.status == 503, "nobody is told that his key is bad"


def compare_readiness(stack: Stack, case: Case) -> None:
    answer = stack.get("/ready")
    assert answer.status == (503 if case.missing else 200)
    assert {line.partition(":")[0] for line in answer.json["missing"]} == case.missing
    if case.part == "auth":
        assert [line.partition(":")[0] for line in answer.json["degraded"]] == ["auth_service"]


def compare_log(stack: Stack, case: Case, mark: int) -> None:
    """Each check that changed is named once, with the same message; requests by their outcome."""
    told = [line for line in changes(stack, mark) if line["check"] in case.bad]
    assert {line["check"] for line in told} == case.bad
    assert all(case.says in line["message"] and line["was"] == "healthy" for line in told), told
    assert len(told) == len(case.bad)
    walked = [line for line in stack.log_since(mark) if line.get("path") == "/mlflow/version"]
    outcomes = {line["outcome"] for line in walked if line.get("key_id")}
    assert outcomes & case.outcomes


def changes(stack: Stack, mark: int) -> list[dict[str, Any]]:
    """What the log says of health since then."""
    return [line for line in stack.log_since(mark) if line["logger"] == "hokusai.health"]


#: The alerts that are about what the proxy depends on, by what is broken. Each compares the growth
#: of a counter, or a gauge as it is now, with a bound, for minutes: here it is enough that what it
#: looks at is there at all.
ALERTS = {
    "MLflow refuses": {"MlflowUnreachable", "MlflowCircuitOpen"},
    "MLflow is frozen": {"MlflowTimeouts", "MlflowCircuitOpen"},
    "a website in MLflow's place": set(),
    "the auth service refuses": {"AuthServiceUnavailable", "StaleDecisions"},
    "the auth service is frozen": {"AuthServiceUnavailable", "StaleDecisions"},
    "a website in the auth service's place": {"AuthServiceUnavailable", "StaleDecisions"},
    "Redis refuses": {"RedisUnavailable"},
    "Redis is frozen": {"RedisUnavailable"},
    "Redis is read-only": {"RedisUnavailable"},
}
RULES = {
    rule["alert"]: rule["expr"]
    for group in yaml.safe_load((ROOT / "infrastructure/monitoring/alert-rules.yaml").read_text())[
        "groups"
    ]
    for rule in group["rules"]
}

Samples = list[tuple[str, dict[str, str], float]]


def compare_metrics(stack: Stack, name: str, before: Samples) -> None:
    """The alerts that see this outage are those about the part that is broken, and no others."""
    expected = ALERTS[name]

    def seen() -> set[str]:
        for _ in range(4):  # on each worker; one finds Redis away by its second failure
            stack.ask()
        now = scrape(stack)
        return {
            alert for alert in set().union(*ALERTS.values()) if looks_at(RULES[alert], before, now)
        }

    eventually(lambda: seen() == expected, f"that these alerts see it: {expected}")


def scrape(stack: Stack) -> Samples:
    text = call(stack.proxy.url, "GET", "/metrics").body.decode()
    families = text_string_to_metric_families(text)
    return [(s.name, s.labels, s.value) for family in families for s in family.samples]


def looks_at(expression: str, before: Samples, now: Samples) -> bool:
    """Whether what an alert's expression begins with is more than nothing: what a rate() is taken
    of has grown, and a gauge is not zero."""
    found = re.search(r"(hokusai_\w+)\{([^}]*)\}|(hokusai_\w+)", expression)
    assert found
    name, matchers = found[1] or found[3], re.findall(r'(\w+)(!?=~?)"([^"]*)"', found[2] or "")
    assert name in {metric for metric, _, _ in now}, f"{name} is in no scrape"
    grown = total(now, name, matchers)
    if "rate(" in expression:
        grown -= total(before, name, matchers)
    return grown > 0


def total(samples: Samples, name: str, matchers: list[tuple[str, str, str]]) -> float:
    """The sum of the samples that are selected."""
    return sum(
        value
        for metric, labels, value in samples
        if metric == name
        and all(
            bool(re.fullmatch(wanted, labels.get(label, ""))) != operator.startswith("!")
            for label, operator, wanted in matchers
        )
    )


# --- a real MLflow that is set up wrongly ---------------------------------------------------------


def test_a_real_mlflow_that_refuses_our_host(
    mlflow_server: MLflow, start_proxy: Callable[..., Proxy]
) -> None:
    """127.1 is 127.0.0.1 for whoever connects, and no name that MLflow knows for itself."""
    url = mlflow_server.url.replace("127.0.0.1", "127.1")
    proxy = start_proxy(MLFLOW_SERVER_URL=url, HEALTH_TIMEOUT=20, WEB_CONCURRENCY=1)
    checks = call(proxy.url, "GET", "/api/health").json["checks"]
    assert checks["connectivity"]["status"] == "healthy"
    for name in MLFLOW_CHECKS - {"connectivity"}:
        assert "Start it with --allowed-hosts" in checks[name]["message"]
    assert call(proxy.url, "GET", "/ready").status == 503


def test_large_objects_of_one_user_make_nothing_look_broken(stack: Stack) -> None:
    """Health reads a part of each list only; MLflow lists what was changed last first."""
    mlflow: MLflow = stack.servers["mlflow"]
    tags = [{"key": f"tag-{number}", "value": 5000 * "x"} for number in range(300)]
    large = json.dumps({"name": "large", "tags": tags}).encode()
    for kind in ("experiments", "registered-models"):
        path, fields = f"/mlflow/api/2.0/mlflow/{kind}/create", [bearer(stack.key), JSON]
        assert call(stack.proxy.url, "POST", path, *fields, body=large).status == 200
    folder = mlflow.artifacts / MLFLOW_QUESTIONS["artifacts_api"].partition("=")[2]
    folder.mkdir(parents=True)
    for number in range(5000):
        (folder / f"{number}-{100 * 'x'}").touch()
    time.sleep(2 * float(SETTINGS["HEALTH_CACHE_TTL"]))
    eventually(stack.is_well, "health as before")
    time.sleep(2 * float(SETTINGS["HEALTH_CACHE_TTL"]))
    assert stack.bad() == {}
    shutil.rmtree(folder)
