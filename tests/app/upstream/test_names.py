"""Names: what getaddrinfo honours still counts, and no look-up takes longer than its caller has.

Those that need a name server run in a process of their own that asks tests/name_server.py.
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.auth import connections
from app.auth.client import AuthService
from app.state import redis_client
from app.state.redis_faults import FAILURES
from app.upstream.circuit import Circuit
from app.upstream.names import NAMES, Address, Failed, Names, open_socket
from devstack.environments import ROOT
from devstack.redis import Redis
from tests.name_server import NameServer, why_not
from tests.upstreams import Answer, Upstream, chunk, head, send, sized

needs_name_server = pytest.mark.skipif(bool(why_not()), reason=str(why_not()))

LOOPBACK = (socket.AF_INET, ("127.0.0.1",))


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", LOOPBACK),
        ("::1", (socket.AF_INET6, ("::1", 0, 0))),
        ("fe80::1%lo", (socket.AF_INET6, ("fe80::1", 0, 1))),
        ("127.1", LOOPBACK),  # as getaddrinfo reads it
    ],
)
def test_an_address_is_its_own(host: str, address: Any) -> None:
    assert Names().addresses(host, 5) == [address]


def test_localhost_is_what_the_hosts_file_says() -> None:
    assert LOOPBACK in Names().addresses("localhost", 5)


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "a..test", ".".join(["a" * 60] * 5)])
def test_what_cannot_be_a_name_does_not_exist(host: str) -> None:
    with pytest.raises(socket.gaierror) as caught:
        Names().addresses(host, 5)
    assert caught.value.errno == socket.EAI_NONAME


def test_a_socket_in_brackets_and_by_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            with open_socket(host, port, 5, [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]) as made:
                assert made.getpeername()[1] == port
                assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    with pytest.raises(ConnectionRefusedError):
        open_socket("127.0.0.1", port, 5)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
def test_a_socket_to_an_ipv6_address_in_brackets() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        port = listener.getsockname()[1]
        for host in ("[::1]", "::1"):
            with open_socket(host, port, 5) as made:
                assert made.getpeername()[:2] == ("::1", port)


# --- with a name server --------------------------------------------------------------------------


@pytest.fixture
def names(tmp_path: Path) -> Iterator[NameServer]:
    with NameServer(tmp_path, {"mlflow.test": ["127.0.0.1"]}) as server:
        yield server


class Process:
    """A process with this name server; `look` says what came of a look-up, and after how long."""

    SCRIPT = """
import json, sys, time, threading
from app.upstream.names import NAMES, open_socket
def look(host, timeout, port):
    began = time.monotonic()
    try:
        if port:
            found = open_socket(host, port, timeout).getpeername()
        else:
            found = [address[0] for _, address in NAMES.addresses(host, timeout)]
    except OSError as why:
        found = type(why).__name__
    return found, time.monotonic() - began, NAMES.failing(host)
for line in sys.stdin:
    host, timeout, port, count = json.loads(line)
    results = []
    threads = [threading.Thread(target=lambda: results.append(look(host, timeout, port)))
               for _ in range(count)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(json.dumps(results), flush=True)
"""

    def __init__(self, names: NameServer) -> None:
        self._process = subprocess.Popen(
            names.for_process([sys.executable, "-c", self.SCRIPT]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )

    def look(
        self, host: str = "mlflow.test", timeout: float = 5.0, port: int = 0, count: int = 1
    ) -> list[Any]:
        """Results of so many threads: what was found, after how many seconds, whether the name's
        look-ups fail."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([host, timeout, port, count]) + "\n")
        self._process.stdin.flush()
        return list(json.loads(self._process.stdout.readline()))

    def end(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def process(names: NameServer) -> Iterator[Process]:
    process = Process(names)
    yield process
    process.end()


def refresh() -> None:
    """Waits until the next look-up asks again."""
    time.sleep(1.1)  # FRESH


@needs_name_server
def test_one_look_up_serves_all_who_wait(names: NameServer, process: Process) -> None:
    found = process.look(count=50)
    assert {tuple(result[0]) for result in found} == {("127.0.0.1",)}
    assert len(names.asked) == 2, "A and AAAA"


@needs_name_server
def test_a_silent_name_server_takes_the_timeout_and_no_more(
    names: NameServer, process: Process
) -> None:
    names.frozen = True
    found = process.look(timeout=1.5, count=50)
    assert {result[0] for result in found} == {"LookupFailed"}
    assert max(result[1] for result in found) < 4, "10 s and more in getaddrinfo"
    assert len(names.asked) == 2


@needs_name_server
def test_the_last_address_stays_while_look_ups_fail(names: NameServer, process: Process) -> None:
    assert process.look()[0][0] == ["127.0.0.1"]
    names.frozen = True
    refresh()
    first, second = process.look(timeout=2)[0], process.look(timeout=2)[0]
    assert first[0] == second[0] == ["127.0.0.1"]
    assert first[1] < 2, "it waits for a part of its time"
    assert second[1] < 0.5, "nobody waits again"
    assert second[2] is True


@needs_name_server
def test_a_name_that_is_gone_is_not_its_last_address(names: NameServer, process: Process) -> None:
    """The address may be somebody else's by now."""
    assert process.look()[0][0] == ["127.0.0.1"]
    del names.names["mlflow.test"]
    refresh()
    assert process.look()[0][::2] == ["gaierror", False]
    names.names["mlflow.test"] = ["127.0.0.9"]
    refresh()
    assert process.look()[0][0] == ["127.0.0.9"], "that it was gone is not kept"


@needs_name_server
def test_addresses_of_both_families_are_tried_in_turn(names: NameServer, process: Process) -> None:
    """One that refuses, and one that takes nothing, within one connect timeout."""
    with (
        socket.create_server(("127.0.0.1", 0)) as here,
        socket.socket() as full,
        socket.socket() as waiting,
    ):
        port = here.getsockname()[1]
        full.bind(("127.0.0.8", port))
        full.listen(0)
        waiting.connect(("127.0.0.8", port))
        names.names["mlflow.test"] = ["127.0.0.8", "127.0.0.1", "::1"]
        found, seconds, _ = process.look(timeout=3, port=port)[0]
    assert found == ["127.0.0.1", port]
    assert seconds < 3.5


@needs_name_server
def test_an_address_that_swallows_connects_delays_the_first_one_only(
    names: NameServer, process: Process
) -> None:
    """Else each new connection would wait for its share of the timeout, for ever."""
    names.names["mlflow.test"] = ["127.0.0.1", "127.0.0.2"]
    with full_port() as port, socket.create_server(("127.0.0.2", port)):
        first, second = (process.look(timeout=2, port=port)[0] for _ in range(2))
    assert first[0][0] == second[0][0] == "127.0.0.2"
    assert first[1] > 0.5 > second[1]


@contextmanager
def full_port() -> Iterator[int]:
    """A port of 127.0.0.1 whose queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_addresses_that_failed_come_behind_the_others_for_a_while() -> None:
    failed = Failed()
    found: list[Address] = [LOOPBACK, (socket.AF_INET, ("127.0.0.2",))]
    assert failed.last(found, 5000) == found
    failed.note(("127.0.0.1", 5000))
    assert failed.last(found, 5000) == found[::-1]
    assert failed.last(found, 5001) == found, "another port of it"
    assert failed.last([LOOPBACK], 5000) == [LOOPBACK], "there is no other one"
    failed.note(("127.0.0.2", 5000))
    assert failed.last(found, 5000) == found


@needs_name_server
def test_search_domains_count(names: NameServer, process: Process) -> None:
    names.resolv_conf.write_text(f"nameserver {names.address}\nsearch nowhere.test test\n")
    assert process.look("mlflow")[0][0] == ["127.0.0.1"]


# --- connections that grow old -------------------------------------------------------------------


def test_connections_to_the_auth_service_end_with_their_age(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Upstream() as service:
        service.answers(Answer(send(sized(b'{"valid": false}'))))
        asked = AuthService(
            service.url,
            service_id="platform",
            timeout=5,
            circuit=Circuit("auth_service", 5, 1),
        )
        monkeypatch.setattr(connections._Connection, "max_age", 0.3)
        for _ in range(3):
            assert asked.validate("hk_test_a", "203.0.113.7") is None
        assert service.connections == 1
        time.sleep(0.4)
        assert asked.validate("hk_test_a", "203.0.113.7") is None
        assert service.connections == 2


@pytest.mark.parametrize(
    "data",
    [
        head(103, ("Link", "</a>")) + sized(b'{"valid": false}'),
        head(200, ("Transfer-Encoding", "Chunked")) + chunk(b'{"valid": false}') + b"0\r\n\r\n",
        b'HTTP/1.1 200\nContent-Length: 16, 16\n\n{"valid": false}',
    ],
    ids=["an interim answer", "Chunked", "LF, no reason, the length twice"],
)
def test_the_auth_service_may_answer_in_an_unusual_way(data: bytes) -> None:
    with Upstream() as service:
        service.answers(Answer(send(data)))
        asked = AuthService(
            service.url,
            service_id="platform",
            timeout=5,
            circuit=Circuit("auth_service", 5, 1),
        )
        assert asked.validate("hk_test_a", "203.0.113.7") is None
        assert service.requests[0].one("Host") == service.url.removeprefix("http://")


KINDS = ("redis", "rediss", "redis+sentinel", "redis+cluster")


@pytest.mark.parametrize("kind", KINDS)
def test_redis_of_every_kind_is_looked_up_here(kind: str) -> None:
    host = kind.replace("+", "-").ljust(64, "x")  # too long for a label: nobody is asked
    client = redis_client.connect(f"{kind}://{host}:6379/0", 5)
    with pytest.raises(FAILURES):
        client.ping()
    assert host in NAMES._names


def test_connections_to_redis_end_with_their_age(
    redis_server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = redis_client.connect(f"redis://127.0.0.1:{redis_server.port}/0", 5)
    first = client.execute_command("CLIENT", "ID")
    assert client.execute_command("CLIENT", "ID") == first
    monkeypatch.setattr(redis_client, "MAX_AGE", -1.0)
    assert client.execute_command("CLIENT", "ID") > first
    client.close()
