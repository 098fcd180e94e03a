"""The log metrics of monitoring.tf count what the proxy really writes."""

from collections.abc import Callable
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.infrastructure.deployment import INFRASTRUCTURE
from tests.infrastructure.hcl import Module
from tests.infrastructure.log_filter import matcher
from tests.upstreams import Answer, Upstream, eventually, refused_port, reset, send, silence, sized
from tests.wire import bearer, call

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
CREATE = "/api/mlflow/api/2.0/mlflow/runs/create"
FAIL_MAX = 2

Counted = dict[str, int]
CountFailures = Callable[..., Counted]


@pytest.fixture(scope="module")
def filters() -> dict[str, str]:
    """Metric -> pattern."""
    return dict(Module(INFRASTRUCTURE / "terraform").local("log_metrics"))


@pytest.fixture
def count(
    start_proxy: Callable[..., Proxy], auth_service: Any, filters: dict[str, str]
) -> CountFailures:
    """Asks a proxy with these settings, and counts in its log as CloudWatch would."""

    def count(*paths: str, **settings: object) -> Counted:
        own = {"WEB_CONCURRENCY": 1, "MLFLOW_RETRY_DEADLINE": 0, "CIRCUIT_FAIL_MAX": FAIL_MAX}
        proxy = start_proxy(**own | settings)
        key = auth_service.create_key(scopes=["admin"]).key
        for path in paths:
            call(proxy.url, "POST" if path == CREATE else "GET", path, bearer(key))

        def ended() -> list[dict[str, Any]]:
            return [line for line in proxy.log_lines() if line["logger"] == "hokusai.access"]

        eventually(lambda: len(ended()) == len(paths), "the last log line")
        lines = proxy.log_lines()
        counts = {name: sum(map(matcher(text), lines)) for name, text in filters.items()}
        return {name: times for name, times in counts.items() if times}

    return count


def test_an_unreachable_mlflow_and_its_open_circuit(count: CountFailures) -> None:
    with refused_port() as port:
        counted = count(*[SEARCH] * 4, CREATE, MLFLOW_SERVER_URL=f"http://127.0.0.1:{port}")
    assert counted == {"Upstream502": FAIL_MAX, "CircuitOpened": 1, "RefusedByCircuit": 3}


def test_an_mlflow_that_breaks_off(count: CountFailures) -> None:
    with Upstream() as upstream:
        upstream.answers(Answer(reset()))
        assert count(CREATE, MLFLOW_SERVER_URL=upstream.url) == {"Upstream502": 1}


def test_an_mlflow_that_refuses_the_proxy(count: CountFailures) -> None:
    with Upstream() as upstream:
        upstream.answers(Answer(send(sized(status=401))))
        assert count(CREATE, MLFLOW_SERVER_URL=upstream.url) == {"Upstream502": 1}


def test_an_mlflow_that_is_silent(count: CountFailures) -> None:
    with Upstream() as upstream:
        upstream.answers(Answer(silence()))
        counted = count(
            SEARCH,
            MLFLOW_SERVER_URL=upstream.url,
            MLFLOW_READ_TIMEOUT=0.2,
            MLFLOW_ARTIFACT_READ_TIMEOUT=0.2,
        )
        assert counted == {"Upstream504": 1}
        upstream.drop_connections()


def test_a_name_that_does_not_resolve(count: CountFailures) -> None:
    counted = count(SEARCH, MLFLOW_SERVER_URL="http://mlflow.invalid:5000")
    assert counted == {"Upstream502": 1, "NameNotResolved": 1}


def test_an_auth_service_that_is_away(count: CountFailures) -> None:
    with refused_port() as port, Upstream() as upstream:
        settings = {"HOKUSAI_AUTH_SERVICE_URL": f"http://127.0.0.1:{port}"}
        counted = count(SEARCH, MLFLOW_SERVER_URL=upstream.url, **settings)
    assert counted == {"AuthServiceMissing": 1}


def test_what_mlflow_answers_counts_nowhere(count: CountFailures) -> None:
    with Upstream() as upstream:
        upstream.answers(Answer(send(sized())), Answer(send(sized(status=500))))
        assert count(SEARCH, CREATE, SEARCH, MLFLOW_SERVER_URL=upstream.url) == {}


def test_every_metric_is_counted_by_a_test_here(filters: dict[str, str]) -> None:
    tested = {"Upstream502", "Upstream504", "CircuitOpened", "RefusedByCircuit"}
    assert {*filters} == tested | {"NameNotResolved", "AuthServiceMissing"}


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ('{ $.a = "x" }', True),
        ('{ ($.a = "x") && ($.n = 503) }', False),
        ('{ ($.a = "y") || ($.n = 502) }', True),
        ('{ ($.a = "x") && (($.n = 1) || ($.n = 502)) }', True),
        ('{ $.a = "*" }', True),
        ('{ $.missing = "*" }', False),
        ('{ $.text = "*in the middle*" }', True),
        ('{ $.text = "in the middle" }', False),
    ],
)
def test_a_pattern(pattern: str, matches: bool) -> None:
    assert matcher(pattern)({"a": "x", "n": 502, "text": "it is in the middle."}) is matches


@pytest.mark.parametrize(
    "pattern", ["ERROR", "{ $.a != 1 }", '{ ($.a = "x" }', '{ $.a = "x" $.b = "y" }']
)
def test_a_pattern_that_is_not_understood_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"understood|braces|closed"):
        matcher(pattern)
