"""What the fixtures promise to all other tests."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from _pytest.outcomes import Failed

from devstack.proxy import Proxy
from devstack.server import ServerFailed
from tests.upstreams import eventually


def test_the_developers_settings_and_home_are_hidden() -> None:
    assert not [name for name in os.environ if name.startswith(("HOKUSAI", "REDIS", "HTTP"))]
    assert list(Path.home().glob(".netrc")) == []


def test_the_internet_is_out_of_reach() -> None:
    with socket.socket() as client, pytest.raises(Failed, match=r"192\.0\.2\.1"):
        client.connect(("192.0.2.1", 80))


def test_the_shared_proxy_reaches_mlflow_with_a_key_and_logs_it(
    proxy: Proxy, auth_service: Any
) -> None:
    key = auth_service.create_key(user="ann", scopes=["read"])
    answer = requests.get(
        f"{proxy.api}/version", headers={"Authorization": f"Bearer {key.key}"}, timeout=10
    )
    assert answer.status_code == 200
    eventually(
        lambda: any(line.get("key_id") == key.key_id for line in proxy.log_lines()), "its line"
    )


def test_a_proxy_of_its_own_takes_other_settings(
    start_proxy: Callable[..., Proxy], redis_url: str
) -> None:
    nowhere = "http://127.0.0.1:9"
    other = start_proxy(MLFLOW_SERVER_URL=nowhere, HOKUSAI_AUTH_SERVICE_URL=nowhere)
    assert requests.get(f"{other.url}/ready", timeout=10).status_code == 503


def test_a_proxy_that_cannot_start_says_why(start_proxy: Callable[..., Proxy]) -> None:
    with pytest.raises(ServerFailed, match="MLFLOW_SERVER_URL"):
        start_proxy(
            MLFLOW_SERVER_URL="nonsense",
            HOKUSAI_AUTH_SERVICE_URL="http://127.0.0.1:9",
            REDIS_URL="memory://",
        )
