"""Fills an MLflow with things to look at, as a user of the SDK would. Prints what it made, as JSON.

A program of its own, because the SDK keeps where it traces to for the whole process.
"""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

RUNS = 100


def main(tracking_uri: str) -> None:
    """One experiment, its runs, the last one with an artifact that is a model's version; a trace
    and a prompt."""
    os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"
    import mlflow

    mlflow.set_tracking_uri(tracking_uri)
    client = mlflow.MlflowClient()
    name = f"waves-{time.monotonic_ns()}"
    experiment_id = mlflow.set_experiment(name).experiment_id
    now = int(time.time() * 1000)

    def a_run(number: int) -> Any:
        began = now - 1000 * (RUNS - number)
        run = client.create_run(experiment_id, start_time=began, run_name=f"view-{number:02}")
        steps = [mlflow.entities.Metric("loss", 1 / (n + 1), began, n) for n in range(5)]
        client.log_batch(run.info.run_id, metrics=steps)
        return run.info

    with ThreadPoolExecutor(4) as at_once:
        last = [*at_once.map(a_run, range(RUNS))][-1]
    client.log_text(last.run_id, "thirty-six views of a mountain", "notes.txt")
    model, prompt = f"kanagawa-{experiment_id}", f"haiku-{experiment_id}"
    client.create_registered_model(model)
    client.create_model_version(model, last.artifact_uri, run_id=last.run_id)
    mlflow.genai.register_prompt(prompt, "Write a haiku about {{subject}}.")
    with mlflow.start_span("carve") as span:
        span.set_inputs({"block": "cherry wood"})
        span.set_outputs({"prints": 36})
    made = {
        "experiment": name,
        "experiment_id": experiment_id,
        "run_id": last.run_id,
        "run_name": last.run_name,
        "model": model,
        "prompt": prompt,
        "trace_id": span.trace_id,
    }
    print(json.dumps(made))


if __name__ == "__main__":
    main(sys.argv[1])
