"""The auth service is down, slow, throttling or lying: known keys go on, unknown ones are told to
come back, nobody is told that a key is bad, and the service is spared until it is well again."""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise

from devstack.proxy import Proxy
from tests.drills.counts import TARGET
from tests.drills.load import Client, Load
from tests.drills.report import Row, counted
from tests.drills.stage import Stage
from tests.fault_proxy import FaultProxy
from tests.upstreams import Answer, Exchange, Received, Step, Upstream, eventually, send, sized
from tests.wire import bearer, request

CREATE = "/api/mlflow/api/2.0/mlflow/runs/create"

#: The proxy's settings, in seconds; short, so that the drill is.
TTL, RETRY, TIMEOUT = 1.0, 1.0, 0.5

#: Known keys, and clients of each.
KNOWN, CLIENTS = 2, 8

#: How much of their time the clients with known keys may wait for the auth service, once it is
#: known to be away: one for each key asks again, and those wait who come in the same moment.
MOST_WAITING = 0.5


class AuthService:
    """A fake auth service behind a proxy that can be broken. It says yes to every key, or what
    `answer` says, and writes down when it was asked about which. `limits` are by key."""

    def __init__(self, fake: Upstream, way: FaultProxy) -> None:
        self.way = way
        self.url = way.url
        self.asked: dict[str, list[float]] = defaultdict(list)
        self.limits: dict[str, int] = {}
        self.answer: Callable[[Received], Answer] = self.yes
        fake.answers_by(self._script)

    def yes(self, received: Received) -> Answer:
        """The key is valid, and may do everything."""
        key = _key(received)
        answer = {"user_id": "ann", "key_id": key_id_of(key), "scopes": ["admin"]}
        limit = {"rate_limit_per_hour": self.limits.get(key)}
        return Answer(send(sized(json.dumps(answer | limit).encode())))

    def _script(self, received: Received) -> Answer:
        if received.one("Authorization"):  # else it asks whether anybody is there
            self.asked[_key(received)].append(time.monotonic())
        return self.answer(received)

    def shortest_gap(self, since: float) -> float:
        """Seconds between two questions about one key; infinite where there were no two."""
        times = [[at for at in asked if at >= since] for asked in self.asked.values()]
        return min((b - a for asked in times for a, b in pairwise(asked)), default=float("inf"))


def key_id_of(key: str) -> str:
    """The id that the service gives a key."""
    return key.replace("hk_test_", "key_")


def _key(received: Received) -> str:
    return str(received.one("Authorization")).removeprefix("Bearer ")


def says(body: bytes, status: int = 200, *fields: tuple[str, str]) -> Callable[[Received], Answer]:
    """The same answer to everything."""
    return lambda received: Answer(send(sized(body, status, *fields)))


def slowly(received: Received) -> Answer:
    """A yes, letter by letter: no single wait is long, all together are."""
    return Answer(_trickle(b"HTTP/1.1 200 OK\r\nX-Filler: " + b"x" * 1000))


def _trickle(data: bytes) -> Step:
    def step(exchange: Exchange) -> None:
        for letter in data:
            if exchange.fake.stopping.wait(0.1):
                return
            exchange.connection.sendall(bytes([letter]))

    return step


@dataclass(frozen=True)
class Fault:
    """What the service does; `counted`: whether it hears how often it is asked; `opens`: whether
    it opens the circuit. What it says of one key does not."""

    name: str
    begin: Callable[[AuthService], object]
    counted: bool = True
    opens: bool = True


def _answers(answer: Callable[[Received], Answer]) -> Callable[[AuthService], None]:
    return lambda service: setattr(service, "answer", answer)


FAULTS = (
    Fault("auth service refuses connections", lambda s: s.way.refuse(), counted=False),
    Fault("auth service silent", lambda s: s.way.stall(), counted=False),
    Fault("auth service slower than AUTH_TIMEOUT", _answers(slowly)),
    Fault(
        "auth service answers wrong types",
        _answers(says(b'{"user_id": {}, "key_id": [1], "scopes": "admin", "valid": "yes"}')),
        opens=False,
    ),
)

#: They differ from those in what the service does, not in what follows.
MORE_FAULTS = (
    Fault("auth service resets", lambda s: s.way.cut(0)),
    Fault("auth service answers 503", _answers(says(b"{}", 503))),
    Fault("auth service answers HTML", _answers(says(b"<html>Welcome</html>"))),
)


@dataclass
class Stranger:
    """A client with a key that nobody has seen before the outage."""

    client: Client
    key: str
    creates: bool
    answers: list[tuple[int, str, str]] = field(default_factory=list)

    def ask(self) -> int:
        """Its status; code and Retry-After are written down too."""
        asked = request("GET", TARGET, bearer(self.key))
        if self.creates:
            asked = request("POST", CREATE, bearer(self.key), body=b"{}")
        answer = self.client.ask(asked)
        code = answer.json.get("error_code", "") if answer.status >= 400 else ""
        self.answers.append((answer.status, code, answer.one("Retry-After") or ""))
        return answer.status


def drill(stage: Stage) -> Iterator[Row]:
    """Every fault, each on a proxy of its own."""
    for fault in FAULTS + MORE_FAULTS:
        yield outage(stage, fault)
        stage.clear()


def outage(stage: Stage, fault: Fault, answers: int = 300) -> Row:
    """Two known keys and two unknown ones under load, until so many answers came in the outage
    after the known keys' own life was over."""
    with ExitStack() as ends:
        mlflow, fake = ends.enter_context(Upstream()), ends.enter_context(Upstream())
        service = AuthService(fake, ends.enter_context(FaultProxy(fake.port)))
        proxy = start(stage, service, mlflow)
        known = [f"hk_test_known{number}_{proxy.port}" for number in range(KNOWN)] * CLIENTS
        clients = [Client(proxy.url) for _ in range(len(known) + 2)]
        for client in clients:
            ends.callback(client.close)
        reading = Stranger(clients[-1], f"hk_test_reads_{proxy.port}", creates=False)
        creating = Stranger(clients[-2], f"hk_test_creates_{proxy.port}", creates=True)
        asked = [request("GET", TARGET, bearer(key)) for key in known]
        load = ends.enter_context(
            Load(lambda number: clients[number].ask(asked[number]).status, len(known), pause=0.04)
        )
        eventually(lambda: load.statuses.count(200) >= 100, "answers")
        began = time.monotonic()
        fault.begin(service)
        time.sleep(TTL)
        with Load(lambda number: (reading, creating)[number].ask(), 2, pause=0.05) as strangers:
            over = len(load.seen) + answers
            eventually(lambda: len(load.seen) >= over, "answers", 60)
            eventually(lambda: time.monotonic() > began + TTL + 4 * RETRY, "some probes")
            ended = time.monotonic()
            gap, settled = service.shortest_gap(began), began + TTL + 2 * TIMEOUT
            waited = sum(one.seconds for one in load.since(settled) if one.seconds > 0.8 * TIMEOUT)
            share = waited / ((time.monotonic() - settled) * len(known))
            told = [list(stranger.answers) for stranger in (reading, creating)]
            service.answer = service.yes
            service.way.heal()
            eventually(lambda: strangers.statuses[-1] == 200, "recovery")
            recovery = time.monotonic() - ended
        threading.Event().wait(TTL + RETRY)  # the known keys are asked about again
        return row(proxy, fault, load, share, told, gap, recovery)


def start(stage: Stage, service: AuthService, mlflow: Upstream, **settings: object) -> Proxy:
    """A proxy of two workers with short times, in front of these."""
    quick = {
        "HOKUSAI_AUTH_SERVICE_URL": service.url,
        "MLFLOW_SERVER_URL": mlflow.url,
        "WEB_CONCURRENCY": 2,
        "AUTH_CACHE_TTL": TTL,
        "AUTH_STALE_TTL": 60,
        "AUTH_RETRY_INTERVAL": RETRY,
        "AUTH_TIMEOUT": TIMEOUT,
    }
    return stage.proxy(**quick | settings)


def row(
    proxy: Proxy,
    fault: Fault,
    load: Load,
    share: float,
    told: list[list[tuple[int, str, str]]],
    gap: float,
    recovery: float,
) -> Row:
    """The row of one fault."""
    reads, creates = ({(status, code) for status, code, _ in answers} for answers in told)
    waits = {int(wait) for answers in told for _, _, wait in answers}
    changes = circuit_changes(proxy)
    facts = {
        "known keys are served": set(load.statuses) == {200},
        "known keys hardly wait": share < MOST_WAITING,
        "unknown keys get 503, and 429 where they create": (
            reads == {(503, "TEMPORARILY_UNAVAILABLE")}
            and creates == {(429, "TEMPORARILY_UNAVAILABLE")}
        ),
        "Retry-After is given": min(waits) >= 1,
        "one question a key in AUTH_RETRY_INTERVAL": gap >= RETRY or not fault.counted,
        "the circuit opens where it should, and closes": (
            changes[-1:] == (["closed"] if fault.opens else [])
        ),
    }
    probes = "not seen" if gap == float("inf") else f"{gap:.1f} s apart or more"
    return Row(
        "auth_outage",
        fault.name,
        f"{KNOWN} known keys, {KNOWN * CLIENTS} clients, {len(load.seen):,} requests; 2 unknown",
        f"known: {counted(load.statuses)}, waiting {share:.0%} of the time; "
        f"unknown: {counted(status for status, _, _ in told[0])}, "
        f"creating: {counted(status for status, _, _ in told[1])}; probes of a key {probes}",
        recovery,
        facts,
        {"reads": sorted(reads), "creates": sorted(creates), "changes": changes, "gap": gap},
    )


def circuit_changes(proxy: Proxy) -> list[str]:
    """What the log says of the circuits to the auth service, half-open left out."""
    prefix = "circuit to auth_service is now "
    said = [line["message"] for line in proxy.log_lines() if line["message"].startswith(prefix)]
    return [state for state in (line.removeprefix(prefix) for line in said) if state != "half-open"]
