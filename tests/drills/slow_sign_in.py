"""Sign-in forms that never end: nobody's key is needed, a byte comes now and then, and there are as
many as the worker holds connections, again and again. Health checks and other people's sign-ins go
on."""

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from devstack.proxy import Proxy
from tests.drills.load import Load, Seen
from tests.drills.report import Row, counted, median_ms, p99_ms
from tests.drills.stage import Stage
from tests.upstreams import eventually
from tests.wire import call, request

SIGN_IN = "/mlflow/-/sign-in"
FORM = ("Content-Type: application/x-www-form-urlencoded", "Sec-Fetch-Site: same-origin")


def drill(stage: Stage, connections: int, asked: int, most_ms: float, limit: int) -> Iterator[Row]:
    """`connections` is MAX_CONNECTIONS and how many slow forms there are; beside them `asked`
    requests of /health and as many sign-ins, each on a new connection. A form has `limit` seconds.
    """
    proxy = stage.proxy(MAX_CONNECTIONS=connections, CLIENT_REQUEST_TIMEOUT=limit, KEEPALIVE=60)
    key = f"key={stage.key()}".encode()
    with (
        _SlowForms(proxy, connections) as forms,
        Load(lambda _: call(proxy.url, "GET", "/health").status, 1, pause=0.01) as health,
        Load(lambda _: _sign_in(proxy, key), 1, pause=0.01) as people,
    ):
        eventually(
            lambda: (
                min(len(health.seen), len(people.seen)) >= asked and forms.replaced >= connections
            ),
            "the requests, and the end of the first forms",
            timeout=120,
        )
    yield _row(connections, health.seen, people.seen, forms.answers, most_ms)


def _sign_in(proxy: Proxy, key: bytes) -> int:
    return call(proxy.url, "POST", SIGN_IN, *FORM, body=key).status


class _SlowForms:
    """So many forms at every time, each of which gets a byte a second; one that is ended is begun
    anew."""

    def __init__(self, proxy: Proxy, number: int) -> None:
        self._address = urlsplit(proxy.url)
        self._number = number
        self._sockets: list[socket.socket] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers: Counter[int] = Counter()
        self.replaced = 0

    def __enter__(self) -> Self:
        self._begin()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        for one in self._sockets:
            one.close()

    def _run(self) -> None:
        while not self._ended.wait(1):
            self._sockets = [one for one in self._sockets if self._goes_on(one)]
            self._begin()

    def _begin(self) -> None:
        while len(self._sockets) < self._number:
            one = socket.create_connection((self._address.hostname, self._address.port), 20)
            one.sendall(request("POST", SIGN_IN, *FORM, "Content-Length: 32000", body=b"k"))
            self._sockets.append(one)

    def _goes_on(self, one: socket.socket) -> bool:
        """Sends one byte more; False where an answer came, or the end."""
        one.setblocking(False)
        try:
            answer = one.recv(4096)
        except BlockingIOError:
            one.setblocking(True)
            one.sendall(b"k")
            return True
        except OSError:
            answer = b""
        self.answers[int(answer.split(b" ")[1]) if answer else 0] += 1
        self.replaced += 1
        one.close()
        return False


def _row(
    connections: int, health: list[Seen], people: list[Seen], answers: Counter[int], most_ms: float
) -> Row:
    times = [[seen.seconds for seen in of] for of in (health, people)]
    numbers = {
        "health_p50_ms": median_ms(times[0]),
        "health_p99_ms": p99_ms(times[0]),
        "sign_in_p50_ms": median_ms(times[1]),
        "sign_in_p99_ms": p99_ms(times[1]),
        "forms_ended": sum(answers.values()),
    }
    statuses = [seen.status for seen in health], [seen.status for seen in people]
    return Row(
        "slow sign-in",
        f"{connections} forms without end, which are all that the worker holds",
        f"one client at /health, one person who signs in: {len(health) + len(people):,}",
        f"/health {counted(statuses[0])}, p50 {numbers['health_p50_ms']} ms, p99 "
        f"{numbers['health_p99_ms']} ms; signing in {counted(statuses[1])}, p99 "
        f"{numbers['sign_in_p99_ms']} ms; the slow ones {counted(answers.elements())}",
        None,
        facts={
            "/health is answered": set(statuses[0]) == {200},
            "people sign in": set(statuses[1]) == {303},
            "/health is quick": numbers["health_p99_ms"] < most_ms,
        },
        numbers=numbers,
    )
