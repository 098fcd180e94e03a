"""The proxy's image, built in a folder and run as its user, who owns nothing there."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.ports import HOST, free_port
from devstack.server import Server, answers
from tests.conftest import DEVELOPERS_ENVIRONMENT
from tests.container.build import ROOT, Build, Image, environment, last, lines
from tests.upstreams import eventually

pytestmark = pytest.mark.slow
NAMES = ["auth-service", "proxy"]
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that other users may enter, which pytest's own is not."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a program as another user")
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv (util-linux) to change the user with")
    with tempfile.TemporaryDirectory(prefix="image-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def images(place: Path) -> dict[str, Image]:
    """Both images that hold code of ours."""
    # Where pip finds its packages here: its files and variables, and what those may name.
    wanted = re.compile(r"HOME|PIP_.*|.*_PROXY|SSL_CERT_.*|REQUESTS_CA_BUNDLE|XDG_CONFIG_.*", re.I)
    registry = {k: v for k, v in DEVELOPERS_ENVIRONMENT.items() if wanted.fullmatch(k)}
    build = Build(place, registry)
    made = {"auth-service": build.image("auth-service"), "proxy": build.image("proxy", stays=True)}
    assert list(made) == NAMES
    return made


def as_user(name: str) -> list[str]:
    """What runs a command as the image's user, with nothing of root's left."""
    user, _, group = last(lines(name), "USER").value.partition(":")
    caps = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *caps]


class Container(Server):
    """The CMD of an image with its environment, its user and its working folder."""

    def __init__(self, built: Image, name: str, writable: Path, more: dict[str, str]) -> None:
        instructions = lines(name)
        self.name = name
        variables = environment(instructions)
        self.variables = variables | built.path(variables) | {"TMPDIR": str(writable)} | more
        self.runs_as = as_user(name)
        self.check_command = last(instructions, "HEALTHCHECK").words
        self.isolated = ["env", "-i", *(f"{k}={v}" for k, v in self.variables.items())]
        super().__init__(
            [*self.runs_as, *self.isolated, *last(instructions, "CMD").words],
            Path(built.here(last(instructions, "WORKDIR").value)),
        )
        self.log = writable / f"{name}.log"
        (self.address,) = (v for k, v in more.items() if k.endswith("BIND"))

    def is_ready(self) -> bool:
        """Whether its own check says so."""
        return self.is_healthy()

    def is_healthy(self) -> bool:
        """What the HEALTHCHECK says."""
        done = subprocess.run(
            [*self.runs_as, *self.isolated, *self.check_command],
            capture_output=True,
            check=False,
            timeout=10,
        )
        assert done.returncode in (0, 1), done.stderr
        return done.returncode == 0


@pytest.fixture
def start(images: dict[str, Image], place: Path) -> Iterator[Callable[..., Container]]:
    """Start a container of an image: `start("proxy", BIND=…)`; it has not to be ready yet."""
    started: list[Container] = []

    def start(name: str, **more: str) -> Container:
        writable = Path(tempfile.mkdtemp(prefix="tmp-", dir=place))
        os.chown(writable, 10001, 10001)
        for variable, value in more.items():
            more[variable] = value.replace("WRITABLE", str(writable))
        container = Container(images[name], name, writable, more)
        started.append(container)
        return container

    yield start
    for container in started:
        container.stop()


@pytest.mark.parametrize("name", NAMES)
def test_it_holds_the_packages_and_the_code_and_nothing_else(
    images: dict[str, Image], name: str
) -> None:
    root = images[name].root
    code = {"proxy": {"app", "config", "gunicorn.conf.py", "wsgi.py"}}
    data = {"auth-service": {"data"}}
    assert {path.name for path in root.iterdir()} == {"app", "opt"} | data.get(name, set())
    assert {path.name for path in (root / "opt").iterdir()} == {"venv"}
    held = {path.name for path in (root / "app").iterdir()} - {"__pycache__"}
    assert held == code.get(name, {"app", "config", "devstack"})
    names = {path.name for path in root.rglob("*")}
    assert {"pytest", "mlflow", "pip", "numpy", "uv"}.isdisjoint(names)


def test_it_is_small(images: dict[str, Image]) -> None:
    """Above its base; 36 MB when this was written."""
    files = [path for path in images["proxy"].root.rglob("*") if path.is_file()]
    assert sum(path.lstat().st_size for path in files) < 50 * MIB


def test_what_is_installed_is_what_is_locked(images: dict[str, Image]) -> None:
    root = images["proxy"].root
    lock = (ROOT / "requirements/production.lock").read_text("utf-8")
    pins = {
        (re.sub(r"[-_.]+", "_", name).lower(), version)
        for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)", lock, re.MULTILINE)
    }
    infos = [path.name.removesuffix(".dist-info") for path in root.rglob("*.dist-info")]
    found = {tuple(info.rsplit("-", 1)) for info in infos}
    assert {(re.sub(r"[-_.]+", "_", name).lower(), version) for name, version in found} <= pins
    assert len(infos) > 15


@pytest.mark.parametrize("name", NAMES)
def test_its_user_can_write_nowhere_in_it(images: dict[str, Image], name: str) -> None:
    look = (
        "import os, sys\n"
        "for top, folders, files in os.walk(sys.argv[1]):\n"
        "    for path in [top, *(os.path.join(top, file) for file in files)]:\n"
        "        if not os.path.islink(path) and os.access(path, os.W_OK):\n"
        "            print(path)\n"
    )
    built = images[name]
    command = [*as_user(name), "python", "-c", look, str(built.root)]
    path = built.path(environment(lines(name)))
    done = subprocess.run(command, env=path, capture_output=True, text=True, check=True)
    writable = [str(built.root / "data")] if name == "auth-service" else []
    assert done.stdout.split() == writable


def test_the_code_is_compiled_and_stays_so(images: dict[str, Image]) -> None:
    """Nobody could write the compiled files later, and their time stamps do not count."""
    compiled = {
        path.name.partition(".")[0] for path in (images["proxy"].root / "app").rglob("*.pyc")
    }
    assert {"wsgi", "proxy", "forwarding", "settings", "worker"} <= compiled
    for path in (images["proxy"].root / "app").rglob("*.pyc"):
        assert path.read_bytes()[4:8] == b"\x01\0\0\0", "not an unchecked hash"


def test_the_proxy_serves_is_checked_and_ends_in_order(
    start: Callable[..., Container], auth_service: Any, redis_url: str
) -> None:
    address = f"{HOST}:{free_port()}"
    proxy = start(
        "proxy",
        BIND=address,
        REDIS_URL=redis_url,
        HOKUSAI_AUTH_SERVICE_URL=auth_service.url,
        MLFLOW_SERVER_URL=f"http://{HOST}:{free_port()}",
        GRACEFUL_TIMEOUT="20",
        WEB_CONCURRENCY="1",  # so that who answers is all there is; a second one could still start
    )
    assert not proxy.is_healthy()  # nobody listens yet
    proxy.start()
    proxy.wait_until_ready()
    assert answers(f"http://{address}/health")
    assert _users(proxy) == {10001}
    began = time.monotonic()
    os.kill(proxy.pid, signal.SIGTERM)
    eventually(lambda: not proxy.is_running(), "its end", 30)
    assert (proxy.exit_status(), time.monotonic() - began < 20) == (0, True), proxy.tail()
    assert not proxy.is_healthy()


@pytest.mark.parametrize(
    "where", ["unix:WRITABLE/proxy.sock", "127.0.0.2:", ":", "[::]:", " [::1]:"]
)
def test_a_proxy_is_checked_where_it_listens(start: Callable[..., Container], where: str) -> None:
    """Who depends on its health would never start, and Swarm would end it."""
    address = f"{where}{free_port()}" if where.endswith(":") else where
    proxy = start("proxy", BIND=address, REDIS_URL="memory://")
    assert not proxy.is_healthy()
    proxy.start()
    proxy.wait_until_ready()


def test_the_check_of_a_proxy_that_hangs_fails(start: Callable[..., Container]) -> None:
    address = f"{HOST}:{free_port()}"
    proxy = start("proxy", BIND=address, REDIS_URL="memory://")
    proxy.start()
    proxy.wait_until_ready()
    os.killpg(proxy.pid, signal.SIGSTOP)
    try:
        assert not proxy.is_healthy()
    finally:
        os.killpg(proxy.pid, signal.SIGCONT)


def test_a_bad_setting_ends_it_at_once_with_its_complaint(start: Callable[..., Container]) -> None:
    proxy = start("proxy", BIND=f"{HOST}:{free_port()}", REDIS_URL="gopher://x")
    proxy.start()
    eventually(lambda: not proxy.is_running(), "its end", 30)
    assert proxy.exit_status() == 1
    assert "REDIS_URL" in proxy.log.read_text()


def test_the_local_auth_service_serves_and_ends_in_order(
    start: Callable[..., Container],
) -> None:
    service = start(
        "auth-service",
        AUTH_SERVICE_BIND=f"{HOST}:{free_port()}",
        AUTH_SERVICE_DATABASE="WRITABLE/keys.db",
    )
    assert not service.is_healthy()
    service.start()
    service.wait_until_ready()
    os.kill(service.pid, signal.SIGTERM)
    eventually(lambda: not service.is_running(), "its end", 30)
    assert service.exit_status() == 0


def _users(server: Server) -> set[int]:
    """Who the processes of a server are."""
    import psutil

    leader = psutil.Process(server.pid)
    return {uid for one in (leader, *leader.children(recursive=True)) for uid in one.uids()}
