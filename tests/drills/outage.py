"""MLflow goes away under load and comes back: what clients see before the circuit opens, while it
is open, and how soon they are served again."""

import threading
import time
from collections.abc import Iterator
from typing import Any

from tests.drills.load import Client, Load, in_parallel, recovery
from tests.drills.report import Row, counted, median_ms, p99_ms
from tests.drills.stage import Stage
from tests.fault_proxy import FaultProxy
from tests.upstreams import Answer, Upstream, reset
from tests.wire import bearer, call, request

SEARCH = "/api/mlflow/api/2.0/mlflow/experiments/search"
CREATE = "/api/mlflow/api/2.0/mlflow/runs/create"

#: Seconds, for each of these drills.
RESET, READ_TIMEOUT = 2, 1

FAULTS = {"refuse": "MLflow refuses connections", "stall": "MLflow freezes, no byte passes"}

#: app/upstream/retries.py: retries that are granted out of the blue, and per request.
BUDGET, PER_REQUEST = 10, 0.1


def drill(stage: Stage, seconds: float, clients: int = 8) -> Iterator[Row]:
    """Each kind of outage, for some seconds; then the count of connections in one."""
    for fault in FAULTS:
        yield outage(stage, fault, seconds, clients)
    yield traffic(stage, 1000)
    yield restart(stage, 20)


def outage(stage: Stage, fault: str, seconds: float, clients: int) -> Row:
    """Reads and creates, before, in and after an outage."""
    with Upstream() as fake, FaultProxy(fake.port) as faults:
        proxy = stage.proxy(
            MLFLOW_SERVER_URL=faults.url,
            MLFLOW_READ_TIMEOUT=READ_TIMEOUT,
            MLFLOW_ARTIFACT_READ_TIMEOUT=READ_TIMEOUT,
            HEALTH_TIMEOUT=0.5,
            MLFLOW_RETRY_DEADLINE=2,
            CIRCUIT_RESET_TIMEOUT=RESET,
        )
        key = stage.key()
        asked = [
            request("GET", SEARCH, bearer(key)),
            request("POST", CREATE, bearer(key), body=b"{}"),
        ]
        connections = [Client(proxy.url) for _ in range(clients)]
        with Load(lambda n: connections[n].ask(asked[n % 2]).status, clients, 0.01) as load:
            threading.Event().wait(2)
            began = time.monotonic()
            getattr(faults, fault)()
            threading.Event().wait(seconds)
            faults.heal()
            healed = time.monotonic()
            threading.Event().wait(RESET + 3)
        for connection in connections:
            connection.close()
    before = [seen.seconds for seen in load.seen if seen.began < began - 0.5]
    # A create gets 429 also where MLflow could not be reached.
    opened = min((s.began for s in load.seen if s.status == 503), default=float("inf"))
    shed = [s for s in load.since(opened) if s.status in (429, 503)]
    while_open = [s.seconds for s in shed if s.began < healed]
    failed = [s for s in load.since(began - READ_TIMEOUT) if s.status in (502, 504)]
    back = recovery(load.since(healed), healed)
    later = [seen.status for seen in load.since(healed + back)]
    numbers: dict[str, Any] = {
        "closed_p50_ms": median_ms(before),
        "open_p50_ms": median_ms(while_open),
        "open_p99_ms": p99_ms(while_open),
        "opened_s": round(opened - began, 2),
        "failed": len(failed),
        "in_outage": counted(s.status for s in load.since(began) if s.began < healed),
        "after_recovery": counted(later),
    }
    return Row(
        "MLflow outage",
        f"{FAULTS[fault]}, {seconds:g} s",
        f"{clients} clients, half reads, half creates: {len(load.seen):,} requests",
        f"in the outage {numbers['in_outage']}; circuit open after {numbers['opened_s']} s, then "
        f"answered in p50 {numbers['open_p50_ms']} ms (closed: {numbers['closed_p50_ms']} ms); "
        f"after recovery {numbers['after_recovery']}",
        back,
        facts={
            "the circuit opens in 5 s": numbers["opened_s"] < 5,
            "it closes soon after": back < RESET + 1,
            "then all are answered": set(later) == {200},
        },
        numbers=numbers,
    )


def traffic(stage: Stage, requests: int) -> Row:
    """How much more MLflow is asked because of retries, while each connection is reset."""
    with Upstream() as fake:
        fake.answers(Answer(reset()))
        proxy = stage.proxy(MLFLOW_SERVER_URL=fake.url)
        key = stage.key()
        statuses = in_parallel(
            lambda _: call(proxy.url, "GET", SEARCH, bearer(key)).status, requests, 8
        )
        tried = fake.connections
    return Row(
        "retry budget",
        "MLflow resets each connection",
        f"{requests:,} GETs, 8 at a time",
        f"{counted(statuses)}; {tried:,} connections to MLflow",
        None,
        facts={
            "retries are within the budget": (
                requests < tried <= requests * (1 + PER_REQUEST) + BUDGET
            )
        },
        numbers={"connections": tried},
    )


def restart(stage: Stage, posts: int) -> Row:
    """POSTs that come while MLflow is being restarted, one restart for each."""
    with Upstream() as fake, FaultProxy(fake.port) as faults:
        proxy = stage.proxy(MLFLOW_SERVER_URL=faults.url)
        key, seen = stage.key(), []
        for _ in range(posts):
            in_parallel(lambda _: call(proxy.url, "GET", SEARCH, bearer(key)).status, 100, 4)
            fake.forget()
            faults.refuse()
            healing = threading.Timer(1.0, faults.heal)
            healing.start()
            began = time.monotonic()
            status = call(proxy.url, "POST", CREATE, bearer(key), body=bytes(60_000)).status
            seen.append((status, len(fake.requests), time.monotonic() - began - 1.0))
            healing.join()
    waits = [late for _, _, late in seen]
    arrived = [times for _, times, _ in seen]
    return Row(
        "restart of MLflow",
        "MLflow refuses connections for 1 s",
        f"{posts} POSTs of 60 kB, one in each restart",
        f"{counted(status for status, _, _ in seen)}; each arrived "
        f"{'once' if set(arrived) == {1} else arrived}",
        max(waits),
        facts={
            "all are answered": {status for status, _, _ in seen} == {200},
            "each arrives once": set(arrived) == {1},
        },
        numbers={"median_wait_s": round(median_ms(waits) / 1000, 2)},
    )
