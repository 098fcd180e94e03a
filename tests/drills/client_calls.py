"""What one version of MLflow's client does in a drill. Runs in that client's environment.

    MLFLOW_TRACKING_URI=… python client_calls.py EXPERIMENT_ID RUN_ID

Each line on stdin is a round, `NAME CALLS KEY`: each kind of call is made so many times, the kinds
at the same time, and one line of JSON says how each call ended. "ready" comes first.
"""

import json
import os
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import mlflow


def main() -> None:
    """Rounds, until stdin ends."""
    experiment, run = sys.argv[1:]
    print("ready", mlflow.__version__, flush=True)
    for line in sys.stdin:
        name, calls, key = line.split()
        os.environ["MLFLOW_TRACKING_TOKEN"] = key
        print(json.dumps(one_round(name, int(calls), experiment, run)), flush=True)


def one_round(name: str, calls: int, experiment: str, run: str) -> list[dict[str, object]]:
    """Every kind of call, `calls` times."""
    client = mlflow.MlflowClient()

    def create(tag: str) -> str:
        return str(client.create_run(experiment, tags={"drill": tag}).info.run_id)

    def log_metric(tag: str) -> str:
        client.log_metric(run, "drill", time.time())
        return run

    def search(tag: str) -> str:
        return str(len(client.search_runs([experiment], max_results=1)))

    def get(tag: str) -> str:
        return str(client.get_run(run).info.run_id)

    def repeated(call: Callable[[str], str]) -> list[dict[str, object]]:
        return [one_call(name, call) for _ in range(calls)]

    kinds = (create, log_metric, search, get)
    with ThreadPoolExecutor(len(kinds)) as threads:
        return [outcome for done in threads.map(repeated, kinds) for outcome in done]


def one_call(name: str, call: Callable[[str], str]) -> dict[str, object]:
    """How one call ended: what it returned, or the error; after how many seconds."""
    tag, began = f"{name}-{uuid.uuid4().hex}", time.monotonic()
    outcome: dict[str, object] = {"kind": call.__name__, "tag": tag, "result": None, "error": None}
    try:
        outcome["result"] = call(tag)
    except Exception as why:
        outcome["error"] = f"{type(why).__name__}: {why}"[:300]
    return outcome | {"seconds": round(time.monotonic() - began, 3)}


if __name__ == "__main__":
    main()
