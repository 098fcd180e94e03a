"""MLflow is slow, not dead: more writers than its database takes at once, and readers beside them.

The writers make MLflow wait for itself: a batch holds one connection to the database and needs a
second one, so a pool of 15 is used up, and nobody gets on until MLflow gives up after 30 s.
"""

import json
import threading
from typing import Any

from devstack.proxy import Proxy
from drills.load import Client, Load
from drills.report import Row, counted
from drills.stage import Stage
from tests.wire import bearer, call, request

API = "/api/mlflow/api/2.0/mlflow"
JSON = "Content-Type: application/json"

#: Outcomes of the proxy's own making: MLflow was not asked, or its answer was not awaited.
OWN = frozenset(("circuit_open", "upstream_timeout", "upstream_unreachable", "overloaded"))

READERS = 4


def drill(stage: Stage, seconds: float, writers: int = 32) -> Row:
    """Writers that log batches without a pause, and readers that look at a run. Held if the proxy
    refused nothing by itself: what was not answered with 200, MLflow itself gave up."""
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
    refused = sum(status != 200 for status in (*writing.statuses, *reading.statuses))
    longest = max(seen.seconds for seen in (*writing.seen, *reading.seen))
    numbers: dict[str, Any] = {
        "writers": counted(writing.statuses),
        "readers": counted(reading.statuses),
        "given_up_by_mlflow": given_up,
        "refused_by_the_proxy": len(own),
        "longest_s": round(longest, 1),
    }
    return Row(
        "slow, not dead",
        "MLflow's database is overloaded",
        f"{writers} writers, {READERS} readers, {seconds:g} s: {len(writing.seen)} batches",
        f"writers: {numbers['writers']}; readers: {numbers['readers']}; longest "
        f"{numbers['longest_s']} s; given up by MLflow (no database connection in 30 s): "
        f"{given_up}; refused by the proxy itself: {len(own)}",
        None,
        held=not own and 200 in reading.statuses and refused == given_up,
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
