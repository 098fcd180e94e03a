"""Every form of REDIS_URL, tried against real servers: all that the proxy does works, and both
commands announce a revocation that is heard."""

import shutil
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from app.state.redis_client import CHANNEL
from app.state.redis_link import RedisLink
from app.state.windows import count_as_the_limiter
from devstack.auth_service import revocation
from devstack.ports import HOST
from tests.drills.redis_topologies import (
    Cluster,
    Node,
    Sentinels,
    Way,
    make_certificates,
    running,
    tls_server,
)
from tests.faults.test_revocation import run
from tests.upstreams import eventually

PASSWORD = "p@ss/w#rd?%&"

Made = tuple[str, Callable[[], AbstractContextManager[None]]]


def one(folder: Path, way: Way) -> Made:
    node = Node(folder, way=way)
    return node.url, lambda: running(node)


def a_socket(folder: Path, way: Way) -> Made:
    path = folder / "a b.sock"
    node = Node(folder, "--unixsocket", str(path), way=replace(way, tls=None))
    secret = node.url.partition("@")[0].partition("//")[2]
    at = f"{secret}@" if way.password else ""
    return f"unix://{at}{path}?db=1".replace(" ", "%20"), lambda: running(node)


def sentinels(folder: Path, way: Way) -> Made:
    made = Sentinels(folder, way, sentinel_password=f"other-{way.password}" if way.password else "")
    return made.url, made.running


def cluster(folder: Path, way: Way) -> Made:
    made = Cluster(folder, way)
    return made.url, made.running


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as attempt:
        try:
            attempt.bind(("::1", 0))
        except OSError:
            return False
    return True


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Way:
    """A server with TLS, and certificates."""
    folder = tmp_path_factory.mktemp("tls")
    program = tls_server(folder / "bin")
    if program is None or shutil.which("openssl") is None:
        pytest.skip("no Redis with TLS here; Debian's package redis-tools has one")
    return Way(program=program, tls=make_certificates(folder / "certificates"))


@pytest.mark.slow
@pytest.mark.parametrize("make", [one, a_socket, sentinels, cluster])
@pytest.mark.parametrize("host", [HOST, "::1"])
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_all_works_and_a_revocation_is_heard(
    request: pytest.FixtureRequest,
    make: Callable[[Path, Way], Made],
    host: str,
    is_tls: bool,
    tmp_path: Path,
) -> None:
    if host == "::1" and not has_ipv6():
        pytest.skip("no IPv6 here")
    way: Way = request.getfixturevalue("tls") if is_tls else Way()
    url, start = make(tmp_path / "redis", replace(way, host=host, password=PASSWORD))
    with start():
        link = RedisLink(url, 5, 1)
        link.exercise = count_as_the_limiter
        assert link.trouble() is None
        with link.client.pubsub(ignore_subscribe_messages=False) as channel:
            channel.subscribe(CHANNEL)
            eventually(lambda: channel.get_message(timeout=1), "the subscription")
            done = run("flask", "revoke", "key_by_the_proxy", REDIS_URL=url)
            assert (done.returncode, done.stderr) == (0, "")
            assert "workers that heard it: 1." in done.stdout
            assert revocation.announce(url, "key_by_the_auth_service") >= 1
            heard: set[bytes] = set()

            def all_heard() -> bool:
                heard.add((channel.get_message(timeout=1) or {}).get("data", b""))
                return heard >= {b"key_by_the_proxy", b"key_by_the_auth_service"}

            eventually(all_heard, "both")
        link.client.close()
