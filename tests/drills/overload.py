"""One key floods the proxy: slow streams in all its places, and requests that find none. The others
must not notice, and what is over the cap is shed at once."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from devstack.proxy import Proxy
from tests.drills.load import Client, Load, Seen
from tests.drills.report import Row, counted, median_ms, p99_ms
from tests.drills.stage import Stage
from tests.upstreams import OK, Answer, Exchange, Received, Step, Upstream, head, send
from tests.wire import Wire, bearer, request

SMALL = "/api/mlflow/api/2.0/mlflow/runs/get?run_id=1"
STREAM = "/api/mlflow/api/2.0/mlflow-artifacts/artifacts/weights.bin"

#: Requests of one key that one worker forwards at once: MAX_IN_FLIGHT_PER_KEY's default.
PLACES = 64


def trickle(piece: bytes, seconds: float) -> Step:
    """A piece every so many seconds, until nobody takes it any more."""

    def step(exchange: Exchange) -> None:
        while not exchange.fake.stopping.wait(seconds):
            exchange.connection.sendall(piece)

    return step


def drill(stage: Stage, seconds: float, most_ms: float) -> Row:
    """Others before the flood, then others, the flooding key and /health in it. Held if others and
    /health are answered within `most_ms` at the 99th percentile."""
    with Upstream() as fake:
        fake.answers_by(_slow_streams)
        proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url)
        with _asking(proxy, SMALL, stage.key()) as load:
            threading.Event().wait(seconds / 3)
        before = [seen.seconds for seen in load.seen]
        with ExitStack() as ends:
            flooding, other = stage.key(), stage.key()
            _take_all_places(proxy, flooding, ends)
            over = ends.enter_context(_asking(proxy, SMALL, flooding, clients=8))
            others = ends.enter_context(_asking(proxy, SMALL, other))
            health = ends.enter_context(_asking(proxy, "/health", other))
            threading.Event().wait(seconds)
    return _row(before, over.seen, others.seen, health.seen, most_ms)


def _slow_streams(asked: Received) -> Answer:
    if b"weights" not in asked.target:
        return OK
    return Answer(send(head(200, ("Content-Length", str(10**9)))), trickle(bytes(1000), 0.05))


def _take_all_places(proxy: Proxy, key: str, ends: ExitStack) -> None:
    for _ in range(PLACES):
        wire = ends.enter_context(Wire(proxy.url, receive_buffer=4096))
        assert wire.send(request("GET", STREAM, bearer(key))).read_head()[0] == 200


@contextmanager
def _asking(proxy: Proxy, target: str, key: str, clients: int = 4) -> Iterator[Load]:
    connections = [Client(proxy.url) for _ in range(clients)]
    asked = request("GET", target, bearer(key))
    with Load(lambda n: connections[n].ask(asked).status, clients, pause=0.02) as load:
        yield load
    for connection in connections:
        connection.close()


def _row(
    before: list[float], over: list[Seen], others: list[Seen], health: list[Seen], most_ms: float
) -> Row:
    times = [seen.seconds for seen in others]
    shed = [seen.seconds for seen in over]
    healthy = [seen.seconds for seen in health]
    statuses = {seen.status for seen in (*others, *health)}
    numbers: dict[str, Any] = {
        "others_p50_ms_before": median_ms(before),
        "others_p50_ms": median_ms(times),
        "others_p99_ms": p99_ms(times),
        "health_p99_ms": p99_ms(healthy),
        "shed_p50_ms": median_ms(shed),
        "shed_p99_ms": p99_ms(shed),
        "over": counted(seen.status for seen in over),
    }
    answered = counted(seen.status for seen in others)
    return Row(
        "overload by one key",
        f"{PLACES} slow streams of one key take all its places",
        f"8 more clients of that key, 4 of another ({len(others):,} requests), 4 at /health",
        f"other key: {answered}, p50 {numbers['others_p50_ms_before']} → {numbers['others_p50_ms']}"
        f" ms, p99 {numbers['others_p99_ms']} ms; /health: p99 {numbers['health_p99_ms']} ms; "
        f"flooding key: {numbers['over']}, in p50 {numbers['shed_p50_ms']} ms",
        None,
        facts={
            "other keys are served": statuses == {200},
            "the flooding key gets 503": {seen.status for seen in over} == {503},
            "the others are quick": (
                max(numbers["others_p99_ms"], numbers["health_p99_ms"]) < most_ms
            ),
        },
        numbers=numbers,
    )
