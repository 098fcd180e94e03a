"""Faults beyond the planted ten: of MLflow's address, of keys, of the door."""

from collections.abc import Callable
from typing import Any

import pytest

from devstack.proxy import Proxy
from tests.app.doctor.conftest import PATIENT, Finished
from tests.upstreams import refused_port

Examine = Callable[..., Finished]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "fault", "remedy"),
    [
        ("http://127.0.0.1:{nowhere}", "mlflow-down", "MLFLOW_SERVER_URL"),
        ("http://mlflow.invalid:5000", "mlflow-dns", "Cloud Map"),
        ("{auth_service}", "not-mlflow", "names something else"),
    ],
)
def test_a_wrong_address_of_mlflow_has_a_name(
    examine: Examine,
    start_proxy: Callable[..., Proxy],
    auth_service: Any,
    key: str,
    url: str,
    fault: str,
    remedy: str,
) -> None:
    with refused_port() as port:
        address = url.format(nowhere=port, auth_service=auth_service.url)
        proxy = start_proxy(**PATIENT, MLFLOW_SERVER_URL=address, WEB_CONCURRENCY=1)
        done = examine(proxy.api, key)
    assert done.report["faults"] == [fault], done.not_passed
    assert remedy in next(s["remedy"] for s in done.report["steps"] if s["fault"] == fault)


@pytest.mark.parametrize(
    ("grant", "fault", "words"),
    [
        ({"scopes": ["billing"]}, "no-scope", "needs the scope"),
        ({"scopes": ["read"], "limit": 2}, "rate-limited", "2 requests an hour"),
    ],
)
def test_a_key_that_is_good_for_little_has_a_name(
    examine: Examine,
    proxy: Proxy,
    auth_service: Any,
    grant: dict[str, Any],
    fault: str,
    words: str,
) -> None:
    done = examine(proxy.api, auth_service.create_key(**grant).key, "--read-only")
    assert done.report["faults"] == [fault], done.not_passed
    assert words in next(s["detail"] for s in done.report["steps"] if s["fault"] == fault)


def test_a_prefix_of_a_path_that_is_not_there_is_told_the_right_one(
    examine: Examine, proxy: Proxy, key: str
) -> None:
    done = examine(f"{proxy.url}/registry", key)
    (step,) = [step for step in done.report["steps"] if step["fault"]]
    assert (step["fault"], step["remedy"]) == ("wrong-prefix", f"Use {proxy.api} instead.")


def test_mlflow_without_a_proxy_is_not_taken_for_one(
    examine: Examine, mlflow_server: Any, key: str
) -> None:
    done = examine(mlflow_server.url, key)
    assert done.report["faults"] == ["wrong-prefix"], done.not_passed
