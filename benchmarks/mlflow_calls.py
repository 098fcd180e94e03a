"""Part a: calls to a real, stock `mlflow server`: directly, through this proxy, through its peers.

All of them share the cores, as they would on one machine. basic-auth is a server of its own.
"""

import base64
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from benchmarks import wrk
from benchmarks.contestants import DIRECT, PROXY, Contestant
from benchmarks.mlflow_ways import API, RUNS, Ways, prepare, ways_to_mlflow
from benchmarks.rounds import Bench

TITLE = "a real MLflow"

#: Of the SDK's loop.
SDK_LOOP = "SDK loop"

#: How much longer one is measured, and then only once, that while it settles does not answer each
#: connection.
SLOW = 3.0

#: What log-batch writes at once.
METRICS = 10


@dataclass(frozen=True)
class Call:
    """A call: MLflow's path, and the body for an experiment and a run."""

    path: str
    body: Callable[[str, str], str]

    @property
    def name(self) -> str:
        """Its name in the tables."""
        return self.path.partition("mlflow/")[2]


def _log_batch(experiment: str, run: str) -> str:
    rest = '"value": 0.25, "timestamp": @, "step": @'
    metrics = ", ".join(f'{{"key": "metric-{n}", {rest}}}' for n in range(METRICS))
    params = '[{"key": "rate", "value": "0.1"}, {"key": "depth", "value": "7"}]'
    tags = '[{"key": "host", "value": "bench"}]'
    return f'{{"run_id": "{run}", "metrics": [{metrics}], "params": {params}, "tags": {tags}}}'


#: Reads first: after many writes MLflow is slower. An @ is another number in each request: MLflow
#: keeps a metric's step once.
CALLS = (
    Call(f"{API}/experiments/search", lambda experiment, run: '{"max_results": 100}'),
    Call(
        f"{API}/runs/search",
        lambda experiment, run: f'{{"experiment_ids": ["{experiment}"], "max_results": {RUNS}}}',
    ),
    Call(
        f"{API}/runs/log-metric",
        lambda experiment, run: (
            f'{{"run_id": "{run}", "key": "loss", "value": 0.25, "timestamp": @, "step": @}}'
        ),
    ),
    Call(f"{API}/runs/log-batch", _log_batch),
)


def case_of(call: Call, connections: int) -> str:
    """A case's name."""
    return f"{call.name} × {connections}"


def measure(bench: Bench) -> None:
    """All calls at all numbers of connections, then the SDK's loop."""
    ways = ways_to_mlflow(bench)
    bench.progress.at("making experiments and runs")
    prepared = {each.name: prepare(each) for each in ways.contestants}
    ways.look_at_rest()
    for call in CALLS:
        loads = {each.name: _load(each, call, *prepared[each.name]) for each in ways.contestants}
        for connections in bench.effort.connections:
            _alternate(bench, call, connections, ways, loads)
    _sdk_loops(bench, ways.contestants)


def _alternate(
    bench: Bench,
    call: Call,
    connections: int,
    ways: Ways,
    loads: Mapping[str, Callable[[int], wrk.Load]],
) -> None:
    effort, case = bench.effort, case_of(call, connections)
    slow: set[str] = set()
    ways.wait_until_well()

    def one(contestant: Contestant) -> Mapping[str, float]:
        name, load = contestant.name, loads[contestant.name](connections)
        if name in slow:
            return {}
        if not bench.results.values(case, name, "rps"):
            settled = wrk.run(load, effort.settle)
            slow.update([name] if settled.requests < connections else [])
        ways.wait_for_rest()
        outcome = wrk.run(load, effort.seconds * (SLOW if name in slow else 1.0))
        ways.wait_for_rest()
        return outcome.metrics()

    bench.alternate(case, ways.contestants, effort.rounds, one)
    bench.report(case, "p50_ms", "ms")


def _load(
    contestant: Contestant, call: Call, experiment: str, run: str
) -> Callable[[int], wrk.Load]:
    fields = (*contestant.fields, "Content-Type: application/json")
    url, body = contestant.url + call.path, call.body(experiment, run)
    return lambda connections: wrk.Load(url, connections, "POST", body, fields)


# --- the SDK's loop ------------------------------------------------------------------------------


def _sdk_loops(bench: Bench, contestants: list[Contestant]) -> None:
    """All in turn; then those that the goal compares, more often: a peer takes half a minute."""
    few, many = bench.effort.peer_rounds, bench.effort.rounds
    compared = [each for each in contestants if each.name in (DIRECT, PROXY)]
    case, loop = SDK_LOOP, _sdk_loop(bench.effort.steps)
    bench.alternate(case, contestants, few, loop)
    bench.alternate(case, compared, many - few, loop)
    bench.report(case, "seconds", "s")


def _sdk_loop(steps: int) -> Callable[[Contestant], Mapping[str, float]]:
    def one(contestant: Contestant) -> Mapping[str, float]:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.sdk_loop", str(steps)],
            env=os.environ | sdk_settings(contestant.url, contestant.fields),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the SDK's loop failed for {contestant.name}:\n{done.stderr}")
        return {"seconds": float(done.stdout.split()[-1])}

    return one


def sdk_settings(url: str, fields: Iterable[str]) -> dict[str, str]:
    """The SDK's environment variables for a way, with the credentials of its header lines."""
    settings = {"MLFLOW_TRACKING_URI": url, "MLFLOW_DISABLE_TELEMETRY": "true"}
    settings["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    for field in fields:
        kind, _, credential = field.removeprefix("Authorization: ").partition(" ")
        if kind == "Bearer":
            settings["MLFLOW_TRACKING_TOKEN"] = credential
        elif kind == "Basic":
            user, _, password = base64.b64decode(credential).decode().partition(":")
            settings |= {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    return settings
