"""Part a: calls to a real, stock `mlflow server`: directly, through this proxy, through its peers.

All of them share the cores, as they would on one machine. basic-auth is a server of its own.
"""

import base64
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import requests

from benchmarks import wrk
from benchmarks.bench import Bench, say
from benchmarks.contestants import (
    BASIC_AUTH,
    DIRECT,
    PEERS,
    PROXY,
    Contest,
    Contestant,
    Ways,
    measured_in,
)
from benchmarks.machine import Description, core_count
from benchmarks.processes import cores_used, family, wait_until_idle
from benchmarks.results import Goal, Results, table
from devstack.mlflow import BasicAuthMLflow, MLflow

TITLE = "a real MLflow"

API = "/api/2.0/mlflow"
SDK_LOOP = "SDK loop"

#: A training loop with MLflow's SDK that prints its seconds. What the SDK loads and connects at its
#: first call is done before.
PROGRAM = """
import sys, time, mlflow
mlflow.set_experiment("sdk loop")
began = time.monotonic()
with mlflow.start_run():
    for step in range(int(sys.argv[1])):
        mlflow.log_metric("loss", 1 / (1 + step), step=step)
print(time.monotonic() - began)
"""
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

#: Contestants that do not answer each connection in the first run are measured once, for longer.
SLOW = 3

#: Seconds for which MLflow may give no response after many writes at once.
UNWELL = 120.0

#: Runs that runs/search finds.
RUNS = 10

POINT = '"value": 0.25, "timestamp": @, "step": @'
POINTS = ", ".join(f'{{"key": "metric-{number}", {POINT}}}' for number in range(10))

#: Path → body. An @ becomes another number in each request: MLflow keeps a metric's step once.
#: Reads first: after many writes MLflow is slower.
CALLS = {
    "experiments/search": '{"max_results": 100}',
    "runs/search": f'{{"experiment_ids": ["@EXPERIMENT"], "max_results": {RUNS}}}',
    "runs/log-metric": f'{{"run_id": "@RUN", "key": "loss", {POINT}}}',
    "runs/log-batch": f'{{"run_id": "@RUN", "metrics": [{POINTS}],'
    ' "params": [{"key": "rate", "value": "0.1"}, {"key": "depth", "value": "7"}],'
    ' "tags": [{"key": "host", "value": "bench"}]}',
}


def measure(bench: Bench) -> None:
    """All calls at all numbers of connections, then the SDK's loop."""
    ways, pids = _start(bench)
    prepared = {name: _prepare(way) for name, way in ways.items()}
    wait_until_idle(pids, cores=0.6, timeout=30.0)
    # MLflow polls all the time: at rest it uses hardly more than without requests.
    resting = cores_used(pids, 2.0) + 0.4
    for call, connections in product(CALLS, bench.effort.connections):
        for way in ways.values():
            _wait_until_well(way)
        loads = {name: _load(way, call, connections, prepared[name]) for name, way in ways.items()}
        one = _one(loads, bench.effort.seconds, partial(wait_until_idle, pids, resting, 10.0))
        case = f"{call} × {connections}"
        bench.alternate(case, list(ways), bench.effort.rounds, "p50_ms", one)
    _sdk_loops(bench, ways)


def _start(bench: Bench) -> tuple[Ways, list[int]]:
    """(all contestants, the processes of all servers)."""
    say("starting MLflow as users run it; it takes half a minute")
    mlflow = MLflow(bench.folder / "mlflow", options=(), settings={})
    basic = BasicAuthMLflow(bench.folder / "basic")
    bench.running.start(mlflow, basic)
    ways = Contest(bench).ways(mlflow.url, (DIRECT, PROXY, *PEERS), workers=core_count())
    ways[BASIC_AUTH] = _admin(basic)
    proxies = [pid for way in ways.values() for pid in way.pids()]
    return ways, [*family(mlflow.pid), *family(basic.pid), *proxies]


def _admin(basic: BasicAuthMLflow) -> Contestant:
    pair = base64.b64encode(f"admin:{basic.password}".encode()).decode()
    sdk = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": basic.password}
    return Contestant(basic.url, {"Authorization": f"Basic {pair}"}, sdk)


def _prepare(way: Contestant) -> tuple[str, str]:
    """(an experiment with RUNS runs to be found, a run to write to), made through this very way."""
    _wait_until_well(way)  # /health is 200 before all has started
    experiment = _post(way, "experiments/create", name=f"bench {way.url}")["experiment_id"]
    for number in range(RUNS):
        metric = {"key": "loss", "value": number / RUNS, "timestamp": 1}
        _post(way, "runs/log-metric", run_id=_new_run(way, experiment), **metric)
    return experiment, _new_run(way, "0")


def _new_run(way: Contestant, experiment: str) -> str:
    return str(_post(way, "runs/create", experiment_id=experiment)["run"]["info"]["run_id"])


def _post(way: Contestant, path: str, **body: Any) -> Any:
    url = f"{way.url}{API}/{path}"
    response = requests.post(url, json=body, headers=way.headers, timeout=30)
    response.raise_for_status()
    return response.json()


def _wait_until_well(way: Contestant) -> None:
    """Return when a way works again: after many writes at once MLflow may give no response for a
    while, and then a proxy's circuit is open."""
    deadline = time.monotonic() + UNWELL
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            _post(way, "experiments/search", max_results=1)
            return
        time.sleep(1.0)


def _load(way: Contestant, call: str, connections: int, prepared: tuple[str, str]) -> wrk.Load:
    experiment, run = prepared
    body = CALLS[call].replace("@EXPERIMENT", experiment).replace("@RUN", run)
    headers = {**way.headers, "Content-Type": "application/json"}
    return wrk.Load(f"{way.url}{API}/{call}", connections, body, headers)


def _one(
    loads: Mapping[str, wrk.Load], seconds: int, rest: Callable[[], None]
) -> Callable[[str], Mapping[str, float]]:
    """A round of one contestant; the first begins with a run that is not measured."""
    slow: dict[str, bool] = {}

    def one(name: str) -> Mapping[str, float]:
        load = loads[name]
        if slow.get(name):
            return {}  # it was measured already
        if name not in slow:
            slow[name] = wrk.run(load, seconds).requests < load.connections
            rest()
        outcome = wrk.run(load, seconds * SLOW if slow[name] else seconds)
        rest()
        return outcome.metrics()

    return one


# --- the SDK's loop ------------------------------------------------------------------------------


def _sdk_loops(bench: Bench, ways: Ways) -> None:
    """Each once, since a peer takes half a minute; then those that the goal compares, again."""

    def one(name: str) -> Mapping[str, float]:
        way = ways[name]
        settings = QUIET | {"MLFLOW_TRACKING_URI": way.url} | dict(way.sdk)
        command = [sys.executable, "-c", PROGRAM, str(bench.effort.steps)]
        printed = subprocess.check_output(command, env=os.environ | settings)
        return {"seconds": float(printed.split()[-1])}

    bench.alternate(SDK_LOOP, list(ways), 1, "seconds", one)
    bench.alternate(SDK_LOOP, (DIRECT, PROXY), bench.effort.rounds - 1, "seconds", one)


# --- tables and goals ----------------------------------------------------------------------------


def tables(results: Results) -> Iterator[str]:
    """Times, rates, and the SDK's loop: a row a case, a column a contestant."""
    calls = [case for case in results.cases if case != SDK_LOOP]
    names = measured_in(results, *calls)
    for caption, cases, metric in (
        ("Median time of a call, ms; calls × connections (less is better):", calls, "p50_ms"),
        ("Requests per second (more is better):", calls, "rps"),
        ("The SDK's training loop, s (less is better):", [SDK_LOOP], "seconds"),
    ):
        rows = {
            case: [
                *(results.median(case, name, metric) for name in names),
                results.ratio(case, metric, PROXY, DIRECT),
            ]
            for case in cases
        }
        yield table(caption, ["", *names, "proxy ÷ direct"], rows)


def goals(results: Results, machine: Description) -> Iterator[Goal]:
    """Faster through the proxy than without it, and than through its peers."""
    for call in CALLS:
        ratio = results.ratio(f"{call} × 1", "p50_ms", PROXY, DIRECT)
        yield Goal(f"{call}: p50 ÷ direct, 1 connection", "≤", 0.35, ratio)
    for call in CALLS:
        ratio = results.ratio(f"{call} × 8", "rps", PROXY, DIRECT)
        yield Goal(f"{call}: requests/s ÷ direct, 8 connections", "≥", 1.2, ratio)
    loop = results.ratio(SDK_LOOP, "seconds", PROXY, DIRECT)
    yield Goal("the SDK's loop: time ÷ direct", "≤", 0.4, loop)
    for peer in (*PEERS, BASIC_AUTH):
        remark, ratio = worst(_beside(results, peer)) or ("not measured", None)
        yield Goal(f"beats {peer}: worst ratio", "<", 1.0, ratio, remark)


def _beside(results: Results, peer: str) -> Iterator[tuple[str, float | None]]:
    for case in results.cases:
        yield f"{case}, p50", results.ratio(case, "p50_ms", PROXY, peer)
        yield f"{case}, requests/s", results.ratio(case, "rps", peer, PROXY)
        yield case, results.ratio(case, "seconds", PROXY, peer)


def worst(ratios: Iterable[tuple[str, float | None]]) -> tuple[str, float] | None:
    """The largest of the named ratios, with its name; None where all are missing."""
    known = [(name, ratio) for name, ratio in ratios if ratio is not None]
    return max(known, key=lambda pair: pair[1]) if known else None
