"""A proxy in front of a fake MLflow, for the tests that look at the bytes; and MLflow's SDK."""

import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.proxy import Proxy
from devstack.server import Running
from tests.pipeline.signing_in import cookie_of, sign_in
from tests.upstreams import Upstream
from tests.upstreams import eventually as until

#: One worker, so that one pool, one circuit and one set of counts are looked at.
SETTINGS = {
    "WEB_CONCURRENCY": "1",
    "GRACEFUL_TIMEOUT": "2",
    "REDIS_TIMEOUT": "5",  # a machine that is busy for a moment is not an outage
    "AUTH_FAILURE_LIMIT": "1000000",
    "CIRCUIT_FAIL_MAX": "1000000",
    "MAX_BUFFERED_BODY": "100000",
    "MLFLOW_RETRY_DEADLINE": "0",  # what is asked once, arrives once
    "MLFLOW_WORKSPACES": "off",  # likewise
}


@pytest.fixture(scope="session")
def _fake() -> Iterator[Upstream]:
    with Upstream() as fake:
        yield fake


@pytest.fixture
def upstream(_fake: Upstream) -> Iterator[Upstream]:
    """The fake MLflow behind `front`, with nothing recorded; it answers 200 until told other."""
    _fake.forget()
    yield _fake
    # Again and again: a question of a health check, begun before, may connect just now.
    until(lambda: _is_left(_fake), "the end of all connections")


def _is_left(fake: Upstream) -> bool:
    """Whether nobody is connected any more, after all were told to leave."""
    fake.drop_connections()
    return fake.open_connections == 0


@pytest.fixture(scope="session")
def _front_settings(auth_service: Any, redis_url: str, _fake: Upstream) -> dict[str, str]:
    upstreams = {
        "MLFLOW_SERVER_URL": _fake.url,
        "HOKUSAI_AUTH_SERVICE_URL": auth_service.url,
        "REDIS_URL": redis_url,
    }
    return SETTINGS | upstreams


@pytest.fixture(scope="session")
def front(servers: Path, _front_settings: dict[str, str]) -> Iterator[Proxy]:
    """A proxy in front of `upstream`, shared by all tests that need no settings of their own."""
    with Running(kill=True) as running:
        yield running.start(Proxy(servers / "front", _front_settings, ready="/health"))


@pytest.fixture(scope="module")
def start_front(
    tmp_path_factory: pytest.TempPathFactory, _front_settings: dict[str, str]
) -> Iterator[Callable[..., Proxy]]:
    """Start a proxy like `front` with other settings, for the tests of one module."""

    def start(**settings: object) -> Proxy:
        own = {name: str(value) for name, value in settings.items()}
        folder = tmp_path_factory.mktemp("front")
        return running.start(Proxy(folder, _front_settings | own, ready="/health"))

    with Running(kill=True) as running:
        yield start


@pytest.fixture(scope="session")
def key(auth_service: Any) -> str:
    """A key that may do everything."""
    return str(auth_service.create_key(scopes=["admin"]).key)


# --- MLflow's SDK, through the session's proxy to the real MLflow --------------------------------


@pytest.fixture(params=["/api/mlflow", "/mlflow"])
def tracking_uri(request: pytest.FixtureRequest, proxy: Proxy) -> str:
    """The tracking URI, under each of the two public prefixes."""
    return f"{proxy.url}{request.param}"


@pytest.fixture(scope="session")
def writer(auth_service: Any) -> str:
    """A key that may read and write."""
    return str(auth_service.create_key(scopes=["read", "write"]).key)


@pytest.fixture(scope="session")
def pyfunc() -> Any:
    """mlflow.pyfunc, which warns of its own type hints while it is imported. Tracing imports it
    too, in passing, and silently traces nothing where that fails."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Any type hint is inferred", UserWarning)
        import mlflow.pyfunc
    return mlflow.pyfunc


@pytest.fixture
def connect(
    pyfunc: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Any]]:
    """Point the SDK of this process at a tracking URI: `connect(uri, key)` returns its client.

    Further keywords are environment variables; the last call counts, also for the clients of those
    before. All that the SDK keeps ends with the test; it works in a folder of its own.
    """
    import mlflow

    for name in REMEMBERED_BY_THE_SDK:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def connect(uri: str, key: str = "", **environment: str) -> mlflow.MlflowClient:
        own = {"MLFLOW_TRACKING_URI": uri} | ({"MLFLOW_TRACKING_TOKEN": key} if key else {})
        for name, value in (SDK | own | environment).items():
            monkeypatch.setenv(name, value)
        return mlflow.MlflowClient()

    yield connect
    _forget_what_the_sdk_remembers()


#: Patient enough for a busy machine, and no more; progress bars start threads.
SDK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

#: What the SDK writes into the environment, and what would choose another key than the test's.
REMEMBERED_BY_THE_SDK = (
    "MLFLOW_ACTIVE_MODEL_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_RUN_ID",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
)


def _forget_what_the_sdk_remembers() -> None:
    """Its state outside the environment: the active run, experiment and model, and its tracer."""
    import mlflow
    from mlflow.tracking import fluent

    while mlflow.active_run():
        mlflow.end_run()
    fluent._active_experiment_id = None
    if mlflow.get_active_model_id():
        mlflow.clear_active_model()
    mlflow.tracing.reset()  # type: ignore[no-untyped-call]


@pytest.fixture
def client(connect: Callable[..., Any], tracking_uri: str, writer: str) -> Any:
    """The SDK's client, with a key that may read and write."""
    return connect(tracking_uri, writer)


@pytest.fixture
def experiment(client: Any) -> str:
    """The id of a new experiment."""
    return str(client.create_experiment(unique("experiment")))


@pytest.fixture
def run(client: Any, experiment: str) -> str:
    """The id of a new run."""
    return str(client.create_run(experiment).info.run_id)


def unique(name: str) -> str:
    """A name that no other test uses: all share one MLflow."""
    return f"{name}-{uuid.uuid4().hex[:12]}"


def eventually(condition: Callable[[], bool], within: float = 10.0) -> bool:
    """Whether a condition comes true within so many seconds."""
    end = time.monotonic() + within
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def session(front: Proxy, key: str) -> str:
    """The cookie of a session whose key may do everything."""
    return cookie_of(sign_in(front, key))
