"""A training loop with MLflow's SDK: create a run, log one metric so many times, end it.

    python -m benchmarks.sdk_loop 200

Where to, and with which credentials, is in the SDK's own variables. Prints the seconds.
"""

import sys
import time

import mlflow


def main(steps: int) -> None:
    """One loop; what the SDK loads and connects at its first call is done before."""
    mlflow.set_experiment("sdk loop")
    began = time.monotonic()
    with mlflow.start_run():
        for step in range(steps):
            mlflow.log_metric("loss", 1 / (1 + step), step=step)
    print(time.monotonic() - began)


if __name__ == "__main__":
    main(int(sys.argv[1]))
