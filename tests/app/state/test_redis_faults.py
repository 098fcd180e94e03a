"""What is wrong with a Redis has the right word, a short text, and no secret in it."""

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
import redis

from app.health import diagnosis
from app.health.faults import FAULTS, fault
from app.state.redis_client import connect
from app.state.redis_faults import LONGEST, message_of
from app.state.redis_link import RedisLink
from app.state.windows import count_as_the_limiter
from config.running import PREPARED
from devstack.ports import HOST, free_port
from tests.drills.redis_topologies import (
    SERVICE,
    Cluster,
    Node,
    Sentinels,
    Way,
    make_certificates,
    running,
    tls_server,
)
from tests.upstreams import eventually, refused_port

SECRETS = ("s3cret", "wr0ng")

Look = Callable[[str], str | None]


@pytest.fixture
def look() -> Iterator[Look]:
    """The word for what is wrong with the Redis at a URL, after what is said was looked at."""
    links: list[RedisLink] = []

    def find(url: str) -> str | None:
        link = RedisLink(url, 2, 1)
        link.exercise = count_as_the_limiter
        links.append(link)
        trouble = link.trouble()
        if trouble is None:
            return None
        found = diagnosis.redis_trouble(diagnosis.redis_at(url), trouble)
        for text in (found.message, found.detail):
            assert not any(secret in text for secret in SECRETS)
        assert "{" not in found.message
        assert len(message_of(trouble.error)) <= LONGEST + 1
        return trouble.word or message_of(trouble.error)

    yield find
    for link in links:
        link.client.close()


# --- one server ----------------------------------------------------------------------------------


def test_users_passwords_and_databases(look: Look, tmp_path: Path) -> None:
    node = Node(tmp_path, way=Way(password="s3cret"))
    place = f"{HOST}:{node.port}"
    with running(node):
        assert look(f"redis://{place}") == "no password"
        assert look(f"redis://:wr0ng@{place}") == "password"
        assert look(f"redis://wr0ng:s3cret@{place}") == "password"
        assert look(f"redis://:s3cret@{place}/99") == "database"
        assert look(f"redis://:s3cret@{place}/1") is None
        assert look(f"redis://:s3cret@{place}?protocol=2") is None
        assert look(f"redis+cluster://:s3cret@{place}") == "not cluster"
        assert look(f"redis+sentinel://{place}/m?sentinel_password=s3cret") == "not sentinel"
        assert look(f"rediss://:s3cret@{place}") == "no tls"
        node.client.ping()
        node.ask("CONFIG", "SET", "maxclients", 1)
        assert look(f"redis://:s3cret@{place}") == "clients"


@contextmanager
def replica(node: Node) -> Iterator[None]:
    node.ask("REPLICAOF", HOST, 1)
    yield


@contextmanager
def full(node: Node) -> Iterator[None]:
    node.ask("CONFIG", "SET", "maxmemory", 1)
    yield


@contextmanager
def without_a_disk(node: Node) -> Iterator[None]:
    shutil.rmtree(node.folder / "data")
    node.ask("CONFIG", "SET", "save", "3600 1")
    node.ask("SET", "a", "b")
    with suppress(redis.ResponseError):
        node.ask("BGSAVE")
    failed = {"rdb_last_bgsave_status": "err"}.items()
    eventually(lambda: failed <= node.client.info("persistence").items(), "the failure")
    yield


@contextmanager
def busy(node: Node) -> Iterator[None]:
    node.ask("CONFIG", "SET", "lua-time-limit", 1)

    def run() -> None:
        with redis.Redis(port=node.port) as other, suppress(redis.RedisError):
            other.eval("while true do end", 0)

    thread = threading.Thread(target=run)
    thread.start()

    def is_busy() -> bool:
        try:
            return not node.client.ping()
        except redis.ResponseError:
            return True

    eventually(is_busy, "the script")
    yield
    node.ask("SCRIPT", "KILL")
    thread.join()


@contextmanager
def loading(node: Node) -> Iterator[None]:
    for number in range(3000):
        node.ask("SET", f"key-{number}", "x" * 100)
    node.ask("SAVE")
    node.kill()
    node.command += (
        "--key-load-delay",
        "10000",
        "--loading-process-events-interval-bytes",
        "1024",
    )
    node.start()
    eventually(lambda: _listens(node.port), "the server")
    yield


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (replica, "read-only"),
        (full, "full"),
        (without_a_disk, "disk"),
        (busy, "busy"),
        (loading, "loading"),
    ],
)
def test_a_server_in_trouble(
    look: Look, tmp_path: Path, broken: Callable[[Node], AbstractContextManager[None]], word: str
) -> None:
    (tmp_path / "data").mkdir()
    node = Node(tmp_path, "--dir", str(tmp_path / "data"))
    with running(node), broken(node):
        assert look(node.url) == word


@pytest.mark.parametrize(
    ("greeting", "word"),
    [
        (
            b"-DENIED Redis is running in protected mode because protected mode is on\r\n",
            "protected",
        ),
        (b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n", "old"),
        (b"-NOPROTO unsupported protocol version\r\n", "old"),
        (b"-ERR unsupported command `hello`\r\n", "fails"),
        (b"-no upstream host\r\n", "fails"),
        (b"-ERR max number of clients + cluster connections reached\r\n", "clients"),
    ],
)
def test_what_no_server_here_says(look: Look, greeting: bytes, word: str) -> None:
    """Protected mode is for strangers from other machines; servers without RESP3 are old."""
    with greeter(greeting) as port:
        assert look(f"redis://{HOST}:{port}") == word


def test_a_proxy_in_front_that_has_a_mode_of_its_own_is_no_other_kind() -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while said := connection.recv(4096):
                hello = b"*2\r\n$4\r\nmode\r\n$5\r\nproxy\r\n"
                connection.sendall(hello if b"HELLO" in said else b"+OK\r\n" * said.count(b"*"))

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        client = connect(f"redis://{HOST}:{listener.getsockname()[1]}?protocol=2", 2)
        client.check()
        client.close()
        thread.join()


@contextmanager
def greeter(greeting: bytes) -> Iterator[int]:
    """Answers whatever comes first on a connection, and closes it; yields its port."""
    with socket.create_server((HOST, 0)) as listener:

        def greet() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(100)
                        connection.sendall(greeting)

        thread = threading.Thread(target=greet)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


# --- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_tls(tmp_path_factory: pytest.TempPathFactory) -> Way:
    """A server with TLS, and certificates."""
    folder = tmp_path_factory.mktemp("tls")
    program = tls_server(folder / "bin")
    if program is None or shutil.which("openssl") is None:
        pytest.skip("no Redis with TLS here; Debian's package redis-tools has one")
    return Way(program=program, tls=make_certificates(folder / "certificates"))


def test_tls_that_does_not_come_about(look: Look, with_tls: Way, tmp_path: Path) -> None:
    node = Node(tmp_path / "one", way=with_tls)
    place, trust = f"{HOST}:{node.port}", f"ssl_ca_certs={with_tls.tls}/ca.crt"
    with running(node):
        assert look(f"rediss://{place}?{trust}") is None
        assert look(f"rediss://{place}?ssl_cert_reqs=none") is None
        assert look(f"rediss://{place}") == "certificate"
        assert look(f"rediss+cluster://{place}") == "certificate"
        assert look(f"rediss+sentinel://{place}/m") == "certificate"
        assert look(f"redis://{place}") in ("closed", "unreachable")


def test_files_that_cannot_be_used_any_more(
    look: Look, with_tls: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an instance that has started: the start refuses them."""
    monkeypatch.setenv(PREPARED, str(os.getpid()))
    node = Node(tmp_path / "one", way=with_tls)
    own = f"{node.url}&ssl_certfile={with_tls.tls}/client.crt&ssl_keyfile={with_tls.tls}"
    (tmp_path / "junk").write_text("no certificate")
    with running(node):
        assert look(f"{own}/client.key") is None
        assert look(f"{own}/server.key") == "tls files"
        assert look(f"{own}/none.key") == "tls files"
        for file in (tmp_path / "junk", tmp_path, tmp_path / "none"):
            assert look(f"rediss://{HOST}:{node.port}?ssl_ca_certs={file}") == "tls files"
    assert look(f"unix://{tmp_path}/none") == "unreachable"


def test_a_client_without_the_certificate_that_is_wanted(
    look: Look, with_tls: Way, tmp_path: Path
) -> None:
    node = Node(tmp_path / "one", "--tls-auth-clients", "yes", way=with_tls)
    files = f"ssl_certfile={with_tls.tls}/client.crt&ssl_keyfile={with_tls.tls}/client.key"
    with running_without_a_look(node):
        # The server's reset can overtake its alert.
        assert look(node.url) in ("client certificate", "unreachable")
        assert look(f"{node.url}&{files}") is None


@contextmanager
def running_without_a_look(node: Node) -> Iterator[None]:
    """One that lets nobody in who has no certificate."""
    node.start()
    eventually(lambda: _listens(node.port), "the server")
    yield
    node.kill()
    node.client.close()


def _listens(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex((HOST, port)) == 0


# --- Sentinels and clusters ----------------------------------------------------------------------


@pytest.mark.slow
def test_sentinels(look: Look, tmp_path: Path) -> None:
    made = Sentinels(tmp_path, Way(password="s3cret"), sentinel_password="s3cret-too")
    ports = [sentinel.port for sentinel in made.sentinels]
    hosts = ",".join(f"{HOST}:{port}" for port in ports)

    def url(password: str = "s3cret", service: str = SERVICE, query: str = "s3cret-too") -> str:
        user = f":{password}@" if password else ""
        own = f"?sentinel_password={query}" if query else ""
        return f"redis+sentinel://{user}{hosts}/{service}{own}"

    with made.running():
        assert look(url()) is None
        assert look(url(query="")) == "sentinel no password"
        assert look(url(query="wr0ng")) == "sentinel password"
        assert look(url(query="s3cret-too&sentinel_username=wr0ng")) == "sentinel password"
        assert look(url(password="")) == "no password"
        assert look(url(password="wr0ng")) == "password"
        assert look(url(service="another")) == "no service"
        assert look(url().replace("redis", "rediss", 1)) == "no tls"
        assert look(f"redis://:s3cret-too@{HOST}:{ports[0]}") == "is sentinel"
        with refused_port() as port:
            assert look(url().replace(hosts, f"{HOST}:{port},{hosts}")) is None
            assert look(url().replace(hosts, f"{HOST}:{port}")) == "no sentinel"
        made.replica.kill()
        made.master.kill()
        state = made.sentinels[0].client.sentinel_master
        eventually(lambda: state(SERVICE)["is_odown"], "the end of the master")
        assert look(url()) == "no master"


@pytest.mark.slow
def test_a_master_whose_sentinels_are_gone_is_used_and_health_says_so(tmp_path: Path) -> None:
    made = Sentinels(tmp_path)
    with made.running():
        link = RedisLink(made.url, 2, 1)
        assert link.trouble() is None
        for sentinel in made.sentinels:
            sentinel.kill()
        link.client.connection_pool.disconnect()  # the next command connects anew
        assert link.call(link.client.ping)
        trouble = link.trouble()
        assert trouble is not None
        found = diagnosis.redis_trouble(diagnosis.redis_at(made.url), trouble)
        assert found.status == diagnosis.DEGRADED
        wanted = f"{fault('redis.no sentinel')} {diagnosis.WITHOUT_SENTINELS}"
        assert found.message == wanted
        made.master.kill()
        trouble = link.trouble()
        assert trouble is not None
        assert not trouble.is_partial
        link.client.close()


@pytest.mark.slow
def test_a_cluster(look: Look, tmp_path: Path) -> None:
    made = Cluster(tmp_path, Way(password="s3cret"))
    place = f"{HOST}:{made.nodes[0].port}"
    with made.running():
        assert look(made.url) is None
        assert look(f"redis://:s3cret@{place}") == "is cluster"
        assert look(f"redis+cluster://{place}") == "no password"
        assert look(f"redis+cluster://:wr0ng@{place}") == "password"
        assert look(f"rediss+cluster://:s3cret@{place}") == "no tls"
        for node in made.nodes:
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
            with suppress(redis.ResponseError):
                node.ask("CLUSTER", "DELSLOTS", 5)
        assert look(made.url) == "slots"
        made.nodes[0].ask("CLUSTER", "ADDSLOTS", 5)
        eventually(lambda: look(made.url) is None, "a whole cluster")
        os.kill(made.nodes[1].pid, 9)
        eventually(lambda: look(made.url) == "slots", "the end of a node")
        for node in (made.nodes[0], made.nodes[2]):
            node.kill()
        assert look(made.url) == "unreachable"


def test_a_cluster_behind_one_address_names_no_host(look: Look, tmp_path: Path) -> None:
    made = Cluster(tmp_path)
    with made.running():
        for node in made.nodes:
            node.ask("CONFIG", "SET", "cluster-preferred-endpoint-type", "unknown-endpoint")
        assert look(made.url) is None


def test_a_cluster_that_announces_addresses_of_its_own(look: Look, tmp_path: Path) -> None:
    """Nobody listens on these ports. The bus keeps its own, so that all nodes hear of them."""
    made = Cluster(tmp_path)
    with made.running():
        closed = [str(free_port()) for _ in made.nodes]
        for node, port in zip(made.nodes, closed, strict=True):
            myself = next(line for line in _lines(node, "CLUSTER", "NODES") if "myself" in line)
            bus = myself.split("@")[1].split()[0].split(",")[0]
            node.ask("CONFIG", "SET", "cluster-announce-bus-port", bus)
            node.ask("CONFIG", "SET", "cluster-announce-port", port)

        def is_announced() -> bool:
            slots = [str(node.ask("CLUSTER", "SLOTS")) for node in made.nodes]
            return all(port in text for port in closed for text in slots)

        eventually(is_announced, "the new addresses")
        link = RedisLink(made.url, 2, 1)
        trouble = link.trouble()
        assert trouble is not None
        found = diagnosis.redis_trouble(diagnosis.redis_at(made.url), trouble)
        assert "REDIS_URL (or what the nodes announce)" in found.message
        link.client.close()


def _lines(node: Node, *command: str) -> list[str]:
    return bytes(node.ask(*command)).decode().splitlines()


def test_each_word_has_a_message() -> None:
    from app.state import redis_faults

    tables = (redis_faults.TEXTS, redis_faults.TYPES)
    words = {word for table in tables for _, word in table}
    words |= {*redis_faults.OF_SENTINELS.values(), "is cluster", "is sentinel", "not sentinel"}
    known = {key.removeprefix("redis.") for key in FAULTS if key.startswith("redis.")}
    assert words - {"certificate"} <= known
    assert known <= words | {
        "fails",
        "silent",
        "no sentinel",
        "client certificate",
        "no tls",
        "tls files",
    }
