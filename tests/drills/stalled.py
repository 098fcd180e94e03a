"""Clients that stop in the middle: one byte and silence, an upload that does not go on, a download
that nobody reads. The others are served as if they were not there; they are ended in time."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import psutil

from devstack.proxy import Proxy
from tests.drills.load import Client, Load, Seen
from tests.drills.report import Row, counted, median_ms, p99_ms
from tests.drills.stage import Stage
from tests.upstreams import OK, Answer, Received, Upstream, eventually, generate, head, send
from tests.wire import bearer, call, request

SMALL = "/api/mlflow/api/2.0/mlflow/runs/get?run_id=1"
ARTIFACT = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/weights.bin"
BIG = 64 * 1024 * 1024


def kinds(key: str) -> dict[str, bytes]:
    """What each kind of client sends before it stops."""
    upload = request("PUT", ARTIFACT, bearer(key), f"Content-Length: {BIG}", body=bytes(1000))
    return {
        "sent one byte": b"G",
        "stopped in an upload": upload,
        "do not read their download": request("GET", ARTIFACT, bearer(key)),
    }


def drill(
    stage: Stage, stalled: int, asked: int, most_ms: float, idle: int, alone: bool = True
) -> Iterator[Row]:
    """`stalled` clients of each kind (first each kind alone), and beside them `asked` requests of
    /health and as many ordinary ones. The clients are dropped after `idle` seconds."""
    every = kinds(stage.key())
    if alone:
        for name, sent in every.items():
            yield _one(
                stage, f"{stalled} clients that {name}", [sent] * stalled, asked, most_ms, idle
            )
    together = [sent for sent in every.values() for _ in range(stalled)]
    yield _one(stage, f"{stalled} of each kind together", together, asked, most_ms, idle)


def _one(stage: Stage, what: str, sent: list[bytes], asked: int, most_ms: float, idle: int) -> Row:
    with Upstream() as fake, ExitStack() as ends:
        fake.answers_by(_big_or_small)
        proxy = stage.proxy(
            MLFLOW_SERVER_URL=fake.url,
            CLIENT_IDLE_TIMEOUT=idle,
            KEEPALIVE=idle,
            MAX_IN_FLIGHT_PER_KEY=len(sent),
            MAX_IN_FLIGHT=2 * len(sent),
        )
        call(proxy.url, "GET", SMALL, bearer(stage.key()))
        began = time.monotonic()
        for data in sent:
            ends.enter_context(_stalled(proxy, data))
        health, ordinary = _beside(proxy, stage.key(), asked, len(sent))
        held = _held(proxy)
        eventually(lambda: _held(proxy) == 0, "the end of the stalled clients", 10 * idle)
        ended = time.monotonic() - began
    assert held >= len(sent), f"only {held} were still stalled at the end"
    return _row(what, health, ordinary, ended, most_ms, idle)


def _big_or_small(asked: Received) -> Answer:
    if asked.method == b"GET" and b"weights" in asked.target:
        return Answer(send(head(200, ("Content-Length", str(BIG)))), generate(BIG))
    return OK


@contextmanager
def _stalled(proxy: Proxy, data: bytes) -> Iterator[None]:
    """A connection that sends this much and then does nothing."""
    address = urlsplit(proxy.url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        client.settimeout(20)
        client.connect((address.hostname, address.port))
        client.sendall(data)
        yield


def _beside(proxy: Proxy, key: str, asked: int, stalled: int) -> tuple[list[Seen], list[Seen]]:
    """What one client at /health and one with ordinary requests see, as long as all are stalled."""
    clients = Client(proxy.url), Client(proxy.url)
    questions = request("GET", "/health"), request("GET", SMALL, bearer(key))

    def load_of(number: int) -> Load:
        client, question = clients[number], questions[number]
        return Load(lambda _: client.ask(question).status, 1, pause=0.002)

    loads = load_of(0), load_of(1)
    with loads[0] as health, loads[1] as ordinary:
        eventually(
            lambda: min(len(health.seen), len(ordinary.seen)) >= asked, "the requests", timeout=120
        )
    for client in clients:
        client.close()
    return health.seen, ordinary.seen


def _held(proxy: Proxy) -> int:
    """How many connections of clients the proxy's workers hold open."""
    workers = psutil.Process(proxy.pid).children()
    open_ones = (one for worker in workers for one in worker.net_connections("tcp"))
    return sum(one.laddr.port == proxy.port and one.status == "ESTABLISHED" for one in open_ones)


def _row(
    what: str, health: list[Seen], ordinary: list[Seen], ended: float, most_ms: float, idle: int
) -> Row:
    times = [[seen.seconds for seen in of] for of in (health, ordinary)]
    numbers = {
        "health_p50_ms": median_ms(times[0]),
        "health_p99_ms": p99_ms(times[0]),
        "ordinary_p50_ms": median_ms(times[1]),
        "ordinary_p99_ms": p99_ms(times[1]),
        "ended_s": round(ended, 1),
    }
    statuses = [seen.status for seen in (*health, *ordinary)]
    return Row(
        "stalled clients",
        what,
        f"one client at /health, one with ordinary requests: {len(statuses):,}",
        f"{counted(statuses)}; /health p50 {numbers['health_p50_ms']} ms, p99 "
        f"{numbers['health_p99_ms']} ms; ordinary p50 {numbers['ordinary_p50_ms']} ms, p99 "
        f"{numbers['ordinary_p99_ms']} ms; dropped after {ended:.1f} s (set: {idle} s)",
        None,
        facts={
            "others are answered": set(statuses) == {200},
            "/health is quick": numbers["health_p99_ms"] < most_ms,
            "stalled clients are dropped": ended < 3 * idle + 5,
        },
        numbers=numbers,
    )
