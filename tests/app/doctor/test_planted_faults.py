"""Each of the planted faults is found, by its name, and no other is blamed."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devstack.mlflow import MLflow
from devstack.ports import HOST, free_port
from devstack.proxy import Proxy
from tests.app.doctor.conftest import PATIENT, Finished
from tests.app.doctor.hops import Hop, Nginx
from tests.conftest import SHARED_PROXY
from tests.upstreams import Answer, Upstream, refused_port, send, sized


@dataclass
class Deployment:
    """A real stack to plant a fault in: the session's servers, and what a fault needs besides."""

    request: pytest.FixtureRequest
    start_proxy: Callable[..., Proxy]
    folder: Path
    stack: ExitStack

    @property
    def proxy(self) -> Proxy:
        """The session's proxy, with nothing wrong."""
        found: Proxy = self.request.getfixturevalue("proxy")
        return found

    def key(self, *scopes: str) -> str:
        """A key with these scopes."""
        service = self.request.getfixturevalue("auth_service")
        return str(service.create_key(scopes=list(scopes)).key)

    def behind(self, **faults: Any) -> str:
        """The tracking URI of a hop in front of the proxy."""
        hop = self.stack.enter_context(Hop(self.proxy.port, **faults))
        return f"{hop.url}/api/mlflow"

    def nginx(self, **faults: str) -> str:
        """The tracking URI of a real nginx in front of the proxy."""
        if not Nginx.works():
            pytest.skip("no nginx on this machine; the hop of our own is tested")
        server = Nginx(self.folder / "nginx", self.proxy.port, **faults)
        self.stack.callback(server.stop)
        server.start()
        server.wait_until_ready()
        return f"{server.url}/api/mlflow"

    def start(self, **settings: Any) -> Proxy:
        """A proxy with other settings, of one worker: it starts sooner."""
        return self.start_proxy(**PATIENT | {"WEB_CONCURRENCY": 1} | settings)

    def nowhere(self) -> str:
        """An address at which nobody listens."""
        return f"{HOST}:{self.stack.enter_context(refused_port())}"


@pytest.fixture
def deployment(
    request: pytest.FixtureRequest, start_proxy: Callable[..., Proxy], tmp_path: Path
) -> Iterator[Deployment]:
    with ExitStack() as stack:
        yield Deployment(request, start_proxy, tmp_path, stack)


@pytest.fixture(scope="session")
def without_artifacts(servers: Path) -> Iterator[MLflow]:
    """A real MLflow that serves no artifacts."""
    server = MLflow(servers / "mlflow-without-artifacts")
    server.command += ["--no-serve-artifacts"]
    server.start()
    server.wait_until_ready()
    yield server
    server.kill()


# --- the faults: each returns the tracking URI and the key with which to look ---------------------

Planted = tuple[str, str]


def wrong_prefix(there: Deployment) -> Planted:
    return f"{there.proxy.url}/api/mlfow", there.key("write")


def prefix_of_another_path(there: Deployment) -> Planted:
    return f"{there.proxy.url}/registry/api/mlflow", there.key("write")


def host_check(there: Deployment) -> Planted:
    """127.1 is 127.0.0.1 for whoever connects, and no name that MLflow knows for itself."""
    url = there.request.getfixturevalue("mlflow_server").url.replace("127.0.0.1", "127.1")
    return there.start(MLFLOW_SERVER_URL=url).api, there.key("write")


def proxy_refused(there: Deployment) -> Planted:
    """An MLflow with basic-auth: /health is open, all else wants credentials that the proxy has
    not."""
    open_to_all = Answer(send(sized(b"OK", 200, ("Content-Type", "text/plain"))))
    closed = Answer(send(sized(b"", 401, ("WWW-Authenticate", 'Basic realm="mlflow"'))))
    fake = there.stack.enter_context(Upstream())
    fake.answers_by(lambda asked: open_to_all if asked.target == b"/health" else closed)
    return there.start(MLFLOW_SERVER_URL=fake.url).api, there.key("write")


def loop(there: Deployment, path: str = "") -> Planted:
    port = free_port()
    upstreams = {
        "HOKUSAI_AUTH_SERVICE_URL": there.request.getfixturevalue("auth_service").url,
        "REDIS_URL": there.request.getfixturevalue("redis_url"),
        "MLFLOW_SERVER_URL": f"http://{HOST}:{port}{path}",
    }
    proxy = Proxy(
        there.folder / "loop", SHARED_PROXY | PATIENT | upstreams, port=port, ready="/health"
    )
    there.stack.callback(proxy.kill)
    proxy.start()
    proxy.wait_until_ready()
    return proxy.api, there.key("write")


def loop_through_the_prefix(there: Deployment) -> Planted:
    return loop(there, "/api/mlflow")


def wrong_key(there: Deployment) -> Planted:
    return there.proxy.api, "hk_test_of_nobody_0123456789"


def read_only_key(there: Deployment) -> Planted:
    return there.proxy.api, there.key("read")


def redis_down(there: Deployment) -> Planted:
    return there.start(REDIS_URL=f"redis://{there.nowhere()}/0").api, there.key("write")


def auth_service_down(there: Deployment) -> Planted:
    url = f"http://{there.nowhere()}"
    return there.start(HOKUSAI_AUTH_SERVICE_URL=url).api, there.key("write")


def instance_folder(there: Deployment) -> Planted:
    return there.start(INSTANCE_FOLDER="/dev/null").api, there.key("write")


def old_hop(there: Deployment) -> Planted:
    return there.behind(version="1.0", body_limit=1_000_000), there.key("write")


def nginx_by_default(there: Deployment) -> Planted:
    return there.nginx(), there.key("write")


def short_lines(there: Deployment) -> Planted:
    return there.behind(line_limit=4096), there.key("write")


def nginx_with_short_lines(there: Deployment) -> Planted:
    return there.nginx(line="4k", more="client_max_body_size 0;", version="1.1"), there.key("write")


def artifacts_disabled(there: Deployment) -> Planted:
    url = there.request.getfixturevalue("without_artifacts").url
    return there.start(MLFLOW_SERVER_URL=url).api, there.key("write")


PLANTED: list[tuple[Callable[[Deployment], Planted], set[str]]] = [
    (wrong_prefix, {"wrong-prefix"}),
    (prefix_of_another_path, {"wrong-prefix"}),
    (host_check, {"host-check"}),
    (proxy_refused, {"proxy-refused"}),
    (loop, {"loop"}),
    (loop_through_the_prefix, {"loop"}),
    (wrong_key, {"bad-key"}),
    (read_only_key, {"read-only-key"}),
    (redis_down, {"redis-down"}),
    (auth_service_down, {"auth-service-down"}),
    (instance_folder, {"instance-folder"}),
    (old_hop, {"http10-hop", "body-limit"}),
    (nginx_by_default, {"http10-hop", "body-limit"}),
    (short_lines, {"request-line-limit"}),
    (nginx_with_short_lines, {"request-line-limit"}),
    (artifacts_disabled, {"artifacts-disabled", "location-refused"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "names"), PLANTED, ids=[p.__name__ for p, _ in PLANTED])
def test_a_planted_fault_is_found_and_no_other_is_blamed(
    examine: Callable[..., Finished],
    deployment: Deployment,
    plant: Callable[[Deployment], Planted],
    names: set[str],
) -> None:
    url, key = plant(deployment)
    done = examine(url, key)
    assert set(done.report["faults"]) == names, done.not_passed
    assert done.status == 1
    for step in done.report["steps"]:
        assert step["status"] != "failed" or step["fault"] in names, step
        assert step["status"] != "failed" or step["remedy"], "what to do about it"
