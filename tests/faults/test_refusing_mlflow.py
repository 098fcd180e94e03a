"""Real MLflows that refuse: the proxy's credentials, its account, or what they do not serve."""

import base64
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from devstack.mlflow import BasicAuthMLflow, MLflow
from devstack.proxy import Proxy
from devstack.server import Running
from tests.drills.load import Client, Load
from tests.drills.stage import Stage
from tests.upstreams import eventually
from tests.wire import bearer, call, request

API = "/api/mlflow/api/2.0/mlflow"
SEARCH = f"{API}/experiments/search?max_results=1"
FILES = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts"
JSON = "Content-Type: application/json"
UNAVAILABLE = (502, "TEMPORARILY_UNAVAILABLE")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def basic_auth(
    basic_auth_environment: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BasicAuthMLflow]:
    """An MLflow with users and passwords, and a user `bob` who may read only."""
    # With one worker it starts sooner, and its password hashes compete.
    server = BasicAuthMLflow(tmp_path_factory.mktemp("basic-auth"), options=("--workers", "1"))
    with Running(kill=True) as running:
        running.start(server)
        pair = base64.b64encode(f"admin:{server.password}".encode()).decode()
        body = b'{"username": "bob", "password": "hk_test_of_bob_0123"}'
        fields = ("Host: 127.0.0.1", f"Authorization: Basic {pair}", JSON)
        path = "/api/2.0/mlflow/users/create"
        assert call(server.url, "POST", path, *fields, body=body).status == 200
        yield server


@pytest.fixture(scope="module")
def start(stage: Stage, basic_auth: BasicAuthMLflow) -> Callable[..., Proxy]:
    """A proxy with these credentials for MLflow, the same for each call."""

    @cache
    def start(user: str, password: str) -> Proxy:
        shown = {"MLFLOW_UPSTREAM_USERNAME": user, "MLFLOW_UPSTREAM_PASSWORD": password}
        return stage.proxy(MLFLOW_SERVER_URL=basic_auth.url, HEALTH_CACHE_TTL=0.5, **shown)

    return start


def message_of(proxy: Proxy, check: str) -> str:
    return str(call(proxy.url, "GET", "/api/health").json["checks"][check]["message"])


@pytest.mark.parametrize(
    ("user", "password", "health"),
    [("", "", "requires credentials"), ("admin", "hk_test_wrong", "refuses the credentials")],
)
@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", SEARCH), ("POST", f"{API}/runs/create"), ("GET", f"{FILES}/0/model.bin")],
)
def test_nobodys_key_is_blamed_for_the_proxys_credentials(
    start: Callable[..., Proxy],
    key: str,
    user: str,
    password: str,
    health: str,
    method: str,
    target: str,
) -> None:
    """From its Flask routes and its native ones."""
    proxy = start(user, password)
    answer = call(proxy.url, method, target, bearer(key), JSON)
    assert answer.error == UNAVAILABLE
    assert "Your key is not the cause" in answer.json["message"]
    assert answer.one("WWW-Authenticate") is None
    assert health in message_of(proxy, "experiments_api")


def test_nor_for_what_the_proxys_account_may_not_do(start: Callable[..., Proxy], key: str) -> None:
    proxy = start("bob", "hk_test_of_bob_0123")
    assert call(proxy.url, "GET", SEARCH, bearer(key)).status == 200
    body = b'{"experiment_id": "0", "new_name": "mine"}'
    answer = call(proxy.url, "POST", f"{API}/experiments/update", bearer(key), JSON, body=body)
    assert answer.error == UNAVAILABLE
    assert "lacks the permission for this call" in answer.json["message"]


def test_its_health_is_asked_for_beside_requests_without_being_called_gone(
    start: Callable[..., Proxy], basic_auth: BasicAuthMLflow, key: str
) -> None:
    """Each request and check costs it a password hash."""
    proxy = start("admin", basic_auth.password)
    asked = request("GET", SEARCH, bearer(key))
    clients = [Client(proxy.url, timeout=60) for _ in range(6)]
    with Load(lambda n: clients[n].ask(asked).status, len(clients)) as load:
        eventually(lambda: len(load.seen) > 6, "the load", timeout=60)
        answers = [call(proxy.url, "GET", "/api/health/mlflow") for _ in range(8)]
    for client in clients:
        client.close()
    assert set(load.statuses) == {200}
    assert {answer.status for answer in answers} == {200}, [answer.json for answer in answers]


class ArtifactsOnly(MLflow):
    """A real MLflow without its tracking API."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        store = self.command.index("--backend-store-uri")
        self.command[store : store + 2] = ["--artifacts-only"]


class NoArtifacts(MLflow):
    """A real MLflow that leaves artifacts to its clients."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.command.append("--no-serve-artifacts")


def refused(proxy: Proxy) -> list[dict[str, Any]]:
    return [line for line in proxy.log_lines() if line.get("path", "").startswith("/api/mlflow/")]


@pytest.mark.parametrize(
    ("kind", "target", "check", "words"),
    [
        (ArtifactsOnly, SEARCH, "experiments_api", "--artifacts-only"),
        (NoArtifacts, f"{FILES}?path=a", "artifacts_api", "--no-serve-artifacts"),
    ],
)
def test_what_mlflow_does_not_serve_is_said_once_and_in_its_words(
    stage: Stage,
    tmp_path: Path,
    key: str,
    kind: type[MLflow],
    target: str,
    check: str,
    words: str,
) -> None:
    server = kind(tmp_path)
    server.start()
    try:
        server.wait_until_ready()
        proxy = stage.proxy(MLFLOW_SERVER_URL=server.url)
        answer = call(proxy.url, "GET", target, bearer(key))
        assert answer.status == 503
        assert words.encode() in answer.body
        lines: list[dict[str, Any]] = []

        def have_come() -> bool:
            lines.extend(refused(proxy))
            return bool(lines)

        eventually(have_come, "its line in the log")
        assert [(line["outcome"], line["attempts"]) for line in lines] == [("forwarded", 1)]
        assert words in message_of(proxy, check)
    finally:
        server.kill()
