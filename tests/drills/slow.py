"""MLflow is slow, not dead: more writers than its database takes at once, and readers beside them.

A batch holds one database connection and needs a second one. 32 writers use up MLflow's pool of 15,
and no request gets a connection until MLflow's own time-out of 30 s. From then on the proxy bounds
concurrent writes (app/upstream/write_gate.py).
"""

import json
import threading
from typing import Any

from devstack.proxy import Proxy
from tests.drills.load import Client, Load
from tests.drills.report import Row, counted, median_ms
from tests.drills.stage import Stage
from tests.wire import bearer, call, request

API = "/api/mlflow/api/2.0/mlflow"
JSON = "Content-Type: application/json"

#: Outcomes of the proxy's own making: MLflow was not asked, or its answer was not awaited.
OWN = frozenset(("circuit_open", "upstream_timeout", "upstream_unreachable", "overloaded"))

READERS = 4


def drill(stage: Stage, seconds: float, writers: int = 32) -> Row:
    """Writers that log batches without a pause, and readers that look at a run. Held if every
    reader got 200 every time, and the proxy refused no write by itself."""
    proxy = stage.proxy(MLFLOW_SERVER_URL=stage.mlflow().url)
    key = stage.key()
    runs = [_new_run(proxy, key) for _ in range(writers)]
    write = [_request(key, "POST", "runs/log-batch", _batch(run)) for run in runs]
    read = _request(key, "GET", f"runs/get?run_id={runs[0]}")
    clients = [Client(proxy.url, timeout=130) for _ in range(writers + READERS)]
    with (
        Load(lambda n: clients[n].ask(write[n]).status, writers) as writing,
        Load(lambda n: clients[writers + n].ask(read).status, READERS, 0.2) as reading,
    ):
        threading.Event().wait(seconds)
    for client in clients:
        client.close()
    outcomes = [line["outcome"] for line in proxy.log_lines() if "outcome" in line]
    own = [outcome for outcome in outcomes if outcome in OWN]
    given_up = outcomes.count("upstream_overloaded")
    given_up_writes = sum(status != 200 for status in writing.statuses)
    longest = max(seen.seconds for seen in (*writing.seen, *reading.seen))
    quick = median_ms([seen.seconds for seen in reading.seen])
    numbers: dict[str, Any] = {
        "writers": counted(writing.statuses),
        "readers": counted(reading.statuses),
        "given_up_by_mlflow": given_up,
        "refused_by_the_proxy": len(own),
        "longest_s": round(longest, 1),
        "readers_p50_ms": quick,
    }
    return Row(
        "slow, not dead",
        "MLflow's database is overloaded",
        f"{writers} writers, {READERS} readers, {seconds:g} s: {len(writing.seen)} batches",
        f"writers: {numbers['writers']}; readers: {numbers['readers']}, p50 "
        f"{quick} ms; longest {numbers['longest_s']} s; given up by MLflow (no database "
        f"connection in 30 s): {given_up}; refused by the proxy itself: {len(own)}",
        None,
        facts={
            "the proxy refuses nobody": not own,
            "readers are answered": set(reading.statuses) == {200},
            "writers fail only where MLflow gave up": given_up_writes <= given_up,
        },
        numbers=numbers,
    )


def _new_run(proxy: Proxy, key: str) -> str:
    made = call(
        proxy.url, "POST", f"{API}/runs/create", bearer(key), JSON, body=b'{"experiment_id": "0"}'
    )
    return str(made.json["run"]["info"]["run_id"])


def _request(key: str, method: str, path: str, body: bytes = b"") -> bytes:
    return request(method, f"{API}/{path}", bearer(key), JSON, body=body)


def _batch(run: str) -> bytes:
    metrics = [{"key": f"m{n}", "value": 1.0, "timestamp": 1, "step": n} for n in range(50)]
    named = [{"key": "name", "value": "1"}]
    return json.dumps({"run_id": run, "metrics": metrics, "params": named, "tags": named}).encode()
